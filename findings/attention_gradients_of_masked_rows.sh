#!/usr/bin/env bash
# torch 2.13.0: on a CPU, a query whose keys all have the lowest number as mask sends gradients that are S times too large.
#
# Guess:  a float mask of torch.finfo(dtype).min is the safe one, which -inf is not: a query that may attend to nothing
#         (padding in a block-diagonal mask, a text without tokens) averages all values. Its gradient is that of the
#         average: 1 / S to each of S values. Which kernel computes it is a matter of rounding.
# Seen:   forward it is the average. Backward, the default kernel sends 1 to each value: S times too much, in float32,
#         float64 and bfloat16. For the backward it keeps the logarithm of the sum of the exponents, and the lowest
#         number plus log(S) is the lowest number again, so that each weight comes out as exp(0) = 1. -1e9 does the
#         same in float32, and -1e4 does not. The gradients of queries and keys are wrong, too.
#
# Output, 2026-11-29:
#     float32  S   8 output 0.125    gradient of a value: 1.0      by SDPBackend.MATH: 0.125
#     float32  S 128 output 0.007812 gradient of a value: 1.0      by SDPBackend.MATH: 0.007812
#     float64  S 128 output 0.007812 gradient of a value: 1.0      by SDPBackend.MATH: 0.007812
#     bfloat16 S 128 output 0.007812 gradient of a value: 1.0      by SDPBackend.MATH: 0.007812
#     float32  masked by -1e+09: 1.0, by SDPBackend.MATH: 0.007812
#     float32  masked by -10000: 0.004497, by SDPBackend.MATH: 0.004498
#     gradcheck, float64: MATH True, default False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6

"$work/venv/bin/python" - <<'PYTHON'
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

EVERY = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attend(q, k, v, lowest, kernels):
    mask = torch.full((q.shape[2], k.shape[2]), lowest, dtype=q.dtype)
    with sdpa_kernel(kernels):
        return scaled_dot_product_attention(q, k, v, attn_mask=mask)


def value(size, dtype, lowest, kernels=EVERY):
    """One query, S keys, and a single 1 among the values: what comes out, and the gradient that its value gets."""
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 16, dtype=dtype), torch.randn(1, 1, size, 16, dtype=dtype)
    v = torch.zeros(1, 1, size, 16, dtype=dtype)
    v[0, 0, 3, 0] = 1
    v.requires_grad_()
    out = attend(q, k, v, lowest, kernels)[0, 0, 0, 0]
    return round(out.item(), 6), round(torch.autograd.grad(out, v)[0][0, 0, 3, 0].item(), 6)


for dtype, size in ((torch.float32, 8), (torch.float32, 128), (torch.float64, 128), (torch.bfloat16, 128)):
    lowest = torch.finfo(dtype).min
    (out, gradient), (same, right) = value(size, dtype, lowest), value(size, dtype, lowest, SDPBackend.MATH)
    name = str(dtype).removeprefix("torch.")
    print(f"{name:8} S {size:3} output {out:<8} gradient of a value: {gradient:<8} by SDPBackend.MATH: {right}")
    assert out == same == right == round(1 / size, 6)
    assert gradient == 1
for lowest, is_right in ((-1e9, False), (-1e4, True)):
    gradient, right = (value(128, torch.float32, lowest, kernels)[1] for kernels in (EVERY, SDPBackend.MATH))
    print(f"float32  masked by {lowest:g}: {gradient}, by SDPBackend.MATH: {right}")
    assert abs(gradient / right - 1) < 1e-2 if is_right else gradient == 1 and right == round(1 / 128, 6)

double = [torch.randn(1, 1, 4, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
right, default = (
    torch.autograd.gradcheck(
        partial(attend, *double[:2], lowest=torch.finfo(torch.float64).min, kernels=kernels),
        double[2],
        raise_exception=False,
    )
    for kernels in (SDPBackend.MATH, EVERY)
)
print(f"gradcheck, float64: MATH {right}, default {default}")
assert right and not default
PYTHON
