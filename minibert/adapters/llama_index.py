"""LlamaIndex: the encoder as `BaseEmbedding`."""

from __future__ import annotations

import asyncio
from typing import Any

from .shared import Model, check_arguments, listed, load, many, name_of, needs, one

with needs("llama-index"):
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr


class MinibertEmbedding(BaseEmbedding):
    """Embed queries and texts, each with the checkpoint's prompt for them.

    Args:
        model_name: A name, a folder, or a SentenceEncoder; None: the built-in model.
        model_kwargs: Keywords of `from_pretrained`.
        encode_kwargs: Keywords of `encode`.
        embed_batch_size: Texts that LlamaIndex hands over at once; minibert cuts them into its own batches.
        options: Fields of `BaseEmbedding`.
    """

    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    encode_kwargs: dict[str, Any] = Field(default_factory=dict)
    _model: Any = PrivateAttr()
    _encoder: Any = PrivateAttr()
    model_config = ConfigDict(extra="forbid")

    def __init__(self, model_name: Model = None, *, embed_batch_size: int = 512, **options: Any) -> None:
        check_arguments(**{name: options.get(name) for name in ("model_kwargs", "encode_kwargs")})
        encoder = load(model_name, options.get("model_kwargs"))
        shown = "a SentenceEncoder" if model_name is encoder else name_of(model_name)
        super().__init__(model_name=shown, embed_batch_size=embed_batch_size, **options)
        self._model, self._encoder = model_name, encoder

    @classmethod
    def class_name(cls) -> str:
        """Return the name by which LlamaIndex saves this class."""
        return "MinibertEmbedding"

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["__dict__"]["model_name"] = state["__pydantic_private__"]["_model"]  # LlamaIndex calls `__init__` with it
        super().__setstate__(state)

    def to_dict(self, **options: Any) -> dict[str, Any]:
        """Return what LlamaIndex saves. Raise ValueError for an encoder without a name."""
        return {**super().to_dict(**options), "model_name": name_of(self._model)}

    def get_text_embedding_batch(self, texts: list[str], *arguments: Any, **options: Any) -> list[list[float]]:
        """Return a vector for each text. Raise TypeError for one text, whose letters LlamaIndex would embed."""
        return list(super().get_text_embedding_batch(listed(texts), *arguments, **options))

    def _get_query_embedding(self, query: str) -> list[float]:
        return one(self._encoder.encode_query, query, self.encode_kwargs)

    def _get_text_embedding(self, text: str) -> list[float]:
        return one(self._encoder.encode_document, text, self.encode_kwargs)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return many(self._encoder.encode_document, texts, self.encode_kwargs)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
