"""Linear layers with their weights packed for the processor, several that read the same input as one product.

oneDNN multiplies faster when weights are stored in the order in which its kernels read them. It adds the bias and
applies the activation while the result is in cache, and it uses bfloat16 instructions where there are some. torch's
own compiler calls it by an operator that is not documented. `onednn_works` tries that operator on numbers first; where
it is missing or wrong, torch's documented operators compute.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..model import Activation

# The page's activations by oneDNN's names: an operation after the product, and its algorithm.
FUSED = {None: ("none", ""), "gelu": ("gelu", "none"), "gelu_new": ("gelu", "tanh"), "relu": ("relu", "")}


class PackedLinear(Protocol):
    """Weights (O, I) and biases (O,), packed for one arithmetic."""

    def __call__(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Multiply, add the bias, activate. x (T, I), any float -> (T, O), in the float that costs least"""

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """Multiply, add the bias and the residual. x (T, I), residual (T, O) -> (T, O), the residual's dtype"""


Arithmetic = Callable[[Tensor, Tensor], PackedLinear]  # of a weight and a bias


class OneDnnLinear:
    """Weights in oneDNN's own order; sums in float32."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight, None), bias
        self.dtype = weight.dtype

    def __call__(self, x: Tensor, activation: str | None = None) -> Tensor:
        """(T, I) -> (T, O), in this dtype"""
        name, algorithm = FUSED.get(activation, FUSED[None])
        y = torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.weight, self.bias, name, [], algorithm)
        return y if activation in FUSED else activate(y, activation)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """In float32 oneDNN adds the residual. In bfloat16 it is added afterwards, so that it stays float32."""
        if self.dtype is not torch.float32:
            return self(x).float().add_(residual)
        return torch.ops.mkldnn._linear_pointwise.binary(x.float(), residual, self.weight, self.bias, "add")


class PlainLinear:
    """The same by torch's documented operators."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor, activation: str | None = None) -> Tensor:
        """(T, I) -> (T, O), in the weight's dtype"""
        return activate(functional.linear(x.to(self.weight.dtype), self.weight, self.bias), activation)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """(T, I), (T, O) -> (T, O), in the residual's dtype"""
        return residual + self(x)


def pack_float32(weight: Tensor, bias: Tensor) -> PackedLinear:
    """Pack for exact products: in float32, or in float64 where the weights are."""
    onednn = weight.dtype is torch.float32 and onednn_works(torch.float32)
    return (OneDnnLinear if onednn else PlainLinear)(weight, bias)


def pack_bfloat16(weight: Tensor, bias: Tensor) -> PackedLinear:
    """Pack for products of bfloat16 factors, summed in float32."""
    return (OneDnnLinear if onednn_works(torch.bfloat16) else PlainLinear)(weight.bfloat16(), bias.bfloat16())


def pack(arithmetic: Arithmetic, *layers: nn.Linear) -> PackedLinear:
    """Pack layers that read the same input as one, their outputs side by side."""
    weights: list[Tensor] = [layer.weight.detach() for layer in layers]
    biases: list[Tensor] = [
        layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach() for layer in layers
    ]
    # A single bias is copied too: otherwise it would keep its whole file mapped.
    return arithmetic(torch.cat(weights) if len(weights) > 1 else weights[0], torch.cat(biases))


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Apply the page's activation of that name, in one pass where torch has one. None returns x."""
    if activation is None:
        return x
    if activation in ("gelu", "gelu_new"):
        return functional.gelu(x, approximate="none" if activation == "gelu" else "tanh")
    return Activation.formulas[activation](x)


@cache
def onednn_works(dtype: torch.dtype) -> bool:
    """Return True if oneDNN's operator exists and gives torch's numbers, with each fused activation."""
    x, weight = _sample(2, 2, 32).to(dtype), _sample(1, 3, 32).to(dtype)
    bias = torch.tensor([-1.0, 0.0, 1.0], dtype=dtype)
    plain = functional.linear(x.float(), weight.float(), bias.float())
    rtol = 4 * torch.finfo(dtype).eps
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        for activation, (name, algorithm) in FUSED.items():
            result = torch.ops.mkldnn._linear_pointwise(x, packed, bias, name, [], algorithm)
            if not torch.allclose(result.float(), activate(plain, activation), rtol=rtol, atol=1e-5):
                return False
        if dtype is torch.float32:
            result = torch.ops.mkldnn._linear_pointwise.binary(x, plain, packed, bias, "add")
            return torch.allclose(result, plain + plain, rtol=rtol, atol=1e-5)
    except (AttributeError, RuntimeError, NotImplementedError):  # another torch, another processor
        return False
    return True


def _sample(largest: float, *shape: int) -> Tensor:
    return torch.linspace(-largest, largest, shape[0] * shape[1], dtype=torch.float32).view(shape)
