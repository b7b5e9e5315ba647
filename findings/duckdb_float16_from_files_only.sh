#!/usr/bin/env bash
# duckdb 2.0.1: float16 vectors are read from a Parquet file, and refused in the Arrow table that the file was made of.
#
# Guess:  DuckDB reads an Arrow table in memory as it reads the same table from a Parquet file. That is how it is used
#         from Python: `duckdb.sql("SELECT ... FROM table")`.
# Seen:   From the file the lists are FLOAT[], with every value exact. From memory it is NotImplementedException, which
#         names the type by its letter in Arrow's C interface, "e". Polars takes the table. pyarrow itself, which wrote
#         the file, can't compare or sum float16.
#
# Output, 2026-11-29, Python 3.11:
#     from the file: [([1.5, 65504.0], 'FLOAT[]')]
#     from memory: NotImplementedException: Not implemented Error: Unsupported Internal Arrow Type e
#     the vectors cast to float32, from memory: [((1.5, 65504.0),)]
#     polars, from memory: array[f16, 2]
#     pyarrow, sum: ArrowNotImplementedError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet duckdb==2.0.1 pyarrow==26.0.1 polars==2.1.0 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

numbers = pa.array(np.array([1.5, 65504.0], dtype=np.float16))
in_memory = pa.table({"vector": pa.FixedSizeListArray.from_arrays(numbers, 2)})
pq.write_table(in_memory, "vectors.parquet")
stored = duckdb.sql("SELECT vector, typeof(vector) FROM 'vectors.parquet'").fetchall()
print(f"from the file: {stored}")
refused = ""
try:
    duckdb.sql("SELECT vector FROM in_memory").fetchall()
except duckdb.NotImplementedException as error:
    refused = str(error)
    print(f"from memory: NotImplementedException: {refused}")
wide = pa.table({"vector": in_memory["vector"].cast(pa.list_(pa.float32(), 2))})
cast = duckdb.sql("SELECT vector FROM wide").fetchall()
print(f"the vectors cast to float32, from memory: {cast}")
kind = polars.from_arrow(in_memory)["vector"].dtype
print(f"polars, from memory: array[f16, {kind.shape[0]}]" if kind.inner == polars.Float16 else kind)
try:
    summed = pc.sum(numbers)
except pa.ArrowNotImplementedError as error:
    summed = None
    print(f"pyarrow, sum: {type(error).__name__}")
assert stored == [([1.5, 65504.0], "FLOAT[]")]
assert "Unsupported Internal Arrow Type e" in refused
assert [list(row[0]) for row in cast] == [[1.5, 65504.0]]
assert kind.inner == polars.Float16
assert summed is None
PYTHON
