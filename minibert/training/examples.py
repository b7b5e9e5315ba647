"""What is learned from: texts in columns, and what is said of each row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..tokenizer import check_texts


class Examples:
    """N rows: one text per column, and a label each, or none.

    Attributes:
        columns: Lists of N texts: two for pairs, three for triplets, one for a teacher's vectors.
        labels: None; (N,) classes (whole numbers) or scores (floating point); or (N, T) vectors of a teacher.
    """

    def __init__(
        self, columns: Sequence[Sequence[str]], labels: Tensor | np.ndarray | Sequence[float] | None = None
    ) -> None:
        """Check what can be checked without knowing the objective.

        Raises:
            ValueError: there are no columns or no rows, not all are of one length, or a label is NaN or infinite.
            TypeError: a text is no string (it is said which).
        """
        for number, column in enumerate(columns):
            if isinstance(column, (str, bytes)):
                raise TypeError(f"column {number} is one text: a column is a list of texts")
        self.columns = [list(column) for column in columns]
        lengths = [len(column) for column in self.columns]
        if not lengths or not lengths[0]:
            raise ValueError("there are no examples: at least one column of texts, with at least one row, is needed")
        if len(set(lengths)) > 1:
            raise ValueError(f"all columns must have as many rows, not {', '.join(map(str, lengths))}")
        for number, column in enumerate(self.columns):
            try:
                check_texts(column)
            except (TypeError, ValueError) as error:
                raise type(error)(f"column {number}: {error}") from None
        self.labels = None if labels is None else torch.as_tensor(labels)
        if self.labels is not None:
            if self.labels.ndim == 0 or len(self.labels) != len(self):
                raise ValueError(f"{len(self)} rows of texts, but labels of shape {tuple(self.labels.shape)}")
            if self.labels.is_floating_point() and not bool(self.labels.isfinite().all()):
                row = int((~self.labels.isfinite()).reshape(len(self), -1).any(1).int().argmax())
                raise ValueError(f"the label of row {row} is not a finite number")

    def __len__(self) -> int:
        """N, the number of rows."""
        return len(self.columns[0])

    def digest(self) -> str:
        """How many rows, and a hash of every text and label: what has the same digest is the same."""
        seen = hashlib.sha256(f"{len(self.columns)} columns".encode())
        for column in self.columns:
            for text in column:
                raw = text.encode()
                seen.update(len(raw).to_bytes(8, "little") + raw)
        if self.labels is not None:
            seen.update(f"{self.labels.dtype} {tuple(self.labels.shape)}".encode())
            seen.update(self.labels.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return f"{len(self)} rows, {seen.hexdigest()[:16]}"
