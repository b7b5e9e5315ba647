"""Packed tokens: the texts of a batch one after another, so that nothing is computed for padding.

B texts          S tokens of the longest text
T packed tokens, rounded up (see `round_up`); the rows beyond the last token are filler and are never read
"""

from __future__ import annotations

from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..tokenizer import Tokens


class PackedTokens:
    """Some texts of a call: their ids (T,) and token types (T,), and where each text lies."""

    def __init__(self, tokens: Tokens, rows: np.ndarray) -> None:
        self.lengths = tokens.lengths[rows]
        lengths: list[int] = self.lengths.tolist()
        self.shape = len(lengths), max(lengths)  # (B, S)
        self.count = sum(lengths)
        self.equal = self.count == len(lengths) * self.shape[1]  # packed and padded tokens are the same
        starts = tokens.starts[rows]
        if len(lengths) == 1:
            self.runs = [(self.count, 1)]
            place: slice | np.ndarray = slice(int(starts[0]), int(starts[0]) + self.count)
        else:
            # Neighbours of one length, as most are in a sorted batch: (length, number of texts).
            self.runs = [(length, len(list(same))) for length, same in groupby(lengths)]
            self._first = np.cumsum(self.lengths) - self.lengths  # (B,), where each text begins
            place = np.repeat(starts - self._first, self.lengths) + np.arange(self.count)
        filler = round_up(self.count) - self.count
        self.input_ids = _filled(tokens.ids[place], filler)
        self.token_type_ids: Tensor | None = None  # all 0
        if tokens.types[place].any():
            self.token_type_ids = _filled(tokens.types[place].astype(np.int32), filler)

    @property
    def first(self) -> Tensor:
        """Where each text's first token is among the packed ones. (B,)"""
        if self.equal:
            return (
                torch.arange(0, self.count, self.shape[1])
                if self.count
                else torch.zeros(self.shape[0], dtype=torch.int64)
            )
        return torch.from_numpy(np.minimum(self._first, len(self.input_ids) - 1))

    @property
    def positions(self) -> Tensor:
        """The place of each token in its own text, 0 for filler. (T,)"""
        places = np.zeros(len(self.input_ids), np.int64)
        if self.equal:
            places[: self.count] = np.tile(np.arange(self.shape[1]), self.shape[0])
        else:
            places[: self.count] = np.arange(self.count) - np.repeat(self._first, self.lengths)
        return torch.from_numpy(places)

    @property
    def mask(self) -> Tensor | None:
        """True at tokens, False at padding, (B, S); None where nothing is padded."""
        return None if self.equal else torch.from_numpy(np.arange(self.shape[1]) < self.lengths[:, None])

    def as_page_input(self) -> tuple[Tensor, Tensor]:
        """Return ids and token types as the page's embeddings take them, for texts of one length. (B, S) each"""
        ids = self.input_ids[: self.count].long().view(self.shape)
        types = self.token_type_ids
        return ids, torch.zeros_like(ids) if types is None else types[: self.count].long().view(self.shape)

    def fit(self, x: object) -> bool:
        """Return True if x can be these texts' states, of one length. A part of one's own may have cut positions."""
        return isinstance(x, Tensor) and x.ndim == 3 and x.shape[:2] == self.shape

    def pack(self, x: Tensor) -> Tensor:
        """Put texts of one length one after another, and filler after them. (B, S, D) -> (T, D)"""
        return functional.pad(x.flatten(0, 1), (0, 0, 0, len(self.input_ids) - self.count))

    def unpack(self, x: Tensor) -> Tensor:
        """Put padding back: there each text's last token is repeated. (T, D) -> (B, S, D)"""
        if self.equal:
            return x[: self.count].view(*self.shape, -1)
        place = np.minimum(np.arange(self.shape[1]), np.maximum(self.lengths[:, None], 1) - 1) + self._first[:, None]
        place = np.minimum(place, len(x) - 1)  # a last text without tokens begins after the last row
        return x.index_select(0, torch.from_numpy(place.reshape(-1))).view(*self.shape, -1)


def _filled(values: np.ndarray, filler: int) -> Tensor:
    return torch.from_numpy(np.concatenate([values, np.zeros(filler, values.dtype)]) if filler else values)


def round_up(count: int) -> int:
    """The number of rows that products are made of, at most 1/16 more.

    oneDNN compiles a program for each number of rows: a millisecond, and half a megabyte that it keeps. Results of
    ever other sizes also leave holes in memory.
    """
    return count + -count % max(2, (1 << count.bit_length()) // 32)
