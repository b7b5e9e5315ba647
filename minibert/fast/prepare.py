"""Make a Bert fast, in place, and undo it. There is no second model: parts of the page get another `forward`."""

from __future__ import annotations

from torch import nn

from ..model import (
    Activation,
    Embeddings,
    Encoder,
    EncoderLayer,
    FeedForward,
    LayerNorm,
    MultiHeadAttention,
    Pooler,
    ScaledDotProductAttention,
)
from .arithmetic import ARITHMETICS, warn_if_slow
from .attention import KernelAttention
from .kernels import KernelActivation, KernelEmbeddings, KernelLayerNorm
from .layers import KernelPooler, ProductEncoder, ProductLayer
from .linear import Watched
from .sublayers import ProductAttention, ProductFeedForward, give_products

# Only parts of exactly these classes are taken: what somebody put in their place, or derived from them, stays.
KERNELS: dict[type[nn.Module], type[nn.Module]] = {
    LayerNorm: KernelLayerNorm,
    Embeddings: KernelEmbeddings,
    Activation: KernelActivation,
    ScaledDotProductAttention: KernelAttention,
    MultiHeadAttention: ProductAttention,
    FeedForward: ProductFeedForward,
    EncoderLayer: ProductLayer,
    Encoder: ProductEncoder,
    Pooler: KernelPooler,
}
PAGES = {fast: plain for plain, fast in KERNELS.items()}


def prepare(model: nn.Module, arithmetic: str = "float32") -> None:
    """Let torch's fused kernels compute the page's formulas.

    A part remains the object that it was, with its weights, its name, its hooks; what is replaced by assignment
    afterwards is left alone.

    Args:
        model: All parts in it are prepared; a second call may change the arithmetic.
        arithmetic: "float32": results differ from the page's by rounding. "bfloat16", "int8": on the CPU, and without
            gradients, the linear layers' products are computed so; weights, residuals, norms stay float32. Warns
            where that is slower on this processor.

    Raises:
        ValueError: the arithmetic is unknown.
    """
    if arithmetic not in ARITHMETICS:
        raise ValueError(f"arithmetic must be one of {', '.join(ARITHMETICS)}, not {arithmetic!r}")
    if arithmetic != "float32":
        warn_if_slow(arithmetic)
    _become(model, KERNELS)
    for part in model.modules():
        if isinstance(part, (ProductAttention, ProductFeedForward)):
            give_products(part, ARITHMETICS[arithmetic])
        if isinstance(part, ProductLayer):
            part.laid_out = None


def restore(model: nn.Module) -> None:
    """Undo `prepare`: the page itself computes again."""
    for part in model.modules():
        part.__dict__.pop("products", None)
        part.__dict__.pop("products_apart", None)
        part.__dict__.pop("laid_out", None)
    _become(model, PAGES)
    for value in model.parameters():
        if isinstance(value, Watched):
            object.__setattr__(value, "__class__", nn.Parameter)


def _become(model: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> None:
    for part in model.modules():
        if type(part) in classes:
            part.__class__ = classes[type(part)]
