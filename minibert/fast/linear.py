"""Linear layers that read the same input, as one product, with their weights laid out for the processor.

oneDNN multiplies faster when weights are stored in the order in which its kernels read them; it adds the bias and
bends the result while it is still in cache, and it uses bfloat16 instructions where there are some. torch calls it
so from its own compiler, by an operator that is not documented: `onednn_computes` tries it on numbers first, and where
it does not exist or is wrong, torch's documented operators compute.

The layers themselves stay what they are: float32, mapped from the file, trainable. What is laid out here is a copy,
made at loading (`loading.py`) or at the first call, and again after every change of a weight.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook

from .kernels import bend
from .watching import replaced, watched

# Our activations by oneDNN's names: an operation after the product, and which algorithm of it.
FUSED = {None: ("none", ""), "gelu": ("gelu", "none"), "gelu_new": ("gelu", "tanh"), "relu": ("relu", "")}

DATA: Any = torch.Tensor.data  # torch's own descriptor
_lock = threading.Lock()


class Packed(Protocol):
    """Weights (O, I) and biases (O,), laid out for the numbers that products are computed in."""

    def multiply(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Multiply, add, and bend. x (..., I), of any float -> (..., O), of the float that comes cheapest"""

    def multiply_onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """The same without bending, added to the residual (..., O), float32 -> float32"""


Arithmetic = Callable[[Tensor, Tensor], Packed]  # weights, biases, both float32


class OneDnn:
    """Weights in oneDNN's own order, which bends and adds while the product is still in cache; sums in float32."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight, None), bias
        self.dtype = weight.dtype

    def multiply(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Products of x (..., I) -> (..., O) in this dtype."""
        name, algorithm = FUSED.get(activation, FUSED[None])
        y = torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.weight, self.bias, name, [], algorithm)
        return y if activation in FUSED else bend(y, activation)

    def multiply_onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """In float32 added by oneDNN, in bfloat16 afterwards: the residual stays float32."""
        if self.dtype is not torch.float32:
            return self.multiply(x).float().add_(residual)
        return torch.ops.mkldnn._linear_pointwise.binary(x.float(), residual, self.weight, self.bias, "add")


class Plain:
    """By torch's documented operators."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    def multiply(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Products of x (..., I) -> (..., O) in the weights' dtype."""
        return bend(functional.linear(x.to(self.weight.dtype), self.weight, self.bias), activation)

    def multiply_onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """In the residual's dtype."""
        return residual + self.multiply(x)


def in_float32(weight: Tensor, bias: Tensor) -> Packed:
    """As exact as the page; plain torch's where oneDNN does not compute."""
    return (OneDnn if onednn_computes(torch.float32) else Plain)(weight, bias)


def in_bfloat16(weight: Tensor, bias: Tensor) -> Packed:
    """Factors in bfloat16, sums in float32; plain torch's where oneDNN does not compute."""
    return (OneDnn if onednn_computes(torch.bfloat16) else Plain)(weight.bfloat16(), bias.bfloat16())


class Product:
    """[x W1ᵀ + b1, x W2ᵀ + b2, ...] side by side, in one arithmetic: ``packed`` computes it."""

    packed: Packed  # as soon as it stands for layers

    def __init__(self, arithmetic: Arithmetic) -> None:
        self.arithmetic = arithmetic
        self._packed_from: list[nn.Parameter] = []  # kept alive, so that no other tensor takes its identity
        self._state: list[tuple[int, int, int]] | None = None

    def stands_for(self, *layers: nn.Linear) -> bool:
        """Whether it may compute in the layers' place: their weights are laid out, again if they have changed.

        Noticed are assignment, loading, optimizers, anything in place, and `.data`. Not noticed are changes through
        memory shared with numpy, and through a `.data` taken before a call and written to after it.
        """
        if watched(*layers) or replaced(*layers):
            return False
        values = [value for layer in layers for value in layer._parameters.values() if value is not None]
        return self._state == state_of(values) or self._lay_out(layers, values)

    def _lay_out(self, layers: Sequence[nn.Linear], values: list[nn.Parameter]) -> bool:
        """False: these are no plain float32 parameters on the CPU, or they count no changes."""
        for value in values:
            if type(value) not in (nn.Parameter, Watched) or value.dtype != torch.float32 or not value.is_cpu:
                return False
            if value.is_inference():
                return False
        count_fused_steps()
        keep_memory()
        with _lock, torch.inference_mode():  # two threads at once only do the same twice
            for value in values:
                value.__class__ = Watched
            weight = _join([layer.weight.detach() for layer in layers])
            # Copied even if it is one alone: else it would keep all of its file mapped.
            bias = torch.cat([torch.zeros(len(y.weight)) if y.bias is None else y.bias.detach() for y in layers])
            self.packed = self.arithmetic(weight, bias)
            self._packed_from = values
            self._state = state_of(values)
        return True

    def __reduce__(self) -> tuple[type[Product], tuple[Arithmetic]]:
        return Product, (self.arithmetic,)  # a copy lays out its own weights


def _join(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]  # one alone need not be copied


def state_of(values: list[nn.Parameter]) -> list[tuple[int, int, int]]:
    """What changes whenever a parameter's numbers may have; empty before it is Watched."""
    return [(id(value), value._version, value.taken) for value in values if isinstance(value, Watched)]


@cache
def count_fused_steps() -> None:
    """From the first call on, let torch count what optimizers with ``fused=True`` write; by itself it does not."""

    def count(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group in optimizer.param_groups:
            if group.get("fused"):
                increment_version(group["params"])

    register_optimizer_step_post_hook(count)


@cache
def keep_memory() -> None:
    """From the first call on, memory of up to 32 MB that was freed is used again, where malloc is glibc's.

    At first glibc gives back to the system whatever is larger than some hundred kilobytes, and gets it again page by
    page, which took a fifth of a large call's time in int8. It learns from what is freed how much is worth keeping
    (mallopt(3), M_MMAP_THRESHOLD), up to this size; nobody has to touch its settings.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


class Watched(nn.Parameter):
    """Counts how often its `.data` was taken: the one way to write to a parameter that torch itself does not count."""

    taken = 0

    @property
    def data(self) -> Tensor:
        """As torch's own."""
        self.taken += 1
        return DATA.__get__(self)

    @data.setter
    def data(self, value: Tensor) -> None:
        self.taken += value is not self  # as `module.to` assigns it where nothing has to move
        DATA.__set__(self, value)


@cache
def onednn_computes(dtype: torch.dtype) -> bool:
    """Whether oneDNN's operator is there and gives torch's numbers, with each fused activation."""
    x, weight = torch.linspace(-2, 2, 64).view(2, 32).to(dtype), torch.linspace(-1, 1, 96).view(3, 32).to(dtype)
    bias = torch.tensor([-1.0, 0.0, 1.0], dtype=dtype)
    plain = functional.linear(x.float(), weight.float(), bias.float())
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        for activation, (name, algorithm) in FUSED.items():
            result = torch.ops.mkldnn._linear_pointwise(x, packed, bias, name, [], algorithm)
            if not torch.allclose(result.float(), bend(plain, activation), rtol=4 * torch.finfo(dtype).eps, atol=1e-5):
                return False
        if dtype is torch.float32:
            result = torch.ops.mkldnn._linear_pointwise.binary(x, plain, packed, bias, "add")
            return torch.allclose(result, plain + bend(plain, None), rtol=4 * torch.finfo(dtype).eps, atol=1e-5)
    except (AttributeError, RuntimeError, NotImplementedError):  # another torch, another processor
        return False
    return True
