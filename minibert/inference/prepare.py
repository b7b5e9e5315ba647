"""Make a Bert fast, in place, and undo it. There is no second model: parts of the page get another `forward`."""

from __future__ import annotations

from torch import nn

from ..model import Activation, LayerNorm, ScaledDotProductAttention
from .kernels import KernelActivation, KernelAttention, KernelLayerNorm

# Only parts of exactly these classes are taken: what somebody put in their place, or derived from them, stays.
KERNELS: dict[type[nn.Module], type[nn.Module]] = {
    LayerNorm: KernelLayerNorm,
    Activation: KernelActivation,
    ScaledDotProductAttention: KernelAttention,
}


def prepare(model: nn.Module) -> None:
    """Let torch's fused kernels compute the page's formulas.

    A part remains the object that it was, with its weights, its name, its hooks; what is replaced by assignment
    afterwards is left alone. Results differ from the page's by rounding (2e-7 in float32 on sentence vectors).
    """
    _become(model, KERNELS)


def restore(model: nn.Module) -> None:
    """Undo `prepare`: the page itself computes again."""
    _become(model, {fast: plain for plain, fast in KERNELS.items()})


def _become(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> None:
    for part in model.modules():
        if type(part) in classes:
            part.__class__ = classes[type(part)]  # the kernels add no state, so the object fits either class
