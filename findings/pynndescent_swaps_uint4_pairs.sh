#!/usr/bin/env bash
# pynndescent 0.7.0: an index of quantization="uint4" reads each pair of dimensions the wrong way round.
#
# Guess:  4 bits a dimension, and candidates scored again exactly, find nearly what 8 bits find.
# Seen:   where 8 bits find all of the ten nearest, 4 bits find one in twenty. Dimensions 0, 2, ... are packed into the
#         high half of each byte and read from the low half. A query with its dimensions swapped in pairs shows it: by
#         the codes alone, it finds ten times as many of the true neighbours. Nothing warns.
#
# Output, 2026-11-29, Python 3.11:
#     found of the 10 nearest, uint8: 100 %
#     found of the 10 nearest, uint4: 5 %
#     by the codes alone, uint4: 2 %
#     by the codes alone, uint4, dimensions swapped in pairs: 55 %
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pynndescent==0.7.0 numba==0.68.1 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1

"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from pynndescent import NNDescent

random = np.random.default_rng(0)
vectors = random.normal(size=(50, 64))[random.integers(0, 50, 3000)] + random.normal(size=(3000, 64))
vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
queries = vectors[:200]
swapped = queries.reshape(200, 32, 2)[:, :, ::-1].reshape(200, 64).copy()
nearest = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]


def found(index: NNDescent, queries: np.ndarray, **options: int) -> float:
    places = index.query(queries, k=10, **options)[0]
    return float(np.mean([len(set(one) & set(other)) / 10 for one, other in zip(places, nearest)]))


indexes = {kind: NNDescent(vectors.copy(), metric="cosine", quantization=kind, random_state=0)
           for kind in ("uint8", "uint4")}
shares = {kind: found(index, queries) for kind, index in indexes.items()}
for kind, share in shares.items():
    print(f"found of the 10 nearest, {kind}: {100 * share:.0f} %")
plain, turned = (found(indexes["uint4"], each, rerank_width=0) for each in (queries, swapped))
print(f"by the codes alone, uint4: {100 * plain:.0f} %")
print(f"by the codes alone, uint4, dimensions swapped in pairs: {100 * turned:.0f} %")
assert shares["uint8"] > 0.9
assert shares["uint4"] < 0.2
assert plain < 0.1 and turned > 0.4
PYTHON
