#!/usr/bin/env bash
# sentence-transformers 6.2.0: dot_score of its own int8 embeddings wraps around at 8 bits, without a word.
#
# Guess:  embeddings that `quantize_embeddings` or `encode(precision="int8")` made can be scored by the functions beside
#         it, which widen the numbers as they do for float16, or refuse them.
# Seen:   dot_score multiplies in int8, so a score is the right one modulo 256, and semantic_search with it ranks at
#         random: hardly any vector finds itself. cos_sim raises RuntimeError about a norm. In float32 the same codes
#         find themselves.
#
# Output, 2026-11-29, Python 3.11:
#     dtype of the scores: torch.int8
#     vectors that find themselves, int8: 2 of 50
#     vectors that find themselves, the codes in float32: 50 of 50
#     cos_sim: RuntimeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 sentence-transformers==6.2.0 numpy==2.4.6

"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import torch
from sentence_transformers import quantize_embeddings
from sentence_transformers.util import cos_sim, dot_score, semantic_search

vectors = np.random.default_rng(0).normal(size=(50, 384)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
codes = torch.from_numpy(quantize_embeddings(vectors, "int8"))


def found(codes: torch.Tensor) -> int:
    hits = semantic_search(codes, codes, top_k=1, score_function=dot_score)
    return sum(first["corpus_id"] == i for i, (first,) in enumerate(hits))


dtype = dot_score(codes, codes).dtype
print(f"dtype of the scores: {dtype}")
narrow, wide = found(codes), found(codes.float())
print(f"vectors that find themselves, int8: {narrow} of 50")
print(f"vectors that find themselves, the codes in float32: {wide} of 50")
try:
    cos_sim(codes, codes)
    refused = ""
except RuntimeError as error:
    refused = type(error).__name__
print(f"cos_sim: {refused}")
assert dtype is torch.int8
assert narrow < 10 and wide == 50
assert refused == "RuntimeError"
PYTHON
