#!/usr/bin/env bash
# datasets 5.2.0: with_format("numpy") and "torch" turn stored float16 vectors into float32, and int8 and uint8 into int64.
#
# Guess:  a column of float16, int8 or uint8 vectors comes out of with_format("numpy") as it is stored, as its `features`
#         say: 384 bytes for a vector of 384 codes, and np.unpackbits takes a column of bits.
# Seen:   `features` keep the type, and the values have another one, up to eight times as large. Only an explicit dtype
#         gives the stored one.
#
# Output, 2026-11-28:
#     float16: features List(Value('float16'), length=4); numpy float32, torch torch.float32; with dtype= float16
#     int8: features List(Value('int8'), length=4); numpy int64, torch torch.int64; with dtype= int8
#     uint8: features List(Value('uint8'), length=4); numpy int64, torch torch.int64; with dtype= uint8
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet datasets==5.2.0 numpy==2.4.6 torch==2.13.0
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1

"$work/venv/bin/python" - "$work/vectors.parquet" <<'PYTHON'
import sys

import numpy as np
import pyarrow as pa
from datasets import Dataset
from pyarrow import parquet

for stored, numpy_gives in (("float16", "float32"), ("int8", "int64"), ("uint8", "int64")):
    vectors = np.arange(8).astype(stored)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors), 4)
    parquet.write_table(pa.table({"embedding": column}), sys.argv[1])
    dataset = Dataset.from_parquet(sys.argv[1])
    kinds = [dataset.with_format(form)[:]["embedding"].dtype for form in ("numpy", "torch")]
    asked = dataset.with_format("numpy", dtype=stored)[:]["embedding"].dtype
    print(f"{stored}: features {dataset.features['embedding']}; numpy {kinds[0]}, torch {kinds[1]}; with dtype= {asked}")
    assert stored in str(dataset.features["embedding"])
    assert (str(kinds[0]), str(kinds[1]), str(asked)) == (numpy_gives, f"torch.{numpy_gives}", stored)
PYTHON
