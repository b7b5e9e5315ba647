"""LangChain: the encoder as `Embeddings`."""

from __future__ import annotations

from typing import Any

from .shared import Model, load, many, name_of, needs, one

with needs("langchain"):
    from langchain_core.embeddings import Embeddings
    from langchain_core.load.serializable import Serializable
    from pydantic import AliasChoices, ConfigDict, Field, PrivateAttr


class MinibertEmbeddings(Serializable, Embeddings):
    """Embed queries and documents, each with the checkpoint's prompt for them.

    Args:
        model, model_name: A name, a folder, or a SentenceEncoder; None: the built-in model.
        model_kwargs: Keywords of `from_pretrained`.
        encode_kwargs, query_encode_kwargs: Keywords of `encode`; for queries the former unless the latter are given.
    """

    model: Any = Field(None, validation_alias=AliasChoices("model", "model_name"))
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    encode_kwargs: dict[str, Any] = Field(default_factory=dict)
    query_encode_kwargs: dict[str, Any] | None = None
    _encoder: Any = PrivateAttr()
    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    def __init__(self, model: Model = None, **options: Any) -> None:
        super().__init__(**options if model is None else {"model": model, **options})
        self._encoder = load(self.model, self.model_kwargs)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text. Raises as `encode`."""
        return many(self._encoder.encode_document, texts, self.encode_kwargs)

    def embed_query(self, text: str) -> list[float]:
        """Return the query's vector. Raises as `encode`."""
        own = self.query_encode_kwargs
        return one(self._encoder.encode_query, text, self.encode_kwargs if own is None else own)

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return True: `langchain_core.load.dumps` saves the model's name and the keywords."""
        return True

    def to_json(self) -> Any:
        """Return what LangChain saves. Raise ValueError for an encoder without a name."""
        saved = super().to_json()
        saved["kwargs"]["model"] = name_of(self.model)
        return saved
