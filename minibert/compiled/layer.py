"""A layer of the stack whose formulas are machine code: packed weights and one call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from ..config import ConfigError, read_json
from ..fast.int8 import quantize_rows
from ..fast.prepare import ARITHMETICS
from ..fast.stack import FastLayer
from ..fast.tokens import PackedTokens
from ..model import EncoderLayer
from .build import MANIFEST, why_not_here

GROUPS = {"float32": 1, "bfloat16": 2, "int8": 4}  # inputs of four bytes together; in the order of `Layer.arithmetic`
ACTIVATIONS = {"gelu": 1, "gelu_new": 2, "relu": 3}  # Activation of vectors.h
POINTER, INT = ctypes.c_void_p, ctypes.c_int32


class Product(ctypes.Structure):
    """Product of products.h."""

    _fields_ = [(name, POINTER) for name in ("weight", "bias", "scale", "shift")] + [
        (name, ctypes.c_int64) for name in ("out", "into")
    ]


class Norm(ctypes.Structure):
    """Norm of products.h."""

    _fields_ = [("weight", POINTER), ("bias", POINTER), ("eps", ctypes.c_float)]


class Layer(ctypes.Structure):
    """Layer of layer.cpp."""

    _fields_ = [
        *((name, Product) for name in ("qkv", "query", "key_value", "out", "up", "down")),
        *((name, Norm) for name in ("attention_norm", "feed_forward_norm")),
        *((name, INT) for name in ("heads", "head_size", "activation", "arithmetic")),
    ]


@dataclass(frozen=True)
class Library:
    """Machine code of layer.cpp, loaded into this process."""

    path: Path
    digest: str

    @cached_property
    def _code(self) -> ctypes.CDLL:
        code = ctypes.CDLL(str(self.path))
        if not hasattr(code, "minibert_layer"):
            raise OSError(f"{self.path} is not a library of minibert")
        code.minibert_layer.argtypes = [*[POINTER] * 5, *[ctypes.c_int] * 3]
        return code

    def load(self) -> None:
        """Raise OSError if it can't be loaded."""
        _ = self._code

    @cached_property
    def panel(self) -> int:
        """Outputs that are computed at once."""
        return int(self._code.minibert_panel())

    def compute(self, layer: Layer, x: Tensor, y: Tensor, texts: PackedTokens, *, first: bool) -> None:
        """Compute a layer into y, on as many threads as torch uses. Raise MemoryError."""
        places = (counts.__array_interface__["data"][0] for counts in (texts.lengths, texts.seen))  # not slow `ctypes`
        arguments = x.data_ptr(), y.data_ptr(), *places, len(texts.lengths), first, torch.get_num_threads()
        if not self._code.minibert_layer(ctypes.addressof(layer), *arguments):
            raise MemoryError("a compiled layer could not get memory for its states")

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path, str]]:
        """Pickle where it is, and its digest. Where there is another file, or none, the stack computes."""
        return restore, (self.path.absolute(), self.digest)


def restore(path: Path, digest: str) -> Library | None:
    """Return the library of a pickled encoder, if its file is the same and fits this processor."""
    try:
        facts = read_json(path.with_name(MANIFEST))
    except (OSError, ConfigError):
        return None
    same = facts.get("sha256") == digest and not why_not_here(path, facts)
    return Library(path, digest) if same else None


class CompiledLinear:
    """Weights (O, I) as panels of so many outputs, input by input; and biases (O,)."""

    def __init__(self, panel: int, arithmetic: str, weight: Tensor, bias: Tensor) -> None:
        (out, into), group = weight.shape, GROUPS[arithmetic]
        self.scale: Tensor | None = None
        self.shift: Tensor | None = None
        if arithmetic == "int8":
            weight, self.scale, self.shift = quantize_rows(weight, bias)
        elif arithmetic == "bfloat16":
            weight = weight.bfloat16()
        fill = partial(functional.pad, pad=(0, -out % panel))
        weight = functional.pad(weight, (0, -into % group, 0, -out % panel))
        self.weight = weight.reshape(-1, panel, weight.shape[1] // group, group).permute(0, 2, 1, 3).contiguous()
        self.bias = fill(bias).contiguous()
        if self.scale is not None and self.shift is not None:
            self.scale, self.shift = fill(self.scale), fill(self.shift)
        pointers = (None if x is None else x.data_ptr() for x in (self.weight, self.bias, self.scale, self.shift))
        self.product = Product(*pointers, out, into)


class CompiledLayer(FastLayer):
    """The same layer, computed by a library."""

    by = "compiled"

    def __init__(self, library: Library, arithmetic: str, layer: EncoderLayer) -> None:
        pack: Any = partial(CompiledLinear, library.panel, arithmetic)
        super().__init__(layer, pack)
        self.library, self.name = library, arithmetic
        self._described: dict[bool, tuple[list[int], Layer]] = {}
        self.key[0] = library, arithmetic  # of arithmetics, every `partial` is another

    def __call__(self, x: Tensor, texts: PackedTokens) -> Tensor:
        """Compute all tokens. (T, D) -> (T, D), without filler"""
        return self._compute(x, texts, texts.count, first=False)

    def first(self, x: Tensor, texts: PackedTokens) -> Tensor:
        """Compute each text's first token only. (T, D) -> (B, D)"""
        return self._compute(x, texts, texts.shape[0], first=True)

    def _compute(self, x: Tensor, texts: PackedTokens, rows: int, *, first: bool) -> Tensor:
        if x.dtype is not torch.float32 or not x.is_contiguous():
            x = x.float().contiguous()
        y = torch.empty(rows, x.shape[1], dtype=torch.float32)
        norms = *self.attention_norm[1:3], *self.feed_forward_norm[1:3]
        places = [norm.data_ptr() for norm in norms]  # norms are read live, as in the stack
        described = self._described.get(first)
        if described is None or described[0] != places:
            described = self._described[first] = places, self._describe(first, places)
        self.library.compute(described[1], x, y, texts, first=first)
        return y

    def _describe(self, first: bool, places: list[int]) -> Layer:
        """Return the library's description of this layer, whose norms are in these places."""
        packed = {"query": self._query, "key_value": self._key_value} if first else {"qkv": self._qkv}
        packed |= {"out": self._out, "up": self._up, "down": self._down}
        products: dict[str, Any] = {name: linear.product for name, linear in cast("dict[str, Any]", packed).items()}
        return Layer(
            **products,
            attention_norm=Norm(*places[:2], self.attention_norm[3]),
            feed_forward_norm=Norm(*places[2:], self.feed_forward_norm[3]),
            heads=products["out"].into // self.head_size,
            head_size=self.head_size,
            activation=ACTIVATIONS[self.activation],
            arithmetic=[*GROUPS].index(self.name),
        )


def layer_maker(library: Library, arithmetic: str) -> Callable[[Any], FastLayer]:
    """Return what makes a compiled layer of the page's, or the stack's own of one that the library lacks."""

    def make(layer: EncoderLayer) -> FastLayer:
        fast = FastLayer(layer, ARITHMETICS[arithmetic])
        norms = *fast.attention_norm[1:3], *fast.feed_forward_norm[1:3]
        suits = fast.activation in ACTIVATIONS and fast.head_size % 2 == 0
        suits = suits and all(weight.dtype is torch.float32 for weight in fast.weights)
        suits = suits and all(isinstance(norm, Tensor) and norm.is_contiguous() for norm in norms)  # read in place
        return CompiledLayer(library, arithmetic, layer) if suits else fast

    return make
