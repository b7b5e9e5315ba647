"""BERTopic: the encoder as a backend. Passed to BERTopic as it is, it would be ignored for another model."""

from __future__ import annotations

from .shared import Backend, needs

with needs("bertopic"):
    from bertopic.backend import BaseEmbedder


class MinibertBackend(Backend, BaseEmbedder):
    """`BERTopic(..., embedding_model=MinibertBackend(...))`; see `shared.Backend`."""
