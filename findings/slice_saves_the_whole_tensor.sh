#!/usr/bin/env bash
# safetensors 0.5.3 and 0.8.0: a small slice of a tensor in a file has the whole tensor as its storage.
#
# Guess:  safe_open(...).get_slice(name)[0:4] reads, and holds, four numbers: that is what slices of a file are for.
# Seen:   it is a view into the whole tensor. torch.save, which writes storages, makes a file of 16 MiB of it, not 1 KiB,
#         and so does everything that pickles or shares tensors. `.clone()` first makes it four numbers.
#
# Output, 2026-11-28:
#     0.5.3 4 numbers, storage 16777216 bytes, saved 16778559 bytes, saved as a clone 1407 bytes
#     0.8.0 4 numbers, storage 16777216 bytes, saved 16778559 bytes, saved as a clone 1407 bytes
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy

cat >"$work/show.py" <<'PYTHON'
import os
import sys

import safetensors
import torch
from safetensors.torch import save_file

path, size = sys.argv[1], 16 * 2**20
save_file({"table": torch.zeros(size // 4)}, path)
with safetensors.safe_open(path, "pt") as file:
    part = file.get_slice("table")[0:4]
torch.save(part, f"{path}.part")
torch.save(part.clone(), f"{path}.clone")
storage, saved, cloned = part.untyped_storage().nbytes(), *map(os.path.getsize, (f"{path}.part", f"{path}.clone"))
told = f"storage {storage} bytes, saved {saved} bytes, saved as a clone {cloned} bytes"
print(safetensors.__version__, part.numel(), f"numbers, {told}")
assert part.shape == (4,)
assert storage == size
assert saved > size
assert cloned < 4096
PYTHON

for version in 0.5.3 0.8.0; do
    "$work/venv/bin/pip" install --quiet "safetensors==$version"
    "$work/venv/bin/python" "$work/show.py" "$work/file.safetensors"
done
