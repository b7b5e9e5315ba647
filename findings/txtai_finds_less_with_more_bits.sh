#!/usr/bin/env bash
# txtai 9.14.0: quantize=8 finds fewer of the nearest than quantize=1, because codes are compared by differing bits.
#
# Guess:  `quantize` takes 1 to 8 bits a dimension; more bits cost more memory, and are closer to the floats.
# Seen:   every index of such codes is compared by Hamming distance, which is right for signs only. In 8 bits, 0.001 is
#         10000000 and -0.001 is 01111111, the farthest that two codes can be, while 0.0 and 0.5 differ in one bit. So 8
#         bits take 8 times the memory of 1, and rank worse. The setting of the same name below `faiss` compares
#         numbers, at the same 8 bits.
#
# Output, 2026-11-29, Python 3.11:
#     found of the 10 nearest, by 64 dimensions: quantize=1 59 %, quantize=8 39 %; faiss, quantize=8 99 %
#     found of the 10 nearest, by 384 dimensions: quantize=1 70 %, quantize=8 66 %; faiss, quantize=8 99 %
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet txtai==9.14.0 faiss-cpu==1.15.1 transformers==5.23.0 torch==2.13.0 numpy==2.4.6

"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from txtai import Embeddings


def found(vectors: np.ndarray, **settings: object) -> float:
    nearest = np.argsort(-(vectors @ vectors.T), axis=1)[:, :10]
    index = Embeddings(method="external", transform=lambda texts: vectors[[int(text) for text in texts]], **settings)
    index.index((place, str(place), None) for place in range(1000))
    hits = index.batchsearch([str(place) for place in range(1000)], 10)
    return float(np.mean([len({place for place, _ in each} & set(true)) / 10 for each, true in zip(hits, nearest)]))


random = np.random.default_rng(0)
for width in (64, 384):
    vectors = random.normal(size=(50, width))[random.integers(0, 50, 1000)] + random.normal(size=(1000, width))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    one, eight = (found(vectors, quantize=bits) for bits in (1, 8))
    numbers = found(vectors, faiss={"quantize": 8})
    print(f"found of the 10 nearest, by {width} dimensions: quantize=1 {100 * one:.0f} %, "
          f"quantize=8 {100 * eight:.0f} %; faiss, quantize=8 {100 * numbers:.0f} %")
    assert eight < one - 0.01
    assert numbers > 0.95
PYTHON
