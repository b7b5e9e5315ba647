#!/usr/bin/env bash
# distributed 2026.8.0: a torch module that is scattered is taken apart, and its __getstate__ is not asked.
#
# Guess:  client.scatter(module) pickles it, so a module whose __getstate__ leaves out what the other side can load
#         again travels small, as with pickle, joblib, Ray and client.submit(function, module).
# Seen:   Dask serializes each attribute by itself, with all weights, and never calls __getstate__ or __setstate__.
#
# Output, 2026-11-28:
#     pickle: small, __getstate__ called 1 times
#     Dask: 4 MB, __getstate__ called 0 times, __setstate__ called 0 times
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 distributed==2026.8.0

"$work/venv/bin/python" - <<'PYTHON'
import pickle

import torch
from distributed.protocol import deserialize, serialize

called = {"get": 0, "set": 0}


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1000, 1000)

    def __getstate__(self):
        called["get"] += 1
        return {**self.__dict__, "_modules": {}}

    def __setstate__(self, state):
        called["set"] += 1
        super().__setstate__(state)
        self.layer = torch.nn.Linear(1000, 1000)


module = Small()
assert len(pickle.dumps(module)) < 10_000
print(f"pickle: small, __getstate__ called {called['get']} times")
called["get"] = 0
header, frames = serialize(module)  # what scatter does
again = deserialize(header, frames)
size = sum(memoryview(frame).nbytes for frame in frames)
print(f"Dask: {round(size / 1e6)} MB, __getstate__ called {called['get']} times, "
      f"__setstate__ called {called['set']} times")
assert type(again) is Small and size > 4_000_000 and called == {"get": 0, "set": 0}
PYTHON
