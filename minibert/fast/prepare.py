"""The arithmetic of products, by the name that `dtype` takes. Weights, norms, softmax and residuals stay float32."""

from __future__ import annotations

from .int8 import Int8Linear
from .stack import Arithmetic, pack_bfloat16, pack_float32

ARITHMETICS: dict[str, Arithmetic] = {"float32": pack_float32, "bfloat16": pack_bfloat16, "int8": Int8Linear}
