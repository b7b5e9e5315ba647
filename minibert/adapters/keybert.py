"""KeyBERT: the encoder as a backend. Passed to KeyBERT as it is, it would be ignored for another model."""

from __future__ import annotations

from .shared import Backend, needs

with needs("keybert"):
    from keybert.backend import BaseEmbedder


class MinibertBackend(Backend, BaseEmbedder):
    """`KeyBERT(..., model=MinibertBackend(...))`; see `shared.Backend`."""
