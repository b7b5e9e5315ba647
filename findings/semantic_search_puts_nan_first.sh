#!/usr/bin/env bash
# sentence-transformers 6.2.0: a vector of NaN is the first hit of every query of semantic_search.
#
# Guess:  a score that is not a number is no hit, or comes last, as numpy.argsort puts it; or it raises an error.
# Seen:   torch.topk takes NaN for the largest number, so one damaged vector of a corpus comes before all others, with
#         the score nan, for every query. faiss's exact index leaves it out.
#
# Output, 2026-11-29, Python 3.11:
#     semantic_search: [(2, nan), (0, 1.0), (1, 0.0)]
#     numpy, highest first: [0, 1, 2]
#     faiss: [0, 1, -1]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 sentence-transformers==6.2.0 faiss-cpu==1.15.1 numpy==2.4.6

"$work/venv/bin/python" - <<'PYTHON'
import math

import faiss
import numpy as np
from sentence_transformers.util import semantic_search

corpus = np.array([[1, 0], [0, 1], [np.nan, np.nan]], dtype=np.float32)
hits = semantic_search(corpus[:1], corpus, top_k=3)[0]
found = [(hit["corpus_id"], round(hit["score"], 3)) for hit in hits]
print(f"semantic_search: {found}")
order = np.argsort(-(corpus[:1] @ corpus.T)[0]).tolist()
print(f"numpy, highest first: {order}")
index = faiss.IndexFlatIP(2)
index.add(corpus)
places = index.search(corpus[:1], 3)[1][0].tolist()
print(f"faiss: {places}")
assert found[0][0] == 2 and math.isnan(found[0][1])
assert order == [0, 1, 2]
assert places == [0, 1, -1]
PYTHON
