"""KeyBERT: the encoder as a backend. Passed to KeyBERT as it is, it would be ignored for another model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .shared import Model, load, matrix, needs

with needs("keybert"):
    from keybert.backend import BaseEmbedder


class MinibertBackend(BaseEmbedder):
    """Embed documents and words, with the checkpoint's prompt for documents.

    Args:
        model: A name, a folder, or a SentenceEncoder; None: the built-in model.
        encode_kwargs: Keywords of `encode`.
    """

    def __init__(self, model: Model = None, **encode_kwargs: Any) -> None:
        super().__init__(embedding_model=load(model))
        self.options = encode_kwargs

    def embed(self, documents: Iterable[str], verbose: bool = False) -> np.ndarray:
        """Return a vector for each document (n, D). Raises as `encode`."""
        texts = [documents] if isinstance(documents, str) else documents
        return matrix(self.embedding_model.encode_document, texts, {"show_progress_bar": verbose, **self.options})
