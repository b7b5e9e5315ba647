"""Chroma: the encoder as an embedding function, which collections open again by its name."""

from __future__ import annotations

from typing import Any

import numpy as np

from .shared import Model, check_arguments, load, matrix, name_of, needs

with needs("chroma"):
    from chromadb.api.types import Documents, EmbeddingFunction
    from chromadb.utils.embedding_functions import register_embedding_function


@register_embedding_function
class MinibertEmbeddingFunction(EmbeddingFunction[Documents]):
    """Embed documents and queries, each with the checkpoint's prompt for them.

    Import this file before you open a collection that was made with it: that registers the name "minibert".

    Args:
        model_name: A name, a folder, or a SentenceEncoder; None: the built-in model.
        device: As in `from_pretrained`.
        normalize_embeddings: As in `encode`.
        model_kwargs, encode_kwargs: Further keywords of `from_pretrained` and `encode`.

    Raises:
        ValueError: no name brings this SentenceEncoder again. TypeError: keywords are not in a dict. Others as
            `from_pretrained`.
    """

    def __init__(
        self,
        model_name: Model = None,
        device: str | None = None,
        normalize_embeddings: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        encode_kwargs: dict[str, Any] | None = None,
    ) -> None:
        check_arguments(model_kwargs=model_kwargs, encode_kwargs=encode_kwargs)
        saved = name_of(model_name)  # Chroma would ignore an error later, and open the collection with another model
        self._init = {name: value for name, value in locals().items() if name not in ("self", "saved")}
        self._init["model_name"] = saved
        self._encoder = load(model_name, {**(model_kwargs or {}), **({"device": device} if device else {})})
        self._options = {"normalize_embeddings": normalize_embeddings, **(encode_kwargs or {})}

    def __call__(self, input: Documents) -> list[np.ndarray]:  # noqa: A002 (Chroma's name)
        """Return a vector for each document. Raises as `encode`."""
        return list(matrix(self._encoder.encode_document, input, self._options))

    def embed_query(self, input: Documents) -> list[np.ndarray]:  # noqa: A002
        """Return a vector for each query. Raises as `encode`."""
        return list(matrix(self._encoder.encode_query, input, self._options))

    @staticmethod
    def name() -> str:
        """Return the name in a collection's settings."""
        return "minibert"

    def default_space(self) -> Any:
        """Return the checkpoint's own measure, as Chroma calls it."""
        return {"cosine": "cosine", "dot": "ip"}.get(self._encoder.similarity_fn_name, "l2")

    def get_config(self) -> dict[str, Any]:
        """Return what a collection keeps."""
        return dict(self._init)

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> MinibertEmbeddingFunction:
        """Return the function that a collection was made with. Raises as `from_pretrained`."""
        return MinibertEmbeddingFunction(**config)
