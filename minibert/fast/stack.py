"""BERT's embeddings and layers once more: the fast twin of the page, over packed tokens.

`encode` and `predict` use it, without gradients; nothing else does. It computes the page's formulas with
query, key and value as one product, activations and residuals inside the products, and nothing for padding. Tests
hold it to the page, and so does a check in every process (`check.py`).

    B texts    S longest text    D hidden size    F intermediate size    T packed tokens, rounded up

Products are oneDNN's, with weights stored in the order in which it reads them. It adds the bias and activates while
the result is in cache, and uses bfloat16 instructions. torch calls it by an operator that is not documented, so
`onednn_works` tries it on numbers first; where it is missing or wrong, torch's documented operators compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..model import Activation, Bert, Embeddings, EncoderLayer, LayerNorm
from ..tokenizer import Tokens
from .changes import track, version
from .tokens import PackedTokens, attend, attend_first, round_up


class FastEmbeddings:
    """Token, position and token type, summed and normalised. T packed ids -> (T, D)"""

    def __init__(self, embeddings: Embeddings) -> None:
        tables = embeddings.token, embeddings.position, embeddings.token_type
        self.token, self.position, self.token_type = (table.weight for table in tables if table is not None)
        self.norm = _norm(embeddings.norm)

    def __call__(self, texts: PackedTokens) -> Tensor:
        """Look up and add in the page's order, so that rounding is the same."""
        x = torch.embedding(self.token, texts.input_ids)
        types = texts.token_type_ids
        x.add_(self.token_type[0] if types is None else torch.embedding(self.token_type, types))
        if texts.aligned:
            x[: texts.count].view(*texts.shape, -1).add_(self.position[: texts.shape[1]])
        else:
            x.add_(torch.embedding(self.position, texts.positions))
        return torch.layer_norm(x, *self.norm)


class FastLayer:
    """Attention, then feed-forward; each adds to its input and the sum is normalised. Weights are packed when used."""

    by = "fast"
    attend, attend_first = staticmethod(attend), staticmethod(attend_first)

    def __init__(self, layer: EncoderLayer, arithmetic: Arithmetic) -> None:
        self.layer, self.arithmetic = layer, arithmetic
        attention, feed_forward = layer.attention, layer.feed_forward
        self.weights = track(layer)
        self.products = [weight for part in layer.modules() if type(part) is nn.Linear for weight in part.parameters()]
        self.head_size = attention.head_size
        self.activation = activation_name(feed_forward.activation) or ""
        self.attention_norm, self.feed_forward_norm = _norm(layer.attention_norm), _norm(layer.feed_forward_norm)
        # Equal where the same is computed. Versions are read before packing, so that a change meanwhile is noticed.
        norms = [id(x) if isinstance(x, Tensor) else x for x in (*self.attention_norm, *self.feed_forward_norm)]
        self.key: list[Any] = [arithmetic, self.head_size, self.activation, *norms, *map(version, self.weights)]

    def __call__(self, x: Tensor, texts: PackedTokens) -> Tensor:
        """Compute all tokens. (T, D) -> (T, D)"""
        return self._after_attention(x, self.attend(self._qkv(x), texts, self.head_size))

    def first(self, x: Tensor, texts: PackedTokens) -> Tensor:
        """Compute each text's first token only; keys and values are needed of all tokens. (T, D) -> (B, D)"""
        B = texts.shape[0]
        filler = (0, round_up(B, 4) - B)
        first = x.index_select(0, functional.pad(texts.first, filler))
        attended = self.attend_first(self._query(first)[:B], self._key_value(x), texts, self.head_size)
        return self._after_attention(first, functional.pad(attended, (0, 0, *filler)))[:B]

    def _after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        x = torch.layer_norm(self._out.add(attended, x), *self.attention_norm)
        return torch.layer_norm(self._down.add(self._up(x, self.activation), x), *self.feed_forward_norm)

    @cached_property
    def _qkv(self) -> PackedLinear:  # side by side, (T, D) -> (T, 3 D)
        attention = self.layer.attention
        return pack(self.arithmetic, attention.query, attention.key, attention.value)

    @cached_property
    def _query(self) -> PackedLinear:
        return pack(self.arithmetic, self.layer.attention.query)

    @cached_property
    def _key_value(self) -> PackedLinear:  # side by side, (T, D) -> (T, 2 D)
        return pack(self.arithmetic, self.layer.attention.key, self.layer.attention.value)

    @cached_property
    def _out(self) -> PackedLinear:
        return pack(self.arithmetic, self.layer.attention.out)

    @cached_property
    def _up(self) -> PackedLinear:
        return pack(self.arithmetic, self.layer.feed_forward.up)

    @cached_property
    def _down(self) -> PackedLinear:
        return pack(self.arithmetic, self.layer.feed_forward.down)

    def pack(self, *, first: bool) -> None:
        """Pack all weights now that calls will use, where ``first`` is the last layer of CLS pooling."""
        _ = (self._query, self._key_value) if first else self._qkv, self._out, self._up, self._down


class Stack:
    """The embeddings and layers of a Bert, fast where they are the page's own and by the page's code where not.

    A part of one's own is given unpadded texts of one length: what it makes of padding can't be known.
    """

    failure = note = ""  # on a GPU: why the page goes on, and what else to know
    why_not: Callable[[Sequence[Any]], str] = staticmethod(lambda layers: "")  # why such layers can't be computed here

    def __init__(self, bert: Bert, embeddings: FastEmbeddings | None, layers: Sequence[FastLayer | None]) -> None:
        self.bert, self.embeddings, self.layers = bert, embeddings, list(layers)

    def compute(self, tokens: Tokens, rows: np.ndarray, *, first_only: bool) -> tuple[Tensor, Tensor | None]:
        """Return some texts' last hidden states and a mask (B, S) where there is padding. NaN stays in its own text."""
        texts, lengths = PackedTokens(tokens, rows), tokens.lengths[rows]
        x, mask = self(texts, first_only=first_only), texts.mask
        if len(rows) > 1 and not math.isfinite(x.sum()):
            alone = [
                self(PackedTokens(tokens, row), first_only=first_only) if length else x[:1, :0]
                for row, length in zip(rows[:, None], lengths, strict=True)
            ]
            x = torch.cat([functional.pad(own, (0, 0, 0, x.shape[1] - own.shape[1])) for own in alone])
        if first_only and mask is not None:  # a text without tokens has no first one, as the mask says
            mask = mask[:, :1] if not lengths.min() else None
        return x, mask

    def __call__(self, texts: PackedTokens, *, first_only: bool = False) -> Tensor:
        """Return the last hidden state (B, S, D), or (B, 1, D) of each text's first token; padding holds anything."""
        if self.embeddings is not None:
            x, packed = self.embeddings(texts), True
        else:
            x, packed = self.bert.embeddings(*texts.as_page_input()), False
        for left, layer, fast in zip(range(len(self.layers))[::-1], self.bert.layers, self.layers, strict=True):
            if fast is None or not (packed or texts.fit(x, fast.attention_norm[0][0])):
                x, packed = layer(texts.unpack(x) if packed else x, texts.attended), False
                continue
            x = x if packed else texts.pack(x)
            if first_only and left == 0:
                return fast.first(x, texts).unsqueeze(1)
            x, packed = fast(x, texts), True
        x = texts.unpack(x) if packed else x
        return x[:, :1] if first_only else x


def _norm(norm: LayerNorm) -> tuple[tuple[int, ...], Tensor, Tensor, float]:
    """Return what torch.layer_norm takes after x."""
    return tuple(norm.weight.shape), norm.weight, norm.bias, norm.eps


def activation_name(activation: Activation) -> str | None:
    """Return config.json's name of the page's formula; None for a formula of one's own."""
    return next((name for name, formula in Activation.formulas.items() if formula is activation.formula), None)


# The page's activations by oneDNN's names: an operation after the product, and its algorithm.
ONEDNN_NAMES = {None: ("none", ""), "gelu": ("gelu", "none"), "gelu_new": ("gelu", "tanh"), "relu": ("relu", "")}


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
        name, algorithm = ONEDNN_NAMES.get(activation, ONEDNN_NAMES[None])
        y = torch.ops.mkldnn._linear_pointwise.default(x.to(self.dtype), self.weight, self.bias, name, [], algorithm)
        return y if activation in ONEDNN_NAMES else activate(y, activation)

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
    added = [layer.weight.new_zeros(1) if layer.bias is None else layer.bias.detach() for layer in layers]
    biases = [bias.expand(len(weight)) for bias, weight in zip(added, weights, strict=True)]
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
    x = torch.linspace(-2, 2, 64, dtype=torch.float32).view(2, 32).to(dtype)
    weight = torch.linspace(-1, 1, 96, dtype=torch.float32).view(3, 32).to(dtype)
    bias = torch.tensor([-1.0, 0.0, 1.0], dtype=dtype)
    plain = functional.linear(x.float(), weight.float(), bias.float())
    rtol = 4 * torch.finfo(dtype).eps
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        for activation, (name, algorithm) in ONEDNN_NAMES.items():
            result = torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, name, [], algorithm)
            if not torch.allclose(result.float(), activate(plain, activation), rtol=rtol, atol=1e-5):
                return False
        if dtype is torch.float32:
            result = torch.ops.mkldnn._linear_pointwise.binary(x, plain, packed, bias, "add")
            return torch.allclose(result, plain + plain, rtol=rtol, atol=1e-5)
    except (AttributeError, RuntimeError, NotImplementedError):  # another torch, another processor
        return False
    return True
