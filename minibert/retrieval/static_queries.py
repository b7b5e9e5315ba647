"""Queries without a model: each word has one weight, whatever the text (IDF), and documents have all the work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint.sparse_encoders import without_special_tokens
from ..tokenizer import Tokenizer, Tokens
from .sparse_vectors import Row


class StaticQueries(nn.Module):
    """A table of weights (V,), its tokenizer, and the tasks that use it. As a module: ids, mask (B, S) -> (B, V)

    The words of a text have their weights, [CLS] and [SEP] apart; all others have 0 (arXiv 2411.04403, section 3.1).
    """

    def __init__(self, weight: Tensor, tokenizer: Tokenizer, tasks: Iterable[str | None], *, frozen: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=not frozen)
        self.tokenizer, self.tasks, self.frozen = tokenizer, frozenset(tasks), frozen
        self._plain = copy(tokenizer)
        self._plain._backend = without_special_tokens(tokenizer._backend)

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Look up, with gradients where the weights are not frozen."""
        present = torch.zeros(len(input_ids), len(self.weight), dtype=self.weight.dtype, device=input_ids.device)
        return present.scatter_add(1, input_ids, mask.to(present)).clamp(max=1) * self.weight

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokenize without special tokens, and cut to the tokenizer's limit. Raise TypeError or ValueError as that."""
        return self._plain.encode(texts, limit=self._plain.max_length)

    def rows(self, tokens: Tokens, keep: int | None) -> list[Row]:
        """Return the words of each text with their weights; at most ``keep``, the strongest."""
        table = self.weight.detach().cpu().numpy()
        texts = np.split(tokens.ids, tokens.starts[1:-1]) if len(tokens.lengths) else []
        return [_strongest(np.unique(ids), table, keep) for ids in texts]

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the tokenizer. Raise OSError if the folder can't be written."""
        self.tokenizer.save_pretrained(folder)

    def extra_repr(self) -> str:
        """Return the text that print(encoder) shows."""
        return f"{len(self.weight)}{', frozen' if self.frozen else ''}"


def _strongest(ids: np.ndarray, table: np.ndarray[Any, Any], keep: int | None) -> Row:
    ids = ids[table[ids] != 0]
    if keep is not None and keep < len(ids):
        ids = np.sort(ids[np.argsort(-np.abs(table[ids]), kind="stable")[:keep]])
    return ids, table[ids]
