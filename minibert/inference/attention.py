"""The page's attention arithmetic by torch's fused kernel, which never keeps the scores."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from ..model import ScaledDotProductAttention
from .watching import replaced, watched

# On the CPU the kernel has a fixed cost for each text and head, which is most of it for short texts. Several that
# make up this many tokens are computed as one, each blind to the others: with 8 tokens a third of the time.
SHARED = 32


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
        texts = SHARED // q.shape[2]
        if bias is None and texts > 1 and q.device.type == "cpu" and (mask is None or mask.shape[2] == 1):
            return _several_as_one(q, k, v, mask, min(texts, len(q)))
        return _mix(q, k, v, mask, bias)

    def explicit(self) -> bool:
        """Whether somebody needs values that only the page forms."""
        return (
            (self.training and self.dropout.p > 0)
            or watched(self.scores, self.probs, self.dropout)
            or replaced(self.scores, self.probs, self.dropout)
        )


def _mix(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    added = bias
    if mask is not None:
        # Added, not boolean: where all is padding, torch's boolean mask gives NaN, and the page the average.
        lowest = torch.finfo(q.dtype).min
        added = torch.zeros((), dtype=q.dtype, device=q.device) if bias is None else bias
        added = torch.where(mask, added, lowest)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=added)


def _several_as_one(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, texts: int) -> Tensor:
    """Short texts in groups, each group one text to the kernel. (B, H, S, K) -> (B, H, S, K)"""
    B, H, S, K = q.shape
    whole = B - B % texts
    if whole < B:  # the last group is smaller
        first, last = slice(whole), slice(whole, None)
        parts = (
            _several_as_one(q[rows], k[rows], v[rows], None if mask is None else mask[rows], count)
            for rows, count in ((first, texts), (last, B - whole))
        )
        return torch.cat([part.transpose(1, 2) for part in parts]).transpose(1, 2)
    q, k, v = (z.transpose(1, 2).reshape(-1, texts * S, H, K).transpose(1, 2) for z in (q, k, v))
    added = _own_text_only(texts, S, q.dtype)
    if mask is not None:
        padding = ~mask.reshape(-1, 1, 1, texts * S)
        added = added + torch.zeros(padding.shape, dtype=q.dtype).masked_fill_(padding, torch.finfo(q.dtype).min)
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=added)
    return mixed.transpose(1, 2).reshape(B, S, H, K).transpose(1, 2)


@lru_cache(maxsize=64)
def _own_text_only(texts: int, S: int, dtype: torch.dtype) -> Tensor:
    """0 between positions of one text, -inf between texts: added to the scores. (1, 1, texts * S, texts * S)"""
    with torch.inference_mode(False):
        text = torch.arange(texts * S) // S
        return torch.zeros(1, 1, texts * S, texts * S, dtype=dtype).masked_fill_(text[:, None] != text, -torch.inf)
