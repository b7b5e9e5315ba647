"""Products of 8-bit whole numbers: weights with one scale a row, activations with one range a token.

A token's range is its own, so a text's vector does not depend on what else is in the batch. The range goes from the
token's lowest to its highest number rather than from -highest to highest, because what a BERT sends into its products
is lopsided (one channel stands out, GELU has no negative tail): on all-MiniLM-L6-v2 this halves the error.

Such numbers are soon multiplied; what takes the time is every pass over them before and after. So those before are one
(torch has an operator for it, meant for the rows of embedding tables), and those after are in place: new memory costs
more than arithmetic.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from .kernels import bend


class Int8:
    """int8 weights in [-127, 127], activations as uint8; sums in int32, results in float32."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        largest = torch.linalg.vector_norm(weight, torch.inf, -1)
        scale = largest.clamp_min(torch.finfo(torch.float32).tiny) / 127
        whole = (weight / scale[:, None]).round_()
        self.shift = whole.sum(-1) * scale  # what a shift of x by 1 adds to each output
        self.bias = bias
        if not (largest.isfinite().all() and bias.isfinite().all()):
            scale = torch.full_like(scale, torch.nan)  # among whole numbers it would be lost
        self.scale = scale
        self.weight = whole.to(torch.int8)
        if onednn_computes_int8():
            self.weight = torch.ops.onednn.qlinear_prepack(self.weight, None)

    def multiply(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Products of x (..., I) -> (..., O), float32"""
        levels, step, lowest = to_levels(x.reshape(-1, x.shape[-1]).float())
        y = _product(levels, self.weight, self.scale)
        y = torch.addcmul(self.bias, y, step, out=y).addr_(lowest, self.shift)
        y = torch.ops.aten.gelu_(y) if activation == "gelu" else bend(y, activation)
        return y if x.ndim == 2 else y.unflatten(0, x.shape[:-1])

    def multiply_onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """Products of x (..., I), added to the residual (..., O)"""
        return self.multiply(x).add_(residual)


def to_levels(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers as levels * step + lowest, by row. (M, I) float32 -> (M, I) uint8, (M, 1), (M,) float32

    Of a row in which something is no number, or infinite, the lowest is NaN, and so is all that comes of it.
    """
    levels, step, lowest = _prepacked_levels(rows) if prepack_rounds() else _plain_levels(rows)
    if not math.isfinite(rows.sum()):  # among levels it would be lost
        lowest = lowest.masked_fill(~rows.isfinite().all(-1), math.nan)
    return levels, step, lowest


def _prepacked_levels(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # Each row's levels, then the bytes of its step and of its lowest number.
    together = torch.ops.quantized.embedding_bag_byte_prepack(rows)
    levels, ends = together.split_with_sizes([rows.shape[1], 8], 1)
    aligned = rows.shape[1] % 4 == 0  # then they are read where they lie: copying takes as long as rounding
    ends = (ends if aligned else ends.contiguous()).view(torch.float32)
    return levels.contiguous(), ends.narrow(1, 0, 1), ends.select(1, 1)


def _plain_levels(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    lowest = rows.amin(-1, keepdim=True)
    step = (rows.amax(-1, keepdim=True) - lowest) / 255
    levels = ((rows - lowest) / step.clamp_min(torch.finfo(torch.float32).tiny)).round_()
    return levels.to(torch.uint8), step, lowest.view(-1)


@cache
def prepack_rounds() -> bool:
    """Whether torch's operator for the rows of embedding tables is there and does what is wanted of it here."""
    rows = torch.linspace(-1, 3, 64).square().view(2, 32)
    try:
        levels, step, lowest = _prepacked_levels(rows)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    apart = (levels * step + lowest[:, None] - rows).abs()
    return bool((apart <= 0.51 * step).all()) and torch.allclose(step, _plain_levels(rows)[1])


def _product(levels: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Sums of levels (M, I) uint8, weights (O, I) int8 -> (M, O) float32"""
    if weight.layout is torch.strided:
        return levels.float() @ (weight.float() * scale[:, None]).T
    return torch.ops.onednn.qlinear_pointwise(
        levels, 1.0, 0, weight, scale, _zeros(len(scale)), None, 1.0, 0, torch.float32, "none", [], ""
    )


@cache
def _zeros(many: int) -> Tensor:
    with torch.inference_mode(False):
        return torch.zeros(many, dtype=torch.int64)


@cache
def onednn_computes_int8() -> bool:
    """Whether oneDNN's int8 operator, undocumented too, is there and gives the exact sums, of the largest numbers too.

    (Without instructions for it some processors add two products in 16 bits, which overflow.)
    """
    levels = 255 - torch.arange(64, dtype=torch.uint8).view(2, 32)
    weight, scale = (127 - torch.arange(96).view(3, 32)).to(torch.int8), torch.tensor([0.5, 1.0, 2.0])
    try:
        product = _product(levels, torch.ops.onednn.qlinear_prepack(weight, None), scale)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.equal(product, _product(levels, weight, scale))
