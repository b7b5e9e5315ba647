#!/usr/bin/env bash
# torch 2.13.0: sum() and mean() of a nested tensor made by torch.nested.narrow count the padding that it leaves out.
#
# Guess:  narrow makes a ragged view of a padded batch, so what lies beyond the lengths is no part of it: numel() says
#         so, unbind() and additions keep to it, and sum(1), over the ragged dimension, refuses a view with holes
#         because it can't skip them. A sum of everything refuses them, too, or skips them.
# Seen:   sum(), mean(), max(), all() and square().mean() reduce the whole padded tensor without a word, and gradients
#         reach the padding. One NaN in it makes a loss NaN. After .contiguous(), which copies the rows, all is right.
#
# Output, 2026-11-29:
#     rows of 2, 3 and 1 of 4 tokens, padding 100: numel 6
#     narrow        sum 615.0  mean 51.25  max 100.0  all below 7 False  NaN in padding: sum nan
#     .contiguous() sum 15.0  mean 2.5  max 5.0  all below 7 True  NaN in padding: sum 15.0
#     sum(1) of the narrow one: not supported for non-contiguous nested tensors with holes
#     numbers that the sum has a gradient for: 12
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6

"$work/venv/bin/python" -W ignore - <<'PYTHON'
import math

import torch


def ragged(lengths, padding):
    """The numbers 0, 1, ... in rows of these lengths: a padded tensor (B, 4, 1), and the view without the padding."""
    lengths = torch.tensor(lengths)
    padded = torch.full((len(lengths), 4, 1), padding)
    padded[torch.arange(4) < lengths[:, None]] = torch.arange(float(lengths.sum()))[:, None]
    padded.requires_grad_()
    return padded, torch.nested.narrow(padded, 1, torch.zeros_like(lengths), lengths, layout=torch.jagged)


padded, narrow = ragged([2, 3, 1], 100.0)
assert torch.equal(torch.cat(narrow.unbind())[:, 0], torch.arange(6.0))
assert torch.equal(torch.cat((narrow + 1).unbind())[:, 0], torch.arange(6.0) + 1)
print("rows of 2, 3 and 1 of 4 tokens, padding 100: numel", narrow.numel())
assert narrow.numel() == 6
with_nan, seen = ragged([2, 3, 1], math.nan)[1], []
for name, nested, other in (
    ("narrow", narrow, with_nan),
    (".contiguous()", narrow.contiguous(), with_nan.contiguous()),
):
    total, mean, highest = nested.sum().item(), nested.mean().item(), nested.max().item()
    below, of_nan = (nested < 7).all().item(), other.sum().item()
    numbers = f"sum {total}  mean {mean}  max {highest}  all below 7 {below}  NaN in padding: sum {of_nan}"
    print(f"{name:13} {numbers}")
    seen.append((total, mean, highest, below, math.isnan(of_nan)))
assert seen == [(615, 51.25, 100, False, True), (15, 2.5, 5, True, False)]
try:
    narrow.sum(1)
except RuntimeError as error:
    refusal = "not supported for non-contiguous nested tensors with holes"
    assert refusal in str(error), error
    print("sum(1) of the narrow one:", refusal)
else:
    raise AssertionError("sum(1) does not refuse any more")
reached = int((torch.autograd.grad(narrow.sum(), padded)[0] != 0).sum())
print("numbers that the sum has a gradient for:", reached)
assert reached == 12
PYTHON
