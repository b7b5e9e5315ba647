#!/usr/bin/env bash
# lancedb 0.40.0: vectors given in rows become float32, or uint8 where no number is negative; their dtype is ignored.
#
# Guess:  a table that is made from [{"vector": array, ...}] keeps the array's dtype, as one made from Arrow does.
# Seen:   float16 and float64 become float32. int8 vectors become float32 too if one of their numbers is negative, and
#         uint8 if none is. The values of the first rows decide, so a table that began without a negative number refuses
#         the rows that have one.
#
# Output, 2026-11-29, Python 3.11, pyarrow 26.0.1, numpy 2.4.6:
#     rows: float16 -> float, float32 -> float, float64 -> float, int8 -> float, int8 from 0 on -> uint8
#     arrow: float16 -> halffloat, float32 -> float, float64 -> double, int8 -> int8, int8 from 0 on -> int8
#     a negative number later: Can't cast value -3 to type UInt8
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet lancedb==0.40.0 pyarrow==26.0.1 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import lancedb
import numpy as np
import pyarrow as pa

store = lancedb.connect("store")
signed, unsigned = np.array([[-3, 0, 5, 127], [9, 8, 7, 6]]), np.array([[3, 0, 5, 127], [9, 8, 7, 6]])
vectors = {name: signed.astype(name) for name in ("float16", "float32", "float64", "int8")}
vectors["int8 from 0 on"] = unsigned.astype(np.int8)


def rows(x):
    return [{"vector": row} for row in x]


def arrow(x):
    return pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])})


found = {}
for way in (rows, arrow):
    for number, (name, x) in enumerate(vectors.items()):
        table = store.create_table(f"{way.__name__}{number}", way(x))
        found[way.__name__, name] = str(table.schema.field("vector").type.value_type)
    print(f"{way.__name__}: {', '.join(f'{name} -> {found[way.__name__, name]}' for name in vectors)}")
try:
    store.open_table("rows4").add(rows(vectors["int8"]))
except ValueError as error:
    print("a negative number later:", message := str(error).split("Cast error: ")[1].split(",")[0])

assert [found["rows", name] for name in vectors] == ["float", "float", "float", "float", "uint8"]
assert [found["arrow", name] for name in vectors] == ["halffloat", "float", "double", "int8", "int8"]
assert "-3" in message, message
PYTHON
