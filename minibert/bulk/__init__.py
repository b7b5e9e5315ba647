"""Whole corpora: files to shards of vectors, exact search in them, and mining. docs/corpora.md shows them in use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .corpus import embed_corpus as embed_corpus
    from .job import JobError as JobError
    from .mining import community_detection as community_detection
    from .mining import paraphrase_mining as paraphrase_mining
    from .mining import paraphrase_mining_embeddings as paraphrase_mining_embeddings
    from .ray import Embedder as Embedder
    from .search import Index as Index
    from .search import semantic_search as semantic_search
    from .settings import CorpusReport as CorpusReport

_NAMES = {
    "corpus": "embed_corpus",
    "job": "JobError",
    "mining": "community_detection paraphrase_mining paraphrase_mining_embeddings",
    "ray": "Embedder",
    "search": "Index semantic_search",
    "settings": "CorpusReport",
}
_FILES = {name: file for file, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_FILES)


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module 'minibert.bulk' has no attribute {name!r}")
    value = getattr(import_module(f".{_FILES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
