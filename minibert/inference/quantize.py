"""Products of 8-bit whole numbers: weights with one scale a row, activations with one range a token.

A token's range is its own, so a text's vector does not depend on what else is in the batch. The range goes from the
token's lowest to its highest number rather than from -highest to highest, because what a BERT sends into its products
is lopsided (one channel stands out, GELU has no negative tail): on all-MiniLM-L6-v2 this halves the error.

Such numbers are soon multiplied; what takes the time is every pass over them before and after. So there are few, and
those after are in place: new memory costs more than arithmetic.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from .kernels import bend

ROUNDS = 1.5 * 2**23  # a float32 of this size has no digits after the point


class Int8:
    """int8 weights, activations as uint8; sums in int32, results in float32."""

    def pack(self, weight: Tensor, bias: Tensor) -> Any:
        """Weights (O, I) in [-127, 127] with a scale each row; what a shift of x by 1 adds to each output; biases."""
        scale = weight.abs().amax(-1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        whole = (weight / scale[:, None]).round()
        shift = whole.sum(-1) * scale
        packed = whole.to(torch.int8)
        if onednn_computes_int8():
            packed = torch.ops.onednn.qlinear_prepack(packed, None)
        return packed, scale, shift, bias

    def multiply(self, x: Tensor, packed: Any, activation: str | None) -> Tensor:
        """Products of x (..., I) -> (..., O), float32"""
        weight, scale, shift, bias = packed
        levels, zero, step = to_levels(x.reshape(-1, x.shape[-1]).float())
        y = _product(levels, weight, scale).addr_(zero, shift, alpha=-1)
        torch.addcmul(bias, y, step[:, None], out=y)
        return (torch.ops.aten.gelu_(y) if activation == "gelu" else bend(y, activation)).unflatten(0, x.shape[:-1])

    def multiply_onto(self, residual: Tensor, x: Tensor, packed: Any) -> Tensor:
        """Products of x (..., I), added to the residual (..., O)"""
        return self.multiply(x, packed, None).add_(residual)


def to_levels(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers as (levels - zero) * step, by row. (M, I) float32 -> (M, I) uint8, (M,), (M,) float32

    The range of a row takes in 0, so that 0 is a level, too, and ``zero`` is whole and lies within 0 and 254.
    """
    lowest = rows.amin(-1).clamp_max_(0)
    step = rows.amax(-1).clamp_min_(0).sub_(lowest).clamp_min_(1e-12).mul_(1 / 254)
    inverse = step.reciprocal()
    zero = lowest.mul_(inverse).neg_().round_()
    # Added to a whole number so large, a float32 is rounded to whole numbers, and its last 8 bits are the level.
    shifted = (rows * inverse[:, None]).add_((zero + ROUNDS)[:, None])
    return shifted.view(torch.int32).to(torch.int8).view(torch.uint8), zero, step


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
    """Whether oneDNN's int8 operator, undocumented too, is there and gives the exact sums."""
    levels = torch.arange(64, dtype=torch.uint8).view(2, 32) * 4
    weight, scale = (torch.arange(96).view(3, 32) - 48).to(torch.int8), torch.tensor([0.5, 1.0, 2.0])
    try:
        product = _product(levels, torch.ops.onednn.qlinear_prepack(weight, None), scale)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.equal(product, _product(levels, weight, scale))
