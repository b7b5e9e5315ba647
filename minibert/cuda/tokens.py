"""Packed tokens on a GPU, and attention over them. No step waits for the GPU.

B texts    S tokens of the longest text    D hidden size    H heads    K head size    T packed tokens
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..fast.tokens import PackedTokens, round_up
from ..tokenizer import Tokens


def bucket(count: int) -> int:
    """Return the rows that a text alone is filled up to: about four sizes a power of two, so that few graphs do."""
    return max(16, round_up(count, 8))


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
    """Some texts of a call. All that a GPU has to know of them is one array, ``numbers``, to be given to `place`.

    With ``varlen`` torch's operator attends. A single text may be ``bucketed``: filled up to one of T tokens.
    """

    def __init__(self, tokens: Tokens, rows: np.ndarray, *, varlen: bool, bucketed: bool) -> None:
        super().__init__(tokens, rows, bucket if bucketed else int)
        T = len(self.input_ids)
        types = torch.zeros(T, device="cpu") if self.token_type_ids is None else self.token_type_ids
        self.varlen, self.aligned = varlen and bool((self.seen == self.lengths).all()), False
        self.ends = torch.from_numpy(np.append(self._first, [self.count, T][: 1 + bucketed]))  # filler: one more text
        names = ["input_ids", "positions", "first", "ends", *([] if self.equal else ["among_padded", "among_packed"])]
        if bucketed:
            self.positions, self.shape, self.count = self.positions, (1, T), T
            self.attended = torch.arange(T, device="cpu").view(1, 1, 1, T) < int(self.seen[0])
        if self.attended is not None:
            self.attended[..., 0] = True  # of texts without tokens, too: of nothing some operators make NaN
        masks = [name for name in ("mask", "attended") if getattr(self, name) is not None]
        self._parts = {"token_type_ids": types, **{name: getattr(self, name) for name in (*names, *masks)}}
        self.numbers = torch.cat([part.flatten().int() for part in self._parts.values()])

    def place(self, numbers: Tensor) -> None:
        """Take the array as it is on the GPU."""
        parts = numbers.split([part.numel() for part in self._parts.values()])
        for (name, like), part in zip(self._parts.items(), parts, strict=True):
            setattr(self, name, part.view(like.shape).bool() if like.dtype is torch.bool else part)


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
        return operator(query, k, v, each, texts.ends.narrow(0, 0, len(q) + 1), 1, texts.shape[1]).flatten(1)
    k, v = _heads(texts.unpack(kv), 2, head_size)
    return functional.scaled_dot_product_attention(query.unsqueeze(2), k, v, attn_mask=texts.attended).flatten(1)


def _heads(x: Tensor, parts: int, head_size: int) -> tuple[Tensor, ...]:
    """Cut padded texts into parts and heads. (B, S, parts * D) -> parts of (B, H, S, K)"""
    return x.unflatten(-1, (parts, -1, head_size)).permute(2, 0, 3, 1, 4).unbind(0)
