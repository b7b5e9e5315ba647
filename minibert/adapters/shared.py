"""What adapters share: the error for a missing library, an encoder by its name, and vectors as lists of floats."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..call import as_list
from ..checkpoint.hub import DEFAULT_MODEL
from ..config import FileError
from ..encoder import SentenceEncoder

Model = SentenceEncoder | str | os.PathLike[str] | None  # ready, or the name or folder by which to load it
PROBE = "A man is eating food."


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Say what to install where an import inside the with statement fails, as an ImportError."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f'this adapter needs {error.name}: pip install "minibert-encoder[{extra}]"', name=error.name
        ) from error


def check_arguments(**arguments: Any) -> None:
    """Raise TypeError for a wrong argument of an adapter, by its name, which says what it must be.

    `..._kwargs` are a dict of names or None, other ones a string.
    """
    for name, value in arguments.items():
        if name.endswith("_kwargs"):
            if value is not None and not (isinstance(value, Mapping) and all(isinstance(key, str) for key in value)):
                raise TypeError(f"{name} must be a dict of keywords, not {value!r:.80}")
        elif not isinstance(value, str):
            raise TypeError(f"{name} must be a string, not {value!r:.80}")


def load(model: Model = None, options: Mapping[str, Any] | None = None) -> SentenceEncoder:
    """Return a ready encoder itself, and otherwise load one with these keywords of `from_pretrained`.

    Raises:
        TypeError: the model is neither. ValueError: a ready encoder with keywords. Others as `from_pretrained`.
    """
    if isinstance(model, SentenceEncoder):
        if options:
            raise ValueError(f"a ready encoder takes no {', '.join(options)}: load it so, or give its name instead")
        return model
    return SentenceEncoder.from_pretrained(name_of(model), **(options or {}))


def name_of(model: Model) -> str:
    """Return the name that a library saves in the model's place.

    Raises:
        ValueError: a ready encoder, whose name does not bring the same vectors again. TypeError: none of these.
    """
    if not isinstance(model, SentenceEncoder):
        if not isinstance(model, (str, os.PathLike, type(None))):
            raise TypeError(f"the model must be a name, a folder or a SentenceEncoder, not {type(model).__name__}")
        return os.fspath(model or DEFAULT_MODEL)
    report = getattr(model.model, "report", None)
    try:
        if report is not None and _alike(model, SentenceEncoder.from_pretrained(report.source, device=model.device)):
            return str(report.source)
    except (FileError, OSError):
        pass  # nothing is there by that name
    raise ValueError("no name brings this encoder again: save_pretrained(folder), and give the adapter the folder")


def _alike(a: SentenceEncoder, b: SentenceEncoder) -> bool:
    """Return True if both give the same vectors for a query and a document, and read as many tokens."""
    pairs = [(a.encode_query(PROBE), b.encode_query(PROBE)), (a.encode_document(PROBE), b.encode_document(PROBE))]
    near = all(x.shape == y.shape and np.allclose(x, y, atol=1e-4) for x, y in pairs)
    return near and a.max_seq_length == b.max_seq_length


class Backend:
    """The backend of KeyBERT and of BERTopic, before their own base class: documents and words, as documents.

    Args:
        model: A name, a folder, or a SentenceEncoder; None: the built-in model.
        encode_kwargs: Keywords of `encode`.
    """

    embedding_model: SentenceEncoder

    def __init__(self, model: Model = None, **encode_kwargs: Any) -> None:
        super().__init__(embedding_model=load(model))  # type: ignore[call-arg]
        self.options = encode_kwargs

    def embed(self, documents: Iterable[str], verbose: bool = False) -> np.ndarray:
        """Return a vector for each document (n, D). Raises as `encode`."""
        texts = [documents] if isinstance(documents, str) else documents
        return matrix(self.embedding_model.encode_document, texts, {"show_progress_bar": verbose, **self.options})


def one(encode: Callable[..., Any], text: str, options: Mapping[str, Any]) -> list[float]:
    """Return the vector of one text. Raise TypeError if it is anything else; others as `encode`."""
    if not isinstance(text, str):
        raise TypeError(f"expected one text, not {type(text).__name__}")
    return list(encode(text, **options).tolist())


def listed(texts: Iterable[str]) -> list[str]:
    """Return texts as a list. Raise TypeError for one text, which would be taken apart, and for no texts at all."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise TypeError(
            f"expected a list of texts, not {'one text' if isinstance(texts, str) else type(texts).__name__}"
        )
    return as_list(texts)


def matrix(encode: Callable[..., Any], texts: Iterable[str], options: Mapping[str, Any]) -> np.ndarray:
    """Return the vectors of texts (n, D). Raise TypeError where one is no text, or there is one without a list."""
    vectors: np.ndarray = encode(listed(texts), **options)
    return vectors


def many(encode: Callable[..., Any], texts: Iterable[str], options: Mapping[str, Any]) -> list[list[float]]:
    """Return the vectors of texts, as `matrix`, in lists."""
    return list(matrix(encode, texts, options).tolist())
