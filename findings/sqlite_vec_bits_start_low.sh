#!/usr/bin/env bash
# sqlite-vec 0.1.9: vec_quantize_binary fills bytes from the lowest bit, numpy.packbits from the highest.
#
# Guess:  the signs of a vector are the same bits in every tool, so a query that SQL quantizes can be compared with
#         vectors that NumPy packed, as faiss, usearch and sentence-transformers store them.
# Seen:   the bits within each byte come in the opposite order. Nothing fails, because the lengths agree: the distance
#         of a vector to itself is not 0. With bitorder="little" NumPy packs as sqlite-vec does.
#
# Output, 2026-11-29, Python 3.11:
#     vec_quantize_binary: 0300
#     numpy.packbits: c000
#     distance to itself: 4.0
#     with bitorder="little": 0.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet sqlite-vec==0.1.9 pysqlite3-binary==0.5.4.post2 numpy==2.4.6

"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import pysqlite3
import sqlite_vec

database = pysqlite3.connect(":memory:")
database.enable_load_extension(True)
sqlite_vec.load(database)
vector = np.array([1, 1] + [-1] * 14, dtype=np.float32)


def ask(sql: str, *values: bytes) -> object:
    return database.execute(f"select {sql}", values).fetchone()[0]


theirs = ask("vec_quantize_binary(?)", vector.tobytes())
ours = np.packbits(vector > 0).tobytes()
little = np.packbits(vector > 0, bitorder="little").tobytes()
far, near = (ask("vec_distance_hamming(vec_bit(?), vec_bit(?))", theirs, packed) for packed in (ours, little))
print(f"vec_quantize_binary: {theirs.hex()}")
print(f"numpy.packbits: {ours.hex()}")
print(f"distance to itself: {far}")
print(f'with bitorder="little": {near}')
assert (theirs.hex(), ours.hex()) == ("0300", "c000")
assert far == 4 and near == 0
PYTHON
