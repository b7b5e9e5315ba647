#!/usr/bin/env bash
# redisvl 0.28.0: vectorizers and queries of dtype="int8" or "uint8" write every unit vector as zeros.
#
# Guess:  dtype="int8" makes int8 codes of the floats, or says that it can't. The library has a migration that does.
# Seen:   the floats are cast, which cuts them towards zero. Components of a unit vector lie between -1 and 1, so two
#         opposite texts have the same bytes, all zero, in the index and in a query. Nothing warns. The migration
#         scales each vector instead, so an index that was migrated to int8 is asked with zeros. "float16" and
#         "bfloat16" do what they say.
#
# Output, 2026-11-29, Python 3.11:
#     a vectorizer of float32: cdcc4c3f9a9919bf cdcc4cbf9a99193f
#     a vectorizer of float16: 663acdb8 66bacd38
#     a vectorizer of bfloat16: 4d3f1abf 4dbf1a3f
#     a vectorizer of int8: 0000 0000
#     a vectorizer of uint8: 0000 0000
#     a query of int8: 0000
#     the migration to int8: 7f80 807f
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet redisvl==0.28.0 ml_dtypes==0.5.4 numpy==2.4.6

"$work/venv/bin/python" -W error::RuntimeWarning - <<'PYTHON'
import numpy as np
from redisvl.migration.quantize import convert_vectors
from redisvl.query import VectorQuery
from redisvl.utils.vectorize import CustomVectorizer

UNIT = {"warm": [0.8, -0.6], "cold": [-0.8, 0.6]}
written = {}
for dtype in ("float32", "float16", "bfloat16", "int8", "uint8"):
    vectorizer = CustomVectorizer(embed=lambda text: UNIT.get(text, [1.0, 0.0]), dtype=dtype)
    written[dtype] = [vectorizer.embed(text, as_buffer=True) for text in UNIT]
    print(f"a vectorizer of {dtype}:", *(each.hex() for each in written[dtype]))
query = VectorQuery(UNIT["warm"], "vector", dtype="int8").params["vector"]
print("a query of int8:", query.hex())
stored = {text: {"vector": np.array(vector, np.float32).tobytes()} for text, vector in UNIT.items()}
migrated = convert_vectors(stored, {"vector": {"source": "float32", "target": "int8", "dims": 2}})
print("the migration to int8:", *(each["vector"].hex() for each in migrated.values()))
for dtype in ("float32", "float16", "bfloat16"):
    assert written[dtype][0] != written[dtype][1]
assert written["int8"] == written["uint8"] == [bytes(2), bytes(2)]
assert query == bytes(2)
assert migrated["warm"]["vector"] == b"\x7f\x80" and migrated["cold"]["vector"] == b"\x80\x7f"
PYTHON
