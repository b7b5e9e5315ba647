#!/usr/bin/env bash
# torch 2.13.0: on a CPU, layer norm and embedding add gradients up in 16 bits, also for float32 weights, and stop at 256.
#
# Guess:  sums over many rows are kept in float32 and rounded once, as in sum, in the bias of linear, in group_norm. Under
#         autocast all the more: the weights and their gradients are float32. An embedding is `table.index_select(0, ids)`.
# Seen:   layer_norm adds row after row in the dtype of its input, one sum for each thread, and adds those. A bfloat16 sum
#         of ones stays at 256, so 10,000 tokens give 256 with one thread and 512 with two. So does the float32 bias of a
#         layer norm after a linear layer, under autocast. An embedding adds in its table's dtype, index_select does not.
#         BERT's token type 0 occurs at every token. With other numbers nothing stops, but digits are lost: below, the
#         gradient of 8,192 normal numbers around 0.1 is wrong by a fifth. x.float() before the layer norm is right.
#
# Output, 2026-11-29:
#     10,000 gradients of 1    1 thread  2 threads
#     layer_norm, bfloat16        256.0      512.0
#     layer_norm, autocast        256.0      512.0
#     the same of x.float()     10000.0    10000.0
#     linear, bfloat16           9984.0     9984.0
#     group_norm, bfloat16       9984.0     9984.0
#     embedding, bfloat16         256.0      256.0
#     index_select, bfloat16     9984.0     9984.0
#     8,192 normal numbers around 0.1, one thread: layer_norm wrong by 0.210, embedding by 0.210, linear by 0.001
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6

"$work/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn.functional import embedding, group_norm, layer_norm, linear

torch.manual_seed(0)
wide, narrow = torch.float32, torch.bfloat16


def gradient(compute, dtype, upstream):
    """The gradient of what `compute` adds to each row of 8, a bias or a table's only row, if the rows' are these."""
    b = torch.zeros(8, dtype=dtype, requires_grad=True)
    x = torch.randn(len(upstream), 8, generator=torch.Generator().manual_seed(1))
    (compute(x, b) * upstream).sum().backward()
    assert b.grad.dtype == dtype
    return b.grad.float()


def under_autocast(x, b):
    with torch.autocast("cpu", dtype=narrow):
        hidden = linear(x, torch.eye(8))
        assert hidden.dtype == narrow and b.dtype == wide
        return layer_norm(hidden, (8,), torch.ones(8), b)


def zeros(x):
    return torch.zeros(len(x), dtype=torch.int64)


CASES = {
    "layer_norm, bfloat16": (lambda x, b: layer_norm(x.to(narrow), (8,), torch.ones(8, dtype=narrow), b), narrow),
    "layer_norm, autocast": (under_autocast, wide),
    "the same of x.float()": (lambda x, b: layer_norm(x.to(narrow).float(), (8,), torch.ones(8), b), wide),
    "linear, bfloat16": (lambda x, b: linear(x.to(narrow), torch.eye(8, dtype=narrow), b), narrow),
    "group_norm, bfloat16": (lambda x, b: group_norm(x.to(narrow), 2, torch.ones(8, dtype=narrow), b), narrow),
    "embedding, bfloat16": (lambda x, b: embedding(zeros(x), b[None]), narrow),
    "index_select, bfloat16": (lambda x, b: b[None].index_select(0, zeros(x)), narrow),
}
STOP = {"layer_norm, bfloat16": (256, 512), "layer_norm, autocast": (256, 512), "embedding, bfloat16": (256, 256)}
ones, seen = torch.ones(10_000, 8), {}
for threads in (1, 2):
    torch.set_num_threads(threads)
    for name, (compute, dtype) in CASES.items():
        found = gradient(compute, dtype, ones.to(narrow))
        assert (found == found[0]).all()
        seen[name, threads] = found[0].item()
print("10,000 gradients of 1    1 thread  2 threads")
for name in CASES:
    print(f"{name:22} {seen[name, 1]:10} {seen[name, 2]:10}")
    if name in STOP:
        assert (seen[name, 1], seen[name, 2]) == STOP[name]
    else:
        assert abs(seen[name, 1] - 10_000) <= 16 and seen[name, 1] == seen[name, 2]

torch.set_num_threads(1)
some = (torch.randn(8192, 8) + 0.1).to(narrow)
true = some.double().sum(0)
norm, table, line = (
    ((gradient(*CASES[f"{name}, bfloat16"], some) - true).norm() / true.norm()).item()
    for name in ("layer_norm", "embedding", "linear")
)
wrong = f"layer_norm wrong by {norm:.3f}, embedding by {table:.3f}, linear by {line:.3f}"
print("8,192 normal numbers around 0.1, one thread:", wrong)
assert min(norm, table) > 0.1 and line < 0.01
PYTHON
