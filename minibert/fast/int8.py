"""Linear layers in 8-bit integers: weights with one scale a row, activations with one range a token.

Each token has its own range, so a text's vector does not depend on the rest of the batch. The range goes from the
token's lowest to its highest number, because BERT's activations are lopsided: one channel stands out, and GELU has no
negative tail. On all-MiniLM-L6-v2 this halves the error of a symmetric range.
The passes around a product take its time. So quantizing is one pass (by torch's operator for rows of embedding
tables), and those afterwards work in place: new memory costs more than arithmetic.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from .stack import activate


class Int8Linear:
    """int8 weights in [-127, 127], activations as uint8; sums in int32, results in float32."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.scale, self.shift = quantize_rows(weight, bias)
        self.bias, self.zeros = bias, torch.zeros_like(self.scale, dtype=torch.int64)
        if onednn_int8_works():
            self.weight = torch.ops.onednn.qlinear_prepack(self.weight, None)

    def __call__(self, x: Tensor, activation: str | None = None) -> Tensor:
        """(T, I) -> (T, O), float32"""
        levels, step, lowest = to_levels(x.float())
        y = _product(levels, self.weight, self.scale, self.zeros)
        y = torch.addcmul(self.bias, y, step, out=y).addr_(lowest, self.shift)
        return torch.ops.aten.gelu_.default(y) if activation == "gelu" else activate(y, activation)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """(T, I), (T, O) -> (T, O), float32"""
        return self(x).add_(residual)


def quantize_rows(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weight's whole numbers, each row's scale, and what its output grows by where all of x grows by 1."""
    largest = torch.linalg.vector_norm(weight, torch.inf, -1)
    scale = largest.clamp_min(torch.finfo(torch.float32).tiny) / 127
    whole = (weight / scale[:, None]).round_()
    shift = whole.sum(-1) * scale
    if not (largest.isfinite().all() and bias.isfinite().all()):
        scale = torch.full_like(scale, torch.nan)  # whole numbers would lose it
    return whole.to(torch.int8), scale, shift


def to_levels(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize each row: x = levels * step + lowest. (T, I) float32 -> (T, I) uint8, (T, 1) and (T,) float32"""
    levels, step, lowest = _prepacked_levels(rows) if prepack_works() else _plain_levels(rows)
    if not math.isfinite(rows.sum()):  # levels would lose it: such a row's lowest and results are NaN
        lowest = lowest.masked_fill(~rows.isfinite().all(-1), math.nan)
    return levels, step, lowest


def _prepacked_levels(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    together = torch.ops.quantized.embedding_bag_byte_prepack.default(rows)  # levels, then the bytes of step and lowest
    levels, ends = together.split_with_sizes([rows.shape[1], 8], 1)
    aligned = rows.shape[1] % 4 == 0  # then they need no copy, which takes as long as rounding
    ends = (ends if aligned else ends.contiguous()).view(torch.float32)
    return levels.contiguous(), ends.narrow(1, 0, 1), ends.select(1, 1)


def _plain_levels(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    lowest = rows.amin(-1, keepdim=True)
    step = (rows.amax(-1, keepdim=True) - lowest) / 255
    levels = ((rows - lowest) / step.clamp_min(torch.finfo(torch.float32).tiny)).round_()
    return levels.to(torch.uint8), step, lowest.view(-1)


@cache
def prepack_works() -> bool:
    """Return True if torch's operator for rows of embedding tables exists and quantizes as `_plain_levels` does."""
    rows = torch.linspace(-1, 3, 64, dtype=torch.float32).square().view(2, 32)
    try:
        levels, step, lowest = _prepacked_levels(rows)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    apart = (levels * step + lowest[:, None] - rows).abs()
    return bool((apart <= 0.51 * step).all()) and torch.allclose(step, _plain_levels(rows)[1])


def _product(levels: Tensor, weight: Tensor, scale: Tensor, zeros: Tensor) -> Tensor:
    """Multiply levels (T, I) uint8 by weights (O, I) int8 -> (T, O) float32"""
    if weight.layout is torch.strided:
        return levels.float() @ (weight.float() * scale[:, None]).T
    return torch.ops.onednn.qlinear_pointwise.default(
        levels, 1.0, 0, weight, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


@cache
def onednn_int8_works() -> bool:
    """Return True if oneDNN's int8 operator exists and its sums are exact; in 16 bits, extremes would overflow."""
    levels = 255 - torch.arange(64, dtype=torch.uint8).view(2, 32)
    weight = (127 - torch.arange(96).view(3, 32)).to(torch.int8)
    scale, zeros = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float32), torch.zeros(3, dtype=torch.int64)
    try:
        product = _product(levels, torch.ops.onednn.qlinear_prepack(weight, None), scale, zeros)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.equal(product, _product(levels, weight, scale, zeros))
