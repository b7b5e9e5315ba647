"""What is trained on: columns of texts, side by side, and a label for each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """Rows of texts, column by column, and their labels (n,), if they have any."""

    columns: Sequence[Sequence[str]]
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.columns[0])
