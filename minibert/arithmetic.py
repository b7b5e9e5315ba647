"""Which arithmetic the products of an encoder are in, whether this processor is slow at it, and what changes it."""

from __future__ import annotations

import math
import time
from functools import cache, partial

import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from .batches import on_one_core
from .display import warn
from .fast.prepare import ARITHMETICS


def choose(
    dtype: str | torch.dtype | None, device: torch.device, *, fast: bool
) -> tuple[str | torch.dtype | None, str]:
    """Return the dtype to load weights in, and the arithmetic of the products. Raise ValueError for int8 elsewhere.

    On the CPU, bfloat16 and int8 are arithmetics of the stack: the weights stay float32, mapped from the file.
    """
    name = str(dtype).removeprefix("torch.")
    here = fast and device.type == "cpu"
    if name == "int8" and not here:
        raise ValueError("int8 needs the fast stack on the CPU: use device='cpu' without fast=False, or another dtype")
    if here and name in ("bfloat16", "int8", "float16") and (ratio := times_float32(name)) > 1:
        warn(
            f"{name} makes products {ratio:.1f} times as slow as float32 on this processor (measured just now: it has "
            f"no fast instructions for {name}); dtype='float32' is faster here, and exact"
        )
    return (None, name) if here and name in ARITHMETICS else (dtype, "float32")


@cache
def times_float32(name: str) -> float:
    """Return how many times as long as float32's a product takes on one core: the best of several turns of each."""
    return on_one_core(partial(_race, name))


@torch.inference_mode()
def _race(name: str) -> float:
    x, weight, bias = (torch.ones(shape, dtype=torch.float32) for shape in ((128, 384), (1536, 384), (1536,)))
    seconds = {"float32": math.inf, name: math.inf}
    half = partial(nn.functional.linear, weight=weight.half(), bias=bias.half())  # the page's: not of the stack
    packed = {each: ARITHMETICS[each](weight, bias) if each in ARITHMETICS else half for each in seconds}
    x_of = {each: x if each in ARITHMETICS else x.half() for each in seconds}
    for _ in range(8):
        for each in seconds:
            started = time.perf_counter()
            packed[each](x_of[each])
            seconds[each] = min(seconds[each], time.perf_counter() - started)
    return seconds[name] / seconds["float32"]


def changed_torch(device: torch.device) -> str | None:
    """Say what lets torch's functions compute something else around a call, which the page heeds; None for nothing."""
    if torch.is_autocast_enabled("cpu") or (device.type == "cuda" and torch.is_autocast_enabled("cuda")):
        return "autocast is on"
    if torch._C._len_torch_function_stack():  # one of them is `torch.set_default_device`, which changes no results
        own = [type(mode) for mode in _get_current_function_mode_stack() if not isinstance(mode, DeviceContext)]
        return f"the mode {own[0].__name__} may change torch's functions" if own else None
    return None
