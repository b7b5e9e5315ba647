"""BERT's embeddings and layers once more: the fast twin of the page, over packed tokens.

`encode` and `predict` use it on the CPU, without gradients; nothing else does. It computes the page's formulas with
query, key and value as one product, activations and residuals inside the products, and nothing for padding. Tests
hold it to the page, and so does a check in every process (`check.py`).

    B texts    S longest text    D hidden size    H heads    K head size    T packed tokens, rounded up
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from ..model import Activation, Bert, Embeddings, EncoderLayer, LayerNorm
from .attention import attend, attend_first
from .changes import track, versions
from .linear import Arithmetic, PackedLinear, pack
from .tokens import PackedTokens, round_up


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
        if texts.equal:
            x[: texts.count].view(*texts.shape, -1).add_(self.position[: texts.shape[1]])
        else:
            x.add_(torch.embedding(self.position, texts.positions))
        return torch.layer_norm(x, *self.norm)


class FastLayer:
    """Attention, then feed-forward; each adds to its input and the sum is normalised. x (T, D) -> (T, D)

    It holds packed copies of the layer's weights, made when they are first used.
    """

    def __init__(self, layer: EncoderLayer, arithmetic: Arithmetic) -> None:
        self.layer, self.arithmetic = layer, arithmetic
        attention, feed_forward = layer.attention, layer.feed_forward
        linear = (attention.query, attention.key, attention.value, attention.out, feed_forward.up, feed_forward.down)
        self.weights = [weight for part in linear for weight in part.parameters()]
        track(self.weights)
        self.head_size = attention.head_size
        self.activation = activation_name(feed_forward.activation) or ""
        self.attention_norm, self.feed_forward_norm = _norm(layer.attention_norm), _norm(layer.feed_forward_norm)
        # Equal to another's where both compute the same. Versions are read before anything is packed, so that a change
        # meanwhile is noticed.
        norms = [id(x) if isinstance(x, Tensor) else x for x in (*self.attention_norm, *self.feed_forward_norm)]
        self.key = [arithmetic, self.head_size, self.activation, *norms, *map(id, self.weights), versions(self.weights)]

    def __call__(self, x: Tensor, texts: PackedTokens) -> Tensor:
        """Compute all tokens. (T, D) -> (T, D)"""
        return self._after_attention(x, attend(self.qkv(x), texts, self.head_size))

    def first(self, x: Tensor, texts: PackedTokens) -> Tensor:
        """Compute each text's first token only; keys and values are needed of all tokens. (T, D) -> (B, D)"""
        B = texts.shape[0]
        filler = (0, round_up(B) - B)
        first = x.index_select(0, functional.pad(texts.first, filler))
        attended = attend_first(self.query(first)[:B], self.key_value(x), texts, self.head_size)
        return self._after_attention(first, functional.pad(attended, (0, 0, *filler)))[:B]

    def _after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        x = torch.layer_norm(self.out.add(attended, x), *self.attention_norm)
        return torch.layer_norm(self.down.add(self.up(x, self.activation), x), *self.feed_forward_norm)

    @cached_property
    def qkv(self) -> PackedLinear:
        """Query, key and value side by side. (T, D) -> (T, 3 D)"""
        attention = self.layer.attention
        return pack(self.arithmetic, attention.query, attention.key, attention.value)

    @cached_property
    def query(self) -> PackedLinear:
        """The query alone, for `first`. (B, D) -> (B, D)"""
        return pack(self.arithmetic, self.layer.attention.query)

    @cached_property
    def key_value(self) -> PackedLinear:
        """Key and value side by side, for `first`. (T, D) -> (T, 2 D)"""
        return pack(self.arithmetic, self.layer.attention.key, self.layer.attention.value)

    @cached_property
    def out(self) -> PackedLinear:
        """(T, D) -> (T, D)"""
        return pack(self.arithmetic, self.layer.attention.out)

    @cached_property
    def up(self) -> PackedLinear:
        """(T, D) -> (T, F)"""
        return pack(self.arithmetic, self.layer.feed_forward.up)

    @cached_property
    def down(self) -> PackedLinear:
        """(T, F) -> (T, D)"""
        return pack(self.arithmetic, self.layer.feed_forward.down)

    def pack(self, *, first: bool) -> None:
        """Pack all weights now that a call will use; ``first`` as the last layer of CLS pooling does."""
        for name in ("query", "key_value") if first else ("qkv",):
            getattr(self, name)
        _ = self.out, self.up, self.down


class Stack:
    """The embeddings and layers of a Bert, fast where they are the page's own and by the page's code where not.

    A part of the page is given unpadded texts of one length: what it makes of padding can't be known.
    """

    def __init__(self, bert: Bert, embeddings: FastEmbeddings | None, layers: Sequence[FastLayer | None]) -> None:
        self.bert, self.embeddings, self.layers = bert, embeddings, list(layers)

    def __call__(self, texts: PackedTokens, *, first_only: bool = False) -> Tensor:
        """Return the last hidden state (B, S, D), or (B, 1, D) of each text's first token; padding holds anything."""
        if self.embeddings is not None:
            x, packed = self.embeddings(texts), True
        else:
            x, packed = self.bert.embeddings(*texts.as_page_input()), False
        for left, layer, fast in zip(range(len(self.layers))[::-1], self.bert.layers, self.layers, strict=True):
            if fast is None or not (packed or texts.fit(x)):
                x, packed = layer(texts.unpack(x) if packed else x, None), False
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
