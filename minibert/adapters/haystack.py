"""Haystack: the encoder as components that embed a query's text, and documents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..config import check_count
from .shared import Model, check_arguments, load, many, name_of, needs, one

with needs("haystack"):
    from haystack import Document, component, default_to_dict


class _Embedder:
    """Load the model in `warm_up`, and save the component by the model's name.

    Args:
        model: A name, a folder, or a SentenceEncoder; None: the built-in model.
        prefix, suffix: Put around each text.
        batch_size, progress_bar, normalize_embeddings, truncate_dim: As in `encode`.
        model_kwargs, encode_kwargs: Further keywords of `from_pretrained` and `encode`.

    Raises:
        TypeError: an argument is unknown, or of the wrong type. ValueError: a number is wrong.
    """

    def __init__(
        self,
        model: Model = None,
        prefix: str = "",
        suffix: str = "",
        batch_size: int | None = None,
        progress_bar: bool = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        model_kwargs: dict[str, Any] | None = None,
        encode_kwargs: dict[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        self._init = {name: value for name, value in locals().items() if name not in ("self", "unknown")}
        if unknown:
            raise TypeError(f"{type(self).__name__} got an unexpected keyword: {', '.join(unknown)}")
        check_arguments(prefix=prefix, suffix=suffix, model_kwargs=model_kwargs, encode_kwargs=encode_kwargs)
        check_count("batch_size", batch_size, optional=True)
        check_count("truncate_dim", truncate_dim, optional=True)
        shared = {"normalize_embeddings": normalize_embeddings, "truncate_dim": truncate_dim, "batch_size": batch_size}
        self._options = {**shared, "show_progress_bar": progress_bar, **(encode_kwargs or {})}
        self._encoder: Any = None

    def warm_up(self) -> None:
        """Load the model, once. Raises as `from_pretrained`."""
        self._encoder = self._encoder or load(self._init["model"], self._init["model_kwargs"])

    def to_dict(self) -> dict[str, Any]:
        """Return what Haystack saves. Raise ValueError for an encoder without a name."""
        return default_to_dict(self, **{**self._init, "model": name_of(self._init["model"])})


@component
class MinibertTextEmbedder(_Embedder):
    """Embed one text with the checkpoint's prompt for queries. For the arguments see ``_Embedder``."""

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Return {"embedding": the text's vector}. Raise TypeError if it is not a text."""
        self.warm_up()
        if isinstance(text, str):
            text = self._init["prefix"] + text + self._init["suffix"]
        return {"embedding": one(self._encoder.encode_query, text, self._options)}


@component
class MinibertDocumentEmbedder(_Embedder):
    """Embed documents with the checkpoint's prompt for them. For the other arguments see ``_Embedder``.

    Args:
        meta_fields_to_embed: Fields of `meta` that are put before a document's text.
        embedding_separator: Put between them and the text.
    """

    def __init__(
        self,
        model: Model = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        **options: Any,
    ) -> None:
        fields = [] if meta_fields_to_embed is None else meta_fields_to_embed
        if not isinstance(fields, (list, tuple)) or not all(isinstance(field, str) for field in fields):
            raise TypeError(f"meta_fields_to_embed must be a list of names, not {fields!r:.80}")
        check_arguments(embedding_separator=embedding_separator)
        _Embedder.__init__(self, model, **options)  # Haystack makes a new class, in which `super()` fails
        self._fields, self._separator = list(fields), embedding_separator
        self._init |= {"meta_fields_to_embed": self._fields, "embedding_separator": embedding_separator}

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Return {"documents": copies with their embedding}.

        Raises:
            TypeError: these are not documents. ValueError: one has neither text nor a field to embed.
        """
        self.warm_up()
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise TypeError("expected a list of Documents; a text is for MinibertTextEmbedder")
        vectors = many(self._encoder.encode_document, [self._text(document) for document in documents], self._options)
        pairs = zip(documents, vectors, strict=True)
        return {"documents": [replace(document, embedding=vector) for document, vector in pairs]}

    def _text(self, document: Document) -> str:
        parts = [str(document.meta[field]) for field in self._fields if document.meta.get(field) is not None]
        parts += [] if document.content is None else [document.content]
        if not parts:
            raise ValueError(f"document {document.id} has no text to embed: leave it out, or name a field of its meta")
        return str(self._init["prefix"] + self._separator.join(parts) + self._init["suffix"])
