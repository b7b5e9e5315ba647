"""Drop-in parts that compute the page's formulas by torch's fused kernels, for training and for GPUs.

    fuse(model)         # print(model) shows FusedLayerNorm, FusedActivation, FusedAttention
    unfuse(model)       # the page's own parts again

They are put in by plain assignment and share the parameters of the parts they replace. Results equal the page's to
rounding, gradients included. `encode` needs none of them: it has a stack of its own (`fast`, on a GPU `cuda`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import _has_any_global_hook

from .model import Activation, LayerNorm, ScaledDotProductAttention

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class FusedLayerNorm(LayerNorm):
    """The page's layer norm in one pass instead of seven. (B, S, D) -> same"""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; torch keeps the statistics in float32 at least, as the page does."""
        if not _in_16_bits_on_a_cpu_with_gradients(x):
            return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        # There torch adds the weights' gradients up in 16 bits: a bfloat16 sum of ones stops at 256 (torch 2.13).
        weight, bias = self.weight.float(), self.bias.float()
        return functional.layer_norm(x.float(), weight.shape, weight, bias, self.eps).to(x.dtype)


class FusedActivation(Activation):
    """The page's GELU in one pass instead of four (tanh: eight). Any shape -> same"""

    def forward(self, x: Tensor) -> Tensor:
        """Activate; relu and silu are torch's own on the page already."""
        if self.formula in (self.formulas["gelu"], self.formulas["gelu_new"]):
            return functional.gelu(x, approximate="none" if self.formula is self.formulas["gelu"] else "tanh")
        return self.formula(x)


class FusedAttention(ScaledDotProductAttention):
    """The page's attention in one kernel that never keeps the scores. q, k, v (B, H, S, K) -> (B, H, S, K)

    The page itself computes where `scores` or `probs` are hooked or replaced, or dropout is on: only the page has
    those values.
    """

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Attend; mask and bias as on the page."""
        if self.is_tapped():
            return super().forward(q, k, v, mask, bias)
        added = bias
        if mask is not None:
            # A query that may attend to nothing averages all values on the page. Here its scores are all 0: to a
            # boolean mask torch answers with NaN or zeros, and to the lowest number with wrong gradients (torch 2.13).
            seen = mask.any(-1, keepdim=True)
            q = q.masked_fill(~seen, 0)
            added = torch.zeros((), dtype=q.dtype, device=q.device) if bias is None else bias
            added = torch.where(mask, added, torch.finfo(q.dtype).min * seen.to(q.dtype))
        if not _in_16_bits_on_a_cpu_with_gradients(q):
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=added)
        # On CPUs the kernel's gradients are up to 10 x slower in 16 bits than in float32 (torch 2.13).
        with torch.autocast("cpu", enabled=False):
            wide = None if added is None else added.float()
            return functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=wide).to(q.dtype)

    def is_tapped(self) -> bool:
        """Return True if someone needs values that only the page computes."""
        taps = self.scores, self.probs, self.dropout
        return (self.training and self.dropout.p > 0) or any(
            type(tap) not in (nn.Identity, nn.Dropout) or "forward" in tap.__dict__ or has_hooks(tap) for tap in taps
        )


FUSED: dict[type[nn.Module], type[nn.Module]] = {
    LayerNorm: FusedLayerNorm,
    Activation: FusedActivation,
    ScaledDotProductAttention: FusedAttention,
}


def fuse(model: AnyModule) -> AnyModule:
    """Put fused parts in the places of the page's own, in place, and return the model.

    A part stays where it was replaced, derived from, hooked, or given a `forward` of its own.
    """
    return _put(model, _twins(model, FUSED))


def unfuse(model: AnyModule) -> AnyModule:
    """Put the page's own parts back in the places of fused ones, in place, and return the model."""
    return _put(model, _twins(model, {kind: page for page, kind in FUSED.items()}))


@contextmanager
def fused(model: nn.Module) -> Iterator[None]:
    """Fuse a model for the duration of a `with`, then put the very same parts back, as they have become.

    Parts that were fused before stay so, and what was put in meanwhile stays.
    """
    twins = _twins(model, FUSED)
    _put(model, twins)
    try:
        yield
    finally:
        _put(model, {twin: part for part, twin in twins.items()})


def _in_16_bits_on_a_cpu_with_gradients(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16) and torch.is_grad_enabled()


def has_hooks(*parts: nn.Module) -> bool:
    """Return True if a hook would see the call of one of these."""
    return bool(_has_any_global_hook()) or any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
        for part in parts
    )


def _twins(model: nn.Module, kinds: dict[type[nn.Module], type[nn.Module]]) -> dict[nn.Module, nn.Module]:
    """Return, for each part of these kinds that nobody changed or watches, an empty part of the other kind."""
    parts = (part for part in model.modules() if type(part) in kinds)
    plain = (part for part in parts if "forward" not in part.__dict__ and not has_hooks(part))
    return {part: kinds[type(part)].__new__(kinds[type(part)]) for part in plain}


def _put(model: AnyModule, twins: dict[nn.Module, nn.Module]) -> AnyModule:
    """Put twins in the places of their parts, with all that these have."""
    for part, twin in twins.items():
        twin.__dict__.update(part.__dict__)
    for owner in list(model.modules()):
        for name, inner in owner._modules.items():
            if inner in twins:
                setattr(owner, name, twins[inner])
    return model
