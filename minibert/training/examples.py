"""Training data: columns of texts with a label per row, and the order in which an epoch takes the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..call import as_list, check_texts

SORTED_BATCHES = 50  # batches sorted by length together: enough to pad little, few enough to stay random


class Examples:
    """N rows: one text per column, and optionally a label.

    Args:
        columns: Lists (or other iterables) of N texts: two for pairs, three for triplets, one for a teacher's vectors.
        labels: None; classes (N,), whole numbers; scores (N,), floating point; or a teacher's vectors (N, T).

    Raises:
        ValueError: There are no rows, columns differ in length, or a label is not a finite number (the message says
            of which row).
        TypeError: A column is not an iterable of texts, or a text not a string (the message says which).
    """

    def __init__(
        self, columns: Iterable[Iterable[str]], labels: Tensor | np.ndarray | Iterable[float] | None = None
    ) -> None:
        if not isinstance(columns, Iterable):
            raise TypeError(f"expected a list of columns of texts, not {type(columns).__name__}")
        self.columns = [_column(number, column) for number, column in enumerate(columns)]
        lengths = [len(column) for column in self.columns]
        if not lengths or not lengths[0]:
            raise ValueError("there are no examples: at least one column of texts, with at least one row, is needed")
        if len(set(lengths)) > 1:
            raise ValueError(f"all columns must have as many rows, not {', '.join(map(str, lengths))}")
        self.labels = None if labels is None else _as_numbers(labels)
        if self.labels is not None:
            if self.labels.ndim == 0 or len(self.labels) != len(self):
                raise ValueError(f"{len(self)} rows of texts, but labels of shape {tuple(self.labels.shape)}")
            if self.labels.is_floating_point() and not bool(self.labels.isfinite().all()):
                row = int((~self.labels.isfinite()).reshape(len(self), -1).any(1).int().argmax())
                raise ValueError(f"the label of row {row} is not a finite number")

    def __len__(self) -> int:
        """Return N, the number of rows."""
        return len(self.columns[0])

    def digest(self) -> str:
        """Return the number of rows and a hash of every text and label."""
        seen = hashlib.sha256(f"{len(self.columns)} columns".encode())
        for raw in (text.encode() for column in self.columns for text in column):
            seen.update(len(raw).to_bytes(8, "little") + raw)
        if self.labels is not None:
            seen.update(f"{self.labels.dtype} {tuple(self.labels.shape)}".encode())
            seen.update(self.labels.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return f"{len(self)} rows, {seen.hexdigest()[:16]}"


def _column(number: int, column: object) -> list[str]:
    """Return a column as a list, which the caller may change. Raises as `Examples`."""
    if isinstance(column, (str, bytes)):
        raise TypeError(f"column {number} is one text: a column is a list of texts")
    if not isinstance(column, Iterable):
        raise TypeError(f"column {number} is of type {type(column).__name__}: a column is a list of texts")
    try:
        texts = list(as_list(column))
        check_texts(texts)
    except (TypeError, ValueError) as error:
        raise type(error)(f"column {number}: {error}") from None
    return texts


def _as_numbers(labels: Any) -> Tensor:
    """Return labels as a tensor. Raises ValueError, which names the first row whose label is no number."""
    labels = list(labels) if isinstance(labels, Iterator) else labels
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error)
    for row, label in enumerate(labels if isinstance(labels, Iterable) else [labels]):
        try:
            torch.as_tensor(label)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(
                f"the label of row {row} is not a number, or a row of numbers, but {label!r:.80}"
            ) from None
    raise ValueError(f"labels must be a number for each row, or as many numbers for each: {reason}")


def epoch(
    sort_key: np.ndarray, batch_size: int, *, seed: int, number: int, by_length: bool, fewest: int = 1
) -> list[np.ndarray]:
    """Return the batches of one epoch: every row once, in random order. The last batch may be smaller.

    Args:
        sort_key: Tokens of each row, (N,), or other numbers: see `Task.sort_key`.
        seed, number: Of the training and of the epoch. Together they determine the order.
        by_length: Put rows of near-equal keys in one batch (Sentence-BERT's "smart batching", arXiv 1908.10084,
            section 7): sort the rows of every 50 batches, then shuffle the batches.
        fewest: Leave out a last batch of fewer rows than this.
    """
    random = np.random.default_rng([seed, number])
    order = random.permutation(len(sort_key))
    if len(order) % batch_size < fewest:
        order = order[: len(order) // batch_size * batch_size]
    if not by_length:
        return np.split(order, range(batch_size, len(order), batch_size))
    window = batch_size * SORTED_BATCHES
    parts = np.split(order, range(window, len(order), window))
    order = np.concatenate([rows[np.argsort(sort_key[rows], kind="stable")] for rows in parts])
    batches = np.split(order, range(batch_size, len(order), batch_size))
    return [batches[i] for i in random.permutation(len(batches))]
