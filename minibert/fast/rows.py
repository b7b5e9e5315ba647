"""Positions of padded texts, (B, S, D), as rows that products are made of: of tokens only where that is known to do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

from .attention import mix, mixable


class Real:
    """Where the tokens of padded texts are, so that nothing is made of padding. mask (B, 1, 1, S)"""

    def __init__(self, mask: Tensor) -> None:
        B, S = len(mask), mask.shape[-1]
        real = mask.reshape(-1)  # (B * S,)
        places = real.nonzero().squeeze(1)
        self.places = functional.pad(places, (0, filled(len(places)) - len(places)))  # (M,), as `fill` fills up
        self.back = (real.cumsum(0) - 1).clamp_min_(0)  # (B * S,), in the place of padding the token before it
        self.first = self.back[::S]  # (B,)
        # Texts of one length that follow each other, as in sorted batches most do: the length, and how many.
        self.runs = [(length, len(list(same))) for length, same in groupby(real.view(B, S).sum(1).tolist())]

    def gather(self, rows: Tensor) -> Tensor:
        """All positions -> those of tokens, filled up. (B * S, X) -> (M, X)"""
        return rows.index_select(0, self.places)

    def spread(self, rows: Tensor) -> Tensor:
        """Back to all positions; at padding there is some other token's row. (M, X) -> (B * S, X)"""
        return rows.index_select(0, self.back)

    def mix(self, sources: Tensor, head_size: int) -> Tensor:
        """Attention of these rows, which have queries, keys, values. (M, 3 D) -> (M, D)"""
        sources = mixable(sources)
        mixed, begin = [], 0
        for length, texts in self.runs:
            end = begin + length * texts
            if begin < end:
                sides = heads(sources[begin:end], (texts, length), 3, head_size)
                mixed.append(mix_heads(sides, None, beyond=len(sources) - end))
            begin = end
        return torch.cat([*mixed, sources[begin:, : sources.shape[1] // 3]])  # the last are those that fill up

    def mix_first(self, q: Tensor, sources: Tensor, head_size: int) -> Tensor:
        """Attention of each text's first position to these rows. q (B, H, 1, K), keys and values (M, 2 D) -> (B, D)"""
        sources = mixable(sources)
        mixed, begin = [], 0
        for (length, texts), asking in zip(self.runs, q.split([texts for _, texts in self.runs]), strict=True):
            end = begin + length * texts
            k, v = heads(sources[begin:end], (texts, length), 2, head_size)
            mixed.append(mix_heads((asking, k, v), None))  # no tokens: zeros
            begin = end
        return torch.cat(mixed)


def positions(rows: Tensor, real: Real | None, shape: tuple[int, int]) -> Tensor:
    """Rows, filled up or of tokens only, as positions again. (M, D), (B, S) -> (B, S, D)"""
    rows = rows if real is None else real.spread(rows)
    return rows[: math.prod(shape)].view(*shape, -1)


def heads(rows: Tensor, shape: tuple[int, int], parts: int, head_size: int) -> Tensor:
    """Several projections side by side, as attention takes them. (M, parts * D), (B, S) -> (parts, B, H, S, K)"""
    many = math.prod(shape)
    rows = mixable(rows if rows.shape[0] == many else rows[:many])
    many_heads = rows.shape[1] // (parts * head_size)  # said, because of no rows torch can't find it out
    return rows.view(*shape, parts, many_heads, head_size).permute(2, 0, 3, 1, 4)


def mix_heads(sides: Iterable[Tensor], mask: Tensor | None, beyond: int = 0) -> Tensor:
    """Attention, its heads side by side again; see `mix`. q (B, H, Q, K), k, v (B, H, S, K) -> (B * Q, D)"""
    q, k, v = sides
    B, _, Q, _ = q.shape
    return mix(q, k, v, mask, beyond).transpose(1, 2).reshape(B * Q, -1)


def fill(rows: Tensor) -> Tensor:
    """The rows, and zeros up to one of the numbers of rows that products are made of. (N, D) -> (M, D)

    For each number of rows oneDNN makes a program of its own, which takes it a millisecond and half a megabyte that it
    keeps; and results of ever other sizes leave holes in memory that none of the next fits in.
    """
    many = rows.shape[0]
    more = filled(many) - many
    return functional.pad(rows, (0, 0, 0, more)) if more else rows


def filled(many: int) -> int:
    """The next of the numbers of rows that products are made of: at most one in 16 more."""
    return many + -many % max(2, (1 << many.bit_length()) // 32)
