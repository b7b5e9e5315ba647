#!/usr/bin/env bash
# chromadb 1.5.9: an embedding function that refuses to give its configuration is replaced by another one.
#
# Guess:  if get_config() raises ValueError because the function can't be saved, create_collection raises it too.
# Seen:   create_collection gives a DeprecationWarning. Whoever opens the collection again gets the default function,
#         another model whose vectors do not fit, without an error.
#
# Output, 2026-11-28:
#     create_collection: DeprecationWarning, legacy embedding function config
#     opened again: DefaultEmbeddingFunction
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet chromadb==1.5.9 numpy==2.4.6
export ANONYMIZED_TELEMETRY=False

"$work/venv/bin/python" - "$work/chroma" <<'PYTHON'
import sys
import warnings

import chromadb
import numpy as np
from chromadb.api.types import EmbeddingFunction


class Own(EmbeddingFunction):
    def __init__(self):
        pass

    def __call__(self, input):
        return [np.ones(3, dtype=np.float32) for _ in input]

    @staticmethod
    def name():
        return "own"

    def get_config(self):
        raise ValueError("this model can't be saved")

    @staticmethod
    def build_from_config(config):
        return Own()


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    chromadb.PersistentClient(sys.argv[1]).create_collection("texts", embedding_function=Own())
legacy = [str(each.message) for each in caught if "legacy embedding function config" in str(each.message)]
print(f"create_collection: {caught[0].category.__name__}, {legacy[0].split(':')[0]}")
again = chromadb.PersistentClient(sys.argv[1]).get_collection("texts")._embedding_function
print(f"opened again: {type(again).__name__}")
assert type(again).__name__ == "DefaultEmbeddingFunction"
PYTHON
