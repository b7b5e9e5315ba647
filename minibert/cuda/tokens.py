"""Packed tokens on a GPU, and attention over them. No step waits for the GPU.

B texts    S tokens of the longest text    D hidden size    H heads    K head size    T packed tokens
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..fast.tokens import PackedTokens, round_up
from ..tokenizer import Tokens

FEWEST = 16  # tokens of a bucket


def bucket(count: int) -> int:
    """Return the number of rows that a text alone is filled up to.

    There are about four buckets from each power of two to the next, so that few graphs serve all lengths.
    """
    return max(FEWEST, round_up(count, 8))


def suits_varlen(dtype: torch.dtype, head_size: int, capability: tuple[int, int]) -> bool:
    """Return True if torch's variable-length attention can compute such heads on a GPU of that compute capability."""
    return dtype in (torch.float16, torch.bfloat16) and head_size % 8 == 0 and head_size <= 256 and capability >= (8, 0)


@cache
def varlen_operator() -> Callable[..., Tensor] | None:
    """Return torch's variable-length attention; None without it. To import it takes a second."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn  # type: ignore[return-value]


class CudaTokens(PackedTokens):
    """Some texts of a call. All that the GPU needs to know of them is one array, ``numbers``, to be given to `place`.

    Args:
        tokens, rows: As in the base.
        varlen: Attend by torch's variable-length attention.
        bucketed: Fill a single text up to a bucket. It is then one of T tokens, the rest of which is not attended to.
    """

    def __init__(self, tokens: Tokens, rows: np.ndarray, *, varlen: bool, bucketed: bool) -> None:
        super().__init__(tokens, rows, bucket if bucketed else int)
        self.varlen, self.bucketed = varlen and bool((self.seen == self.lengths).all()), bucketed
        T, B, count = len(self.input_ids), len(self.lengths), self.count
        rows_of = np.zeros((4, T), dtype=np.int32)  # ids, types, places in the text, places among padded tokens
        rows_of[0] = self.input_ids.numpy()
        if self.token_type_ids is not None:
            rows_of[1] = self.token_type_ids.numpy()
        rows_of[2, :count] = np.arange(count) - np.repeat(self._first, self.lengths)
        rows_of[3, :count] = rows_of[2, :count] + np.repeat(np.arange(B) * self.shape[1], self.lengths)
        parts = *rows_of, np.array([*self._first, count, T]), self.seen
        self.sizes = list(map(len, parts))
        self.numbers = torch.from_numpy(np.concatenate(parts, dtype=np.int32, casting="same_kind"))
        if bucketed:
            self.shape, self.count, self.equal = (1, T), T, True

    def place(self, numbers: Tensor) -> None:
        """Take the array as it is on the GPU. What was computed of an earlier one is forgotten: a graph keeps it."""
        parts = numbers.split(self.sizes)
        self.input_ids, self.token_type_ids, self._within, self._padded, self._ends, self._seen = parts
        for name in ("attended", "_unpacked"):
            self.__dict__.pop(name, None)

    @property
    def first(self) -> Tensor:
        """The place of each text's first token among the packed ones. (B,)"""
        return self._ends.narrow(0, 0, self.shape[0]).clamp_max(self.count - 1)

    @property
    def positions(self) -> Tensor:
        """The place of each token in its own text, 0 for filler. (T,)"""
        return self._within

    @property
    def ends(self) -> Tensor:
        """Where each text begins, and the end. Filler is one more text. (B + 1,) or (B + 2,), int32"""
        return self._ends if self.bucketed else self._ends.narrow(0, 0, self.shape[0] + 1)

    @property
    def mask(self) -> Tensor | None:
        """True at tokens, False at padding, (B, S); None where nothing is padded."""
        return None if self.equal else self._below(self._counts)

    @cached_property
    def attended(self) -> Tensor | None:
        """True at tokens that are attended to, (B, 1, 1, S); None where all are. Of an empty text the first is."""
        if not self.bucketed and (self.seen == self.shape[1]).all():
            return None
        return self._below(self._seen.clamp_min(1)).unsqueeze(1).unsqueeze(1)

    def pack(self, x: Tensor) -> Tensor:
        """Put texts one after another without padding. (B, S, D) -> (T, D)"""
        x = x.flatten(0, 1)
        return x if self.equal else x.index_select(0, self._padded)

    def unpack(self, x: Tensor) -> Tensor:
        """Put padding back: there each text's last token is repeated. (T, D) -> (B, S, D)"""
        return (x if self.equal else x.index_select(0, self._unpacked)).view(*self.shape, -1)

    @cached_property
    def _unpacked(self) -> Tensor:  # the packed token of each padded place, (B * S,)
        within = torch.minimum(self._places, (self._counts - 1).clamp_min(0).unsqueeze(1))
        return (within + self._ends.narrow(0, 0, self.shape[0]).unsqueeze(1)).clamp_max(self.count - 1).flatten()

    @property
    def _counts(self) -> Tensor:
        B = self.shape[0]
        return self._ends.narrow(0, 1, B) - self._ends.narrow(0, 0, B)

    @property
    def _places(self) -> Tensor:
        return torch.arange(self.shape[1], dtype=torch.int32, device=self._ends.device)

    def _below(self, counts: Tensor) -> Tensor:
        return self._places < counts.unsqueeze(1)


def attend(qkv: Tensor, texts: CudaTokens, head_size: int) -> Tensor:
    """Let every token attend to its own text. Queries, keys, values side by side (T, 3 D) -> (T, D)"""
    if texts.varlen and (operator := varlen_operator()):
        q, k, v = qkv.view(len(qkv), 3, -1, head_size).unbind(1)
        S = texts.shape[1]
        return operator(q, k, v, texts.ends, texts.ends, S, S).flatten(1)
    q, k, v = _heads(texts.unpack(qkv), 3, head_size)
    x = functional.scaled_dot_product_attention(q, k, v, attn_mask=texts.attended)
    return texts.pack(x.transpose(1, 2).flatten(2))


def attend_first(q: Tensor, kv: Tensor, texts: CudaTokens, head_size: int) -> Tensor:
    """Let each text's first token attend to its text. q (B, D), keys and values side by side (T, 2 D) -> (B, D)"""
    query = q.unflatten(-1, (-1, head_size))  # (B, H, K)
    if texts.varlen and (operator := varlen_operator()):
        k, v = kv.view(len(kv), 2, -1, head_size).unbind(1)
        each = torch.arange(len(q) + 1, dtype=torch.int32, device=q.device)
        ends = texts.ends.narrow(0, 0, len(q) + 1)
        return operator(query, k, v, each, ends, 1, texts.shape[1]).flatten(1)
    k, v = _heads(texts.unpack(kv), 2, head_size)
    return functional.scaled_dot_product_attention(query.unsqueeze(2), k, v, attn_mask=texts.attended).flatten(1)


def _heads(x: Tensor, parts: int, head_size: int) -> tuple[Tensor, ...]:
    """Cut padded texts into parts and heads. (B, S, parts * D) -> parts of (B, H, S, K)"""
    return x.unflatten(-1, (parts, -1, head_size)).permute(2, 0, 3, 1, 4).unbind(0)
