#!/usr/bin/env bash
# torch 2.13.0: nn.Parameter(w) raises RuntimeError if w is an instance of a plain subclass of nn.Parameter.
#
# Guess:  a subclass of nn.Parameter that adds nothing is a Parameter wherever torch takes one.
# Seen:   it trains, is copied and is saved. But nn.Parameter(w) asks that `w.detach()` be of w's class, and a Parameter's
#         detach() never is. So all that wraps a weight anew fails, as weight_norm does; its message blames
#         __torch_dispatch__, which such a class does not have. A subclass of Tensor passes the same check.
#
# Output, 2026-11-28:
#     2.13.0 nn.Parameter(plain parameter): Parameter
#     2.13.0 nn.Parameter(tensor of a subclass): Named
#     2.13.0 nn.Parameter(parameter of a subclass): RuntimeError
#     2.13.0 weight_norm(linear): RuntimeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/show.py" <<'PYTHON'
import copy

import torch
from torch import nn


class Named(torch.Tensor):
    pass


class Own(nn.Parameter):
    pass


def attempt(make):
    try:
        return type(make()).__name__
    except RuntimeError as error:
        assert "requires that detach() returns an instance of the same type" in str(error), error
        return "RuntimeError"


linear = nn.Linear(2, 2)
linear.weight = Own(linear.weight.detach())
torch.optim.SGD(linear.parameters(), lr=0.1).step()
assert type(linear.weight) is Own and type(copy.deepcopy(linear).weight) is Own
seen = {
    "nn.Parameter(plain parameter)": attempt(lambda: nn.Parameter(nn.Parameter(torch.ones(2)))),
    "nn.Parameter(tensor of a subclass)": attempt(lambda: nn.Parameter(torch.ones(2).as_subclass(Named))),
    "nn.Parameter(parameter of a subclass)": attempt(lambda: nn.Parameter(linear.weight)),
    "weight_norm(linear)": attempt(lambda: nn.utils.parametrizations.weight_norm(linear)),
}
for what, result in seen.items():
    print(f"{torch.__version__.partition('+')[0]} {what}: {result}")
assert list(seen.values()) == ["Parameter", "Named", "RuntimeError", "RuntimeError"], seen
PYTHON

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$work/venv/bin/python" "$work/show.py"
