#!/usr/bin/env bash
# torch 2.13.0: a fused optimizer changes weights in place, and their version counter does not move.
#
# Guess:  every in-place change bumps Tensor._version. A backward after the step raises "modified by an inplace operation".
# Seen:   that is so with foreach=True and foreach=False. With fused=True the backward runs, on a mix of old and new weights.
#         y = p * p * p at p = 2 has the gradient 12. After a fused step to p = 1 (where it would be 3), backward returns 6.
#         Caches that watch _version miss the step, too. SGD, Adam and AdamW behave alike.
#
# Output, 2026-11-28, CPU:
#     SGD    foreach=False version 0 -> 1 refused
#     SGD    foreach=True  version 0 -> 1 refused
#     SGD    fused=True    version 0 -> 0 gradient 6.0, where p was 2 it is 12.0
#     AdamW  fused=True    version 0 -> 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy

"$work/venv/bin/python" - <<'PYTHON'
import torch

assert torch.__version__.startswith("2.13.0"), torch.__version__
for options, refuses in (({"foreach": False}, True), ({"foreach": True}, True), ({"fused": True}, False)):
    p = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = torch.optim.SGD([p], lr=1.0, **options)
    y = (p * p * p).sum()
    before, p.grad = p._version, torch.ones(1)
    optimizer.step()  # p is 1 now
    assert p.item() == 1
    p.grad = None
    head = f"SGD    {'='.join(map(str, *options.items())):13} version {before} -> {p._version}"
    try:
        y.backward()
    except RuntimeError as error:
        assert refuses, error
        assert "modified by an inplace operation" in str(error), error
        assert p._version > before
        print(head, "refused")
    else:
        assert not refuses
        assert p._version == before
        assert p.grad.item() == 6, p.grad  # neither 12 (p = 2) nor 3 (p = 1)
        print(head, f"gradient {p.grad.item()}, where p was 2 it is 12.0")

for optimizer_class in (torch.optim.Adam, torch.optim.AdamW):
    p = torch.nn.Parameter(torch.ones(3))
    before, p.grad = p._version, torch.ones(3)
    optimizer_class([p], lr=0.1, fused=True).step()
    assert not torch.equal(p, torch.ones(3))
    assert p._version == before
    print(f"{optimizer_class.__name__:6} fused=True    version {before} -> {p._version}")
PYTHON
