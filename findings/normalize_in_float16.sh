#!/usr/bin/env bash
# torch 2.13.0: in float16, normalize makes a zero vector NaN, and a long vector 0; in bfloat16 it does neither.
#
# Guess:  `eps` keeps a zero vector at zero in every dtype, as the documentation's formula says, and any finite vector
#         comes out with length 1. bfloat16 has fewer digits, so it is the one to be careful with.
# Seen:   the default eps of 1e-12 is rounded to float16, where it is 0: 0 / 0. cosine_similarity's 1e-8 is 0 there too.
#         And a length above 65504, as of 384 numbers of 4,000, is infinity, so all become 0. bfloat16 has float32's
#         range. sentence-transformers' normalize_embeddings returns the same; its cos_sim does not.
#
# Output, 2026-11-29, Python 3.11:
#     float16  normalize: zeros nan, length 78384: 0.0; cosine_similarity of zeros: nan
#     bfloat16 normalize: zeros 0.0, length 78384: 1.0; cosine_similarity of zeros: 0.0
#     float32  normalize: zeros 0.0, length 78384: 1.0; cosine_similarity of zeros: 0.0
#     sentence-transformers, float16: normalize_embeddings of zeros nan, length of the long vector 0.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 sentence-transformers==6.2.0 numpy==2.4.6

"$work/venv/bin/python" - <<'PYTHON'
import math

import torch
from sentence_transformers.util import cos_sim, normalize_embeddings
from torch.nn.functional import cosine_similarity, normalize

zeros, long = torch.zeros(1, 384), torch.full((1, 384), 4000.0)
seen = {}
for dtype in (torch.float16, torch.bfloat16, torch.float32):
    z, x = zeros.to(dtype), long.to(dtype)
    first = normalize(z)[0, 0].item()
    length = round(normalize(x).float().norm().item(), 2)
    cosine = cosine_similarity(z, z).item()
    name = str(dtype).removeprefix("torch.")
    print(f"{name:8} normalize: zeros {first}, length 78384: {length}; cosine_similarity of zeros: {cosine}")
    seen[name] = first, length, cosine
z, x = zeros.half(), long.half()
theirs, length = normalize_embeddings(z)[0, 0].item(), normalize_embeddings(x).float().norm().item()
print(f"sentence-transformers, float16: normalize_embeddings of zeros {theirs}, length of the long vector {length}")
first, length_of_half, of_zeros = seen["float16"]
assert math.isnan(first) and math.isnan(of_zeros) and length_of_half == 0
assert seen["bfloat16"] == seen["float32"] == (0, 1, 0)
assert math.isnan(theirs) and length == 0
assert cos_sim(z, z).item() == 0
PYTHON
