#!/usr/bin/env bash
# usearch 2.26.6: the Hamming distance of dtype "uint8" looks at the first `ndim` BITS of vectors of `ndim` bytes.
#
# Guess:  vectors of 48 bytes are Index(ndim=48, metric="hamming", dtype="uint8"), which compares all 384 bits.
# Seen:   it accepts the vectors, and counts differences in their first 48 bits, 6 bytes, only. All 384 are compared by
#         dtype="b1" and ndim=384. That one without a metric takes another one than Hamming, and each distance is NaN.
#
# Output, 2026-11-28 (two vectors, all of whose bits differ from the 49th on):
#     uint8, ndim 48: distance 0.0
#     b1, ndim 384: distance 336.0
#     b1, ndim 384, no metric: distance nan
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet usearch==2.26.6 numpy==2.4.6

"$work/venv/bin/python" - <<'PYTHON'
import math

import numpy as np
from usearch.index import Index

one = np.zeros((1, 48), np.uint8)
other = np.full(48, 255, np.uint8)
other[:6] = 0  # alike in the first 48 bits
ways = {
    "uint8, ndim 48": {"ndim": 48, "metric": "hamming", "dtype": "uint8"},
    "b1, ndim 384": {"ndim": 384, "metric": "hamming", "dtype": "b1"},
    "b1, ndim 384, no metric": {"ndim": 384, "dtype": "b1"},
}
seen = []
for name, options in ways.items():
    index = Index(**options)
    index.add(np.array([1]), one)
    seen.append(float(index.search(other, 1, exact=True).distances[0]))
    print(f"{name}: distance {seen[-1]}")
assert seen[:2] == [0, 336], seen
assert math.isnan(seen[2]), seen
PYTHON
