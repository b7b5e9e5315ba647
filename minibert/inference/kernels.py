"""The page's own formulas, computed by torch's fused kernels: the same numbers to a few roundings, in fewer passes.

Each class takes the place of a part of the page and has nothing of its own: the weights, the names and the hooks are
those of the part (see `prepare`). Gradients flow through all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import _has_any_global_hook

from ..model import Activation, LayerNorm, ScaledDotProductAttention


class KernelLayerNorm(LayerNorm):
    """One pass where the page makes seven. (B, S, D) -> same"""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; statistics are kept in float32 at least, as on the page."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class KernelActivation(Activation):
    """GELU in one pass where the page makes four (tanh: eight). Any shape -> same"""

    def forward(self, x: Tensor) -> Tensor:
        """Bend; the formulas without a kernel of their own are the page's."""
        if self.formula is Activation.formulas["gelu"]:
            return functional.gelu(x)
        if self.formula is Activation.formulas["gelu_new"]:
            return functional.gelu(x, approximate="tanh")
        return self.formula(x)


class KernelAttention(ScaledDotProductAttention):
    """Scores, softmax and mixing at once, without keeping the scores. q, k, v (B, H, S, K) -> (B, H, S, K)

    Where somebody watches `scores` or `probs`, or dropout is on, it is the page that computes: those values exist
    only there.
    """

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Mix the values; a row that is all padding comes out as on the page."""
        if (
            _has_any_global_hook()
            or _watched(self.scores)
            or _watched(self.probs)
            or _watched(self.dropout)
            or (self.training and self.dropout.p)
        ):
            return super().forward(q, k, v, mask, bias)
        added = bias
        if mask is not None:
            # Added, not boolean: where all is padding, torch's boolean mask gives NaN, and the page the average.
            lowest = torch.finfo(q.dtype).min
            added = torch.zeros((), dtype=q.dtype, device=q.device) if bias is None else bias
            added = torch.where(mask, added, lowest)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=added)


def _watched(part: nn.Module) -> bool:
    """Whether a hook would miss its call, or the part is no longer the page's."""
    stock = type(part) in (nn.Identity, nn.Dropout)
    return not stock or bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks)
