#!/usr/bin/env bash
# torch 2.13.0: infinity becomes 448 as float8_e4m3fn, a finite number; ml_dtypes 0.5.4 makes it NaN.
#
# Guess:  a number that a format has no room for becomes infinity, or NaN in a format without infinity, so a diverged
#         weight is still seen after it was stored; and two libraries round one number to the same byte.
# Seen:   torch clamps to the largest number of float8_e4m3fn, infinity too, while it keeps infinity in float8_e5m2
#         and NaN in both. ml_dtypes, which NumPy and JAX use, gives NaN for what torch clamps, from 464 on.
#
# Output, 2026-11-29, Python 3.11:
#     torch e4m3fn: [448.0, 448.0, 448.0, 448.0, nan]
#     torch e5m2: [448.0, 448.0, 512.0, inf, nan]
#     ml_dtypes e4m3fn: [448.0, 448.0, nan, nan, nan]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 ml_dtypes==0.5.4 numpy==2.4.6

"$work/venv/bin/python" - <<'PYTHON'
import ml_dtypes
import numpy as np
import torch

VALUES = [448.0, 460.0, 480.0, float("inf"), float("nan")]


def shown(name: str, values: list[float]) -> list[str]:
    print(f"{name}: {values}")
    return [str(value) for value in values]


narrow = shown("torch e4m3fn", torch.tensor(VALUES).to(torch.float8_e4m3fn).float().tolist())
wide = shown("torch e5m2", torch.tensor(VALUES).to(torch.float8_e5m2).float().tolist())
numpy = shown("ml_dtypes e4m3fn", np.array(VALUES, np.float32).astype(ml_dtypes.float8_e4m3fn).astype(float).tolist())
assert narrow == ["448.0"] * 4 + ["nan"]
assert wide == ["448.0", "448.0", "512.0", "inf", "nan"]
assert numpy == ["448.0", "448.0", "nan", "nan", "nan"]
PYTHON
