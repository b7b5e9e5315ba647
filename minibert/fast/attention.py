"""The page's attention arithmetic by torch's fused kernel, which never keeps the scores."""

from __future__ import annotations

from functools import cache, lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from ..model import ScaledDotProductAttention
from .watching import replaced, watched

# On the CPU the kernel's softmax takes keys 16 at a time and what is left over one by one, and each text and head costs
# something of its own. So short texts are computed several at once, up to this many tokens (fitted, two cores of an
# Intel Xeon), and what is left over is filled up; with 23 tokens either halves the time.
LANES = 16
TOGETHER = {torch.float32: 16, torch.bfloat16: 32}
# Of a single text so many left over cost less than filling up (fitted on two cores of an AMD EPYC, Zen 4).
ALONE = 8


class KernelAttention(ScaledDotProductAttention):
    """Scores, softmax and mixing at once, without keeping the scores. q, k, v (B, H, S, K) -> (B, H, S, K)

    Where somebody watches `scores` or `probs`, or dropout is on, it is the page that computes: those values exist
    only there.
    """

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Mix the values; a row that is all padding comes out as on the page."""
        if self.explicit():
            return super().forward(q, k, v, mask, bias)
        here = q.is_cpu and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        return mix(q, k, v, mask) if here and bias is None else _mix(q, k, v, mask, bias)

    def explicit(self) -> bool:
        """Whether somebody needs values that only the page forms."""
        taps = self.scores, self.probs, self.dropout
        return (self.training and self.dropout.p > 0) or watched(*taps) or replaced(*taps)


def mixable(sources: Tensor) -> Tensor:
    """Queries, keys, values in the numbers that the kernel is fastest in: in bfloat16 it is so with AMX only."""
    return sources if sources.dtype is not torch.bfloat16 or _has_tiles() else sources.float()


@cache
def _has_tiles() -> bool:
    ask = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return ask is None or bool(ask())


def mix(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, beyond: int = 0) -> Tensor:
    """By the way that is fastest on a CPU without gradients. q (B, H, Q, K), k, v (B, H, S, K) -> (B, H, Q, K)

    ``beyond``: how many rows of keys and values come after these in memory.
    """
    B, _, S, _ = k.shape
    padding = mask is None or mask.shape == (B, 1, 1, S)  # the same for all heads and queries
    if not padding or q.shape != k.shape:
        return _mix(q, k, v, mask, None)
    return _mix(q, k, v, mask, None) if B == 1 and S % LANES <= ALONE else _mix_windows(q, k, v, mask, beyond)


def _mix(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    added = bias
    if mask is not None:
        # Added, not boolean: where all is padding, torch's boolean mask gives NaN, and the page the average.
        lowest = torch.finfo(q.dtype).min
        added = torch.zeros((), dtype=q.dtype, device=q.device) if bias is None else bias
        added = torch.where(mask, added, lowest)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=added)


def _mix_windows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, beyond: int) -> Tensor:
    """As `_mix`, in groups of short texts, each with keys up to a multiple of LANES. (B, H, S, K) -> (B, H, S, K)

    The keys that fill up are those that come next in memory, which are the next text's, and count for nothing: so
    nothing is copied, except for the last texts, where too little comes after them.
    """
    B, H, S, K = q.shape
    texts = max(1, min(TOGETHER.get(q.dtype, 0) // S, B))
    group = texts * S
    window = -(-group // LANES) * LANES
    if texts == 1 and S % LANES < 3:  # one or two left over cost less than a window
        return _mix(q, k, v, mask, None)
    groups = min(B // texts, (B * S + beyond - window) // group + 1)
    if groups < 1 or any(z.stride(0) != S * z.stride(2) for z in (q, k, v)):
        return _mix_filled(q, k, v, mask)
    first = q[: groups * texts].transpose(1, 2).reshape(groups, group, H, K).transpose(1, 2)
    added = _own_text_only(texts, S, window, q.dtype)
    if mask is not None:
        padding = ~mask.reshape(-1).as_strided((groups, 1, 1, window), (group, 0, 0, 1))
        added = added + torch.zeros(padding.shape, dtype=q.dtype).masked_fill_(padding, torch.finfo(q.dtype).min)
    k_windows, v_windows = (
        z.as_strided((groups, H, window, K), (group * z.stride(2), *z.stride()[1:])) for z in (k, v)
    )
    mixed = functional.scaled_dot_product_attention(first, k_windows, v_windows, attn_mask=added)
    mixed = mixed.transpose(1, 2).reshape(-1, S, H, K)
    done = groups * texts
    if done < B:
        last = _mix_filled(q[done:], k[done:], v[done:], None if mask is None else mask[done:])
        mixed = torch.cat([mixed, last.transpose(1, 2)])
    return mixed.transpose(1, 2)


def _mix_filled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """As `_mix`, with keys that count for nothing up to a multiple of LANES."""
    S = q.shape[2]
    more = -S % LANES
    added = _own_text_only(1, S, S + more, q.dtype)
    if mask is not None:
        lowest = torch.finfo(q.dtype).min
        added = added + functional.pad(torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, lowest), (0, more))
    k, v = (functional.pad(z, (0, 0, 0, more)) for z in (k, v))
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=added)


@lru_cache(maxsize=256)
def _own_text_only(texts: int, S: int, window: int, dtype: torch.dtype) -> Tensor:
    """Added to the scores: 0 for keys of the same text, -inf for others. (1, 1, texts * S, window)"""
    with torch.inference_mode(False):
        text = torch.arange(window) // S
        other = text[: texts * S, None] != text
        return torch.zeros(1, 1, texts * S, window, dtype=dtype).masked_fill_(other, -torch.inf)
