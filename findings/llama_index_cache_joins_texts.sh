#!/usr/bin/env bash
# llama-index-core 0.14.25: an IngestionPipeline answers new documents with old ones if their texts joined are the same.
#
# Guess:  the cache, which is on by default, saves the work for a node that was transformed before. The id of a document
#         that goes in is the id that comes out.
# Seen:   the key is a hash of all texts of a run, joined without a separator and without ids, and the value is the
#         nodes of that run. The same text under another id comes out under the first id, and one document whose text
#         is that of two old ones comes out as these two. The new ids are nowhere. `disable_cache=True` keeps them.
#
# Output, 2026-11-29, Python 3.11:
#     in: a, b  out: a, b
#     in: c     out: a, b
#     in: d     out: d
#     in: e     out: d
#     in: e     out: e (disable_cache=True)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet llama-index-core==0.14.25 numpy==2.4.6

"$work/venv/bin/python" - <<'PYTHON'
from llama_index.core import Document
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline


class Length(BaseEmbedding):
    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(len(text)), 1.0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


pipeline = IngestionPipeline(transformations=[Length()])
plain = IngestionPipeline(transformations=[Length()], disable_cache=True)


def ids(texts: dict[str, str], pipeline: IngestionPipeline = pipeline) -> str:
    nodes = pipeline.run(documents=[Document(id_=name, text=text) for name, text in texts.items()])
    return ", ".join(node.id_ for node in nodes)


print("in: a, b  out:", two := ids({"a": "It rains. ", "b": "It snows."}))
print("in: c     out:", joined := ids({"c": "It rains. It snows."}))
print("in: d     out:", one := ids({"d": "A man eats."}))
print("in: e     out:", again := ids({"e": "A man eats."}))
print("in: e     out:", without := ids({"e": "A man eats."}, plain), "(disable_cache=True)")
assert (two, joined) == ("a, b", "a, b")
assert (one, again, without) == ("d", "d", "e")
PYTHON
