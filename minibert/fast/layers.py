"""The page's layer in one piece, where all of it is still the page's own: no part is called that nobody looks at.

With short texts most of the time goes into calling parts, not into numbers. Where anything is watched, replaced or in
training mode, the page's own `forward` calls the parts, each of which then looks after itself (`sublayers.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model import Encoder, EncoderLayer, Pooler
from .attention import KernelAttention
from .kernels import KernelActivation, KernelLayerNorm, formula_name
from .linear import state_of
from .rows import Real, fill, heads, mix_heads, positions
from .sublayers import ProductAttention, ProductFeedForward, alike, fit
from .watching import Snapshot, every_part, quiet, replaced


@dataclass(frozen=True)
class Asked:
    """What `encode` knows of a call before it begins."""

    quiet: Snapshot | None = None  # holds during the call: of a module that the layers are in
    first_only: bool = False  # of each text only the first position's last state is read, as CLS pooling does
    real_only: bool = False  # no last state is read where there is padding; the mask is (B, 1, 1, S)
    pooled: bool = True  # what the pooler gives is read


NOTHING = Asked()
_asked: ContextVar[Asked] = ContextVar("asked", default=NOTHING)


@contextmanager
def asked(what: Asked) -> Iterator[None]:
    """What this thread computes inside is computed for that call."""
    before = _asked.set(what)
    try:
        yield
    finally:
        _asked.reset(before)


class ProductEncoder(Encoder):
    """The layers, one after another; as a list, so that `layers[3]` is the fourth. x (B, S, D), mask -> (B, S, D)

    Where `first_only` was asked for, the result is (B, 1, D).
    """

    def in_pieces(self, around: Snapshot) -> bool:
        """Whether every layer will be computed in one piece, and so nothing of padding where it is not read."""
        return not torch.is_autocast_enabled("cpu") and all(
            type(layer) is ProductLayer and layer.in_one_piece(around) is not None for layer in self._modules.values()
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """As the page."""
        call = _asked.get()
        if call.quiet is None:
            return super().forward(x, mask)
        layers, ready = list(self._modules.values()), fit(x)
        pieces = [layer.in_one_piece(call.quiet) if ready and type(layer) is ProductLayer else None for layer in layers]
        rows: Tensor | None = None  # of x (B, S, D), as long as layers are computed in one piece
        B, S, D = x.shape
        real = Real(mask) if call.real_only and mask is not None and ready and None not in pieces else None
        for layer, piece in zip(layers, pieces, strict=True):
            first_only = call.first_only and layer is layers[-1]
            if piece is not None and rows is None and fit(x):
                B, S, D = x.shape  # a layer of somebody's own may have given another
                rows = x.reshape(B * S, D)
                rows = fill(rows) if real is None else real.gather(rows)
            elif piece is None and rows is not None:
                x, rows = positions(rows, real, (B, S)), None
            if piece is not None and rows is not None:
                rows = piece(rows, (B, S), mask, first_only=first_only, real=real)
                if first_only:
                    S, real = 1, None
            else:
                x = layer(x, mask)
                x = x[:, :1] if first_only else x
        return x if rows is None else positions(rows, real, (B, S))


class KernelPooler(Pooler):
    """As the page, where anybody reads it: sentence encoders don't, and its weights are many for a short text."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, D), or nothing (0, D)"""
        call = _asked.get()
        return super().forward(x) if call.pooled or call.quiet is None else x.new_empty(0, x.shape[-1])


class ProductLayer(EncoderLayer):
    """Attention, then feed-forward; each adds to its input and the sum is normalised. x (B, S, D), mask -> (B, S, D)"""

    laid_out: OnePiece | None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """As the page."""
        piece = self.in_one_piece() if fit(x) else None
        if piece is None:
            return super().forward(x, mask)
        B, S, D = x.shape
        return positions(piece(fill(x.reshape(B * S, D)), (B, S), mask), None, (B, S))

    def in_one_piece(self, around: Snapshot | None = None) -> OnePiece | None:
        """What computes it where every part is as `prepare` left it, nobody looks on, and weights are as laid out.

        ``around``: of a module that the layer is in, and known to hold.
        """
        piece = self.laid_out
        if piece is None or not piece.holds(around):
            piece = self.laid_out = self._lay_out()
        return piece

    def _lay_out(self) -> OnePiece | None:
        attention, feed_forward = self.attention, self.feed_forward
        if type(attention) is not ProductAttention or type(feed_forward) is not ProductFeedForward:
            return None
        core, activation, inner = attention.core, feed_forward.activation, attention.inner()
        kinds = [type(part) for part in (core, activation, self.attention_norm, self.feed_forward_norm)]
        snapshot = quiet(self)
        if (
            kinds != [KernelAttention, KernelActivation, KernelLayerNorm, KernelLayerNorm]
            or attention.relative is not None
            or formula_name(activation) is None
            or snapshot is None
            or any("forward" in part.__dict__ for part in every_part(self))
            or replaced(*inner, core.scores, core.probs, core.dropout, self.dropout)
            or not alike(*inner)
        ):
            return None
        if not (attention.ready() and feed_forward.ready()):
            return None
        return OnePiece(self, attention, feed_forward, snapshot)


class OnePiece:
    """A layer computed without calls of its parts, and whether it still is the layer that this was made of.

    With short texts most of the time goes into finding things; so everything is found once.
    """

    def __init__(
        self, layer: ProductLayer, attention: ProductAttention, feed_forward: ProductFeedForward, snapshot: Snapshot
    ) -> None:
        self.snapshot = snapshot
        self.around: Snapshot | None = None  # as long as this one holds, the layer's own does
        linear = (*attention.inner(), attention.out, feed_forward.up, feed_forward.down)
        self.values = [value for part in linear for value in part._parameters.values() if value is not None]
        self.state = state_of(self.values)
        # What is no module and no parameter, and so in no snapshot.
        self.own = [part.__dict__ for part in (attention, feed_forward.activation, layer.attention_norm)]
        self.own.append(layer.feed_forward_norm.__dict__)
        self.settings = self._settings()
        self.attention = attention
        self.head_size = attention.head_size
        self.activation = formula_name(feed_forward.activation)
        self.into, self.back = (product.packed for product in attention.products)
        self.up, self.down = (product.packed for product in feed_forward.products)
        self.norms = [
            (tuple(norm.weight.shape), norm.weight, norm.bias, norm.eps)
            for norm in (layer.attention_norm, layer.feed_forward_norm)
        ]

    def holds(self, around: Snapshot | None) -> bool:
        """Whether nothing has been exchanged, changed or hooked since."""
        if state_of(self.values) != self.state or self._settings() != self.settings:
            return False
        if around is not None and around is self.around:
            return True
        if not self.snapshot.holds():
            return False
        self.around = around
        return True

    def _settings(self) -> tuple[object, ...]:
        attention, activation, norm, other_norm = self.own
        return attention["head_size"], activation.get("formula"), norm["eps"], other_norm["eps"]

    def __call__(
        self,
        rows: Tensor,
        shape: tuple[int, int],
        mask: Tensor | None,
        *,
        first_only: bool = False,
        real: Real | None = None,
    ) -> Tensor:
        """The layer, on rows as `fill` gives them. (M, D), (B, S), mask -> (M, D)

        With ``first_only`` the result has B rows (filled up), of the first positions. They need keys and values of all
        positions, but nothing else of the others. With ``real`` the rows are those of tokens.
        """
        if first_only:
            rows, mixed = self._mix_first(rows, shape, mask, real)
        elif real is not None:
            mixed = real.mix(self.into.multiply(rows), self.head_size)
        else:
            mixed = fill(mix_heads(heads(self.into.multiply(rows), shape, 3, self.head_size), mask))
        attention_norm, feed_forward_norm = self.norms
        rows = torch.layer_norm(self.back.multiply_onto(rows, mixed), *attention_norm)
        bent = self.up.multiply(rows, self.activation)
        return torch.layer_norm(self.down.multiply_onto(rows, bent), *feed_forward_norm)

    def _mix_first(
        self, rows: Tensor, shape: tuple[int, int], mask: Tensor | None, real: Real | None
    ) -> tuple[Tensor, Tensor]:
        """The rows of the first positions, and their attention."""
        (B, S), many = shape, math.prod(shape)
        first, others = self.attention.first_only()
        sources = others.packed.multiply(rows)
        rows = fill(rows[:many:S] if real is None else rows.index_select(0, real.first))
        (q,) = heads(first.packed.multiply(rows), (B, 1), 1, self.head_size)
        if real is not None:
            return rows, fill(real.mix_first(q, sources, self.head_size))
        return rows, fill(mix_heads((q, *heads(sources, shape, 2, self.head_size)), mask))

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # a copied layer looks for itself
