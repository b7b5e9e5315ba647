"""Which numbers products are computed in: what was asked for, and whether this processor is good at it."""

from __future__ import annotations

import math
import time
import warnings
from functools import cache, partial

import torch

from .int8 import Int8
from .linear import Arithmetic, in_bfloat16, in_float32
from .workers import on_one_core

# By the name that `dtype` takes. All else (weights, norms, softmax, residuals) stays float32.
ARITHMETICS: dict[str, Arithmetic] = {"float32": in_float32, "bfloat16": in_bfloat16, "int8": Int8}


def choose(
    dtype: str | torch.dtype | None, device: torch.device, *, prepared: bool
) -> tuple[str | torch.dtype | None, str]:
    """The dtype to load weights in, and the arithmetic of the products.

    On a prepared CPU bfloat16 and int8 are arithmetics: the weights stay float32, mapped from the file. Elsewhere
    bfloat16 is a dtype like others, which the weights are converted to.

    Raises:
        ValueError: int8 where there is no such arithmetic.
    """
    name = str(dtype).removeprefix("torch.")
    if name == "int8" and (device.type != "cpu" or not prepared):
        raise ValueError("int8 is an arithmetic of prepared encoders on the CPU: use device='cpu', or another dtype")
    if name in ("bfloat16", "int8") and device.type == "cpu" and prepared:
        return None, name
    return dtype, "float32"


def warn_if_slow(name: str) -> None:
    """Say so where this processor takes longer for such products than for float32's, by measuring both."""
    ratio = times_float32(name)
    if ratio > 1:
        warnings.warn(
            f"{name} makes products {ratio:.1f} times as slow as float32 on this processor (measured just now: it has "
            f"no fast instructions for {name}); dtype='float32' is faster here, and exact",
            stacklevel=4,
        )


@cache
def times_float32(name: str) -> float:
    """How many times as long as float32's a product takes on one core: the best of several turns of each."""
    return on_one_core(partial(_race, name))


@torch.inference_mode()
def _race(name: str) -> float:
    x, weight, bias = torch.ones(128, 384), torch.ones(1536, 384), torch.ones(1536)
    seconds = {"float32": math.inf, name: math.inf}
    packed = {each: ARITHMETICS[each](weight, bias) for each in seconds}
    for _ in range(8):
        for each in seconds:
            started = time.perf_counter()
            packed[each].multiply(x)
            seconds[each] = min(seconds[each], time.perf_counter() - started)
    return seconds[name] / seconds["float32"]
