"""Which arithmetic computes, and memory that is used again."""

from __future__ import annotations

from functools import cache

import torch

from .int8 import Int8Linear
from .stack import Arithmetic, pack_bfloat16, pack_float32

# The arithmetic of products, by the name that `dtype` takes. Weights, norms, softmax and residuals stay float32.
ARITHMETICS: dict[str, Arithmetic] = {"float32": pack_float32, "bfloat16": pack_bfloat16, "int8": Int8Linear}


@cache
def keep_freed_memory() -> None:
    """Let glibc keep freed memory of up to 32 MB: to get it anew, page by page, took a fifth of int8's large calls."""
    torch.empty(2**25 - 2**16, dtype=torch.uint8)  # it learns from what is freed: mallopt(3), M_MMAP_THRESHOLD
