"""Packed tokens, and attention over them: the texts of a batch one after another, without padding.

B texts    S tokens of the longest text    D hidden size    H heads    K head size
T packed tokens, rounded up (see `round_up`); the rows beyond the last token are filler and are never read
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property, lru_cache
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..tokenizer import Tokens

# The kernel's softmax takes keys 16 at a time and the rest one by one, and each text and head has a cost of its own.
# So short texts are attended several at once, up to GROUP tokens, with keys filled up to a multiple of LANES. With 23
# tokens either halves the time (fitted, two cores of an Intel Xeon).
LANES = 16
GROUP = {torch.float32: 16, torch.bfloat16: 32}
# For a single text so many keys beyond a multiple cost less than filling up (fitted, two cores of an AMD EPYC, Zen 4).
LEFT_OVER = 8


def round_up(count: int, parts: int = 32) -> int:
    """Return the number of rows that products are made of, at most 2/parts more.

    oneDNN compiles a program for each: a millisecond, and half a megabyte that it keeps.
    """
    return count + -count % max(2, (1 << count.bit_length()) // parts)


class PackedTokens:
    """Some texts of a call: their ids (T,) and token types (T,), and where each text lies."""

    def __init__(self, tokens: Tokens, rows: np.ndarray, round_up: Callable[[int], int] = round_up) -> None:
        self.lengths = tokens.lengths[rows]
        lengths: list[int] = self.lengths.tolist()
        self.shape = len(lengths), max(lengths)  # (B, S)
        self.count = sum(lengths)
        # Packed and padded tokens are the same; and so are the positions of all texts.
        self.equal = self.aligned = self.count == len(lengths) * self.shape[1]
        starts = tokens.starts[rows]
        self.seen = self.lengths if tokens.seen is None else tokens.seen[rows]
        seen = self.seen.tolist()  # Neighbours of one length, as most are: (length, tokens attended to, texts).
        self.runs = [(*run, len(list(same))) for run, same in groupby(zip(lengths, seen, strict=True))]
        self._first = np.cumsum(self.lengths) - self.lengths  # (B,), where each text begins
        place: slice | np.ndarray = slice(int(starts[0]), int(starts[0]) + self.count)
        if len(lengths) > 1:
            place = np.repeat(starts - self._first, self.lengths) + np.arange(self.count)
        filler = round_up(self.count) - self.count
        self.input_ids = _filled(tokens.ids[place], filler)
        types = tokens.types[place]
        self.token_type_ids = _filled(types.astype(np.int32), filler) if types.any() else None  # all 0

    @cached_property
    def first(self) -> Tensor:
        """The place of each text's first token among the packed ones. (B,)"""
        return torch.from_numpy(np.minimum(self._first, len(self.input_ids) - 1))

    @cached_property
    def positions(self) -> Tensor:
        """The place of each token in its own text, 0 for filler. (T,)"""
        return _filled(np.arange(self.count) - np.repeat(self._first, self.lengths), len(self.input_ids) - self.count)

    @cached_property
    def mask(self) -> Tensor | None:
        """True at tokens, False at padding, (B, S); None where nothing is padded."""
        return None if self.equal else torch.from_numpy(np.arange(self.shape[1]) < self.lengths[:, None])

    @cached_property
    def attended(self) -> Tensor | None:
        """True at tokens that are attended to, (B, 1, 1, S); None where all are."""
        seen = torch.from_numpy(np.arange(self.shape[1]) < self.seen[:, None])
        return None if seen.all() else seen[:, None, None]

    @cached_property
    def among_padded(self) -> Tensor:
        """The place of each packed token among the padded ones. (count,)"""
        return torch.from_numpy(np.flatnonzero(np.arange(self.shape[1]) < self.lengths[:, None]))

    @cached_property
    def among_packed(self) -> Tensor:
        """The place of each padded token among the packed ones, that of its text's last at padding. (B * S,)"""
        place = np.minimum(np.arange(self.shape[1]), np.maximum(self.lengths[:, None], 1) - 1) + self._first[:, None]
        return torch.from_numpy(np.minimum(place, self.count - 1).reshape(-1))  # a last text may have no tokens

    def as_page_input(self) -> tuple[Tensor, Tensor | None]:
        """Return ids and token types as the page's embeddings take them. (B, S) each"""
        types = self.token_type_ids
        ids = self.unpack(self.input_ids[:, None])[..., 0].long()
        return ids, None if types is None else self.unpack(types[:, None])[..., 0].long()

    def fit(self, x: object, D: int) -> bool:
        """Return True if x can be these texts' states. A part of one's own may have cut positions."""
        return isinstance(x, Tensor) and x.shape == (*self.shape, D)

    def pack(self, x: Tensor) -> Tensor:
        """Put texts one after another without padding, and filler after them. (B, S, D) -> (T, D)"""
        x = x.flatten(0, 1) if self.equal else x.flatten(0, 1).index_select(0, self.among_padded)
        return functional.pad(x, (0, 0, 0, len(self.input_ids) - self.count))

    def unpack(self, x: Tensor) -> Tensor:
        """Put padding back: there each text's last token is repeated. (T, D) -> (B, S, D)"""
        return (x[: self.count] if self.equal else x.index_select(0, self.among_packed)).view(*self.shape, -1)


def _filled(values: np.ndarray, filler: int) -> Tensor:
    # By the first one: its states are as finite as its own text's, and may be read under a mask.
    return torch.from_numpy(np.concatenate([values, np.repeat(values[:1], filler)]) if filler else values)


def attend(qkv: Tensor, texts: PackedTokens, head_size: int) -> Tensor:
    """Let every token attend to its own text. Queries, keys, values side by side (T, 3 D) -> (T, D)"""
    qkv = _kernel_dtype(qkv)
    parts, begin = [], 0
    for length, keys, count in texts.runs:
        end = begin + length * count
        if begin < end:
            q, k, v = _split(qkv[begin:end], count, length, 3, head_size).unbind(0)
            k, v = (k, v) if keys == length else (k[..., :keys, :], v[..., :keys, :])
            parts.append(_merge(_attend_equal(q, k, v, beyond=qkv.shape[0] - end)))
        begin = end
    if begin < qkv.shape[0]:
        parts.append(qkv[begin:, : qkv.shape[1] // 3])  # filler
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def attend_first(q: Tensor, kv: Tensor, texts: PackedTokens, head_size: int) -> Tensor:
    """Let each text's first token attend to its text. q (B, D), keys and values side by side (T, 2 D) -> (B, D)

    A text without tokens gives zeros.
    """
    q, kv = _kernel_dtype(q), _kernel_dtype(kv)
    parts, begin, text = [], 0, 0
    for length, keys, count in texts.runs:
        end = begin + length * count
        (query,) = _split(q[text : text + count], count, 1, 1, head_size)
        k, v = _split(kv[begin:end], count, length, 2, head_size)[..., :keys, :].unbind(0)
        parts.append(_merge(functional.scaled_dot_product_attention(query, k, v)))
        begin, text = end, text + count
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _split(x: Tensor, count: int, length: int, parts: int, head_size: int) -> Tensor:
    """Cut packed texts of one length into parts and heads. (B * S, parts * D) -> (parts, B, H, S, K)"""
    heads = x.shape[1] // (parts * head_size)  # given, because torch can't infer it where there are no rows
    return x.view(count, length, parts, heads, head_size).permute(2, 0, 3, 1, 4)


def _merge(x: Tensor) -> Tensor:
    """Bring the heads together. (B, H, S, K) -> (B * S, D)"""
    return x.transpose(1, 2).reshape(x.shape[0] * x.shape[2], -1)


def _attend_equal(q: Tensor, k: Tensor, v: Tensor, beyond: int) -> Tensor:
    """Attend in texts of one length, the way that is fastest for it. (B, H, S, K) -> (B, H, S, K)

    Keys that fill up are the rows that come next in memory, masked out. So nothing is copied, but for the last texts,
    where too few rows (``beyond``) come next.
    """
    B, H, S, K = q.shape
    texts = max(1, min(GROUP.get(q.dtype, 0) // S, B))  # at once
    if k.shape[2] < S or (B == 1 and S % LANES <= LEFT_OVER) or (texts == 1 and S % LANES < 3):
        return functional.scaled_dot_product_attention(q, k, v)
    group = texts * S
    window = -(-group // LANES) * LANES
    groups = min(B // texts, (B * S + beyond - window) // group + 1)
    if groups < 1:
        return _attend_padded(q, k, v)
    grouped = q[: groups * texts].transpose(1, 2).reshape(groups, group, H, K).transpose(1, 2)
    k_windows, v_windows = (
        z.as_strided((groups, H, window, K), (group * z.stride(2), *z.stride()[1:])) for z in (k, v)
    )
    added = _own_text_only(texts, S, window, q.dtype)
    attended = functional.scaled_dot_product_attention(grouped, k_windows, v_windows, attn_mask=added)
    attended = attended.transpose(1, 2).reshape(-1, S, H, K)
    if (done := groups * texts) < B:
        last = _attend_padded(q[done:], k[done:], v[done:])
        attended = torch.cat([attended, last.transpose(1, 2)])
    return attended.transpose(1, 2)


def _attend_padded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention text by text, with keys filled up by zeros to a multiple of LANES."""
    S = q.shape[2]
    added = _own_text_only(1, S, S + -S % LANES, q.dtype)
    k, v = (torch.constant_pad_nd(z, (0, 0, 0, -S % LANES)) for z in (k, v))
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=added)


@lru_cache(maxsize=256)
def _own_text_only(texts: int, S: int, window: int, dtype: torch.dtype) -> Tensor:
    """Added to the scores: 0 for keys of the same text, -inf for others. (1, 1, texts * S, window)"""
    with torch.inference_mode(False):
        text = torch.arange(window, device="cpu") // S
        other = text[: texts * S, None] != text
        return torch.zeros(1, 1, texts * S, window, dtype=dtype, device="cpu").masked_fill_(other, -torch.inf)


def _kernel_dtype(x: Tensor) -> Tensor:
    """Convert to the dtype that the kernel is fastest in: bfloat16 only with AMX."""
    return x if x.dtype is not torch.bfloat16 or _has_amx() else x.float()


@cache
def _has_amx() -> bool:
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)())
