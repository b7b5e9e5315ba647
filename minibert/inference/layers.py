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
from typing import TypeGuard

import torch
from torch import Tensor, nn

from ..model import Activation, Encoder, EncoderLayer, LayerNorm
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

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """As the page."""
        call = _asked.get()
        if call.quiet is None:
            return super().forward(x, mask)
        rows: Tensor | None = None  # of x (B, S, D), as long as layers are computed in one piece
        B, S, D = x.shape
        layers = list(self._modules.values())
        real: Real | None = None
        if call.real_only and mask is not None and all(_ready(layer, x, call.quiet) for layer in layers):
            real = Real(mask)
        for layer in layers:
            first_only = call.first_only and layer is layers[-1]
            if _ready(layer, x, call.quiet):
                if rows is None:
                    B, S, D = x.shape  # a layer of somebody's own may have given another
                    rows = x.reshape(B * S, D)
                    rows = fill(rows) if real is None else real.gather(rows)
                rows = layer.in_one(rows, (B, S), mask, first_only=first_only, real=real)
                if first_only:
                    S, real = 1, None
                continue
            if rows is not None:
                x, rows, real = positions(rows, real, (B, S)), None, None
            x = layer(x, mask)
            x = x[:, :1] if first_only else x
        return x if rows is None else positions(rows, real, (B, S))


def _ready(layer: nn.Module, x: Tensor, around: Snapshot) -> TypeGuard[ProductLayer]:
    """Whether it can be computed in one piece, of such an input."""
    return type(layer) is ProductLayer and fit(x) and layer.untouched(around)


class ProductLayer(EncoderLayer):
    """Attention, then feed-forward; each adds to its input and the sum is normalised. x (B, S, D), mask -> (B, S, D)"""

    laid_out: LaidOut | None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """As the page."""
        if not (fit(x) and self.untouched()):
            return super().forward(x, mask)
        B, S, D = x.shape
        return positions(self.in_one(fill(x.reshape(B * S, D)), (B, S), mask), None, (B, S))

    def in_one(
        self,
        rows: Tensor,
        shape: tuple[int, int],
        mask: Tensor | None,
        *,
        first_only: bool = False,
        real: Real | None = None,
    ) -> Tensor:
        """The layer without calls of its parts, on rows as `fill` gives them. (M, D), (B, S), mask -> (M, D)

        With ``first_only`` the result has B rows (filled up), of the first positions. They need keys and values of all
        positions, but nothing else of the others. With ``real`` the rows are those of tokens, and only attention is
        computed of padding, too.
        """
        (B, S), many = shape, math.prod(shape)
        attention, feed_forward = self.attention, self.feed_forward
        into, back = attention.products  # type: ignore[misc] # `untouched` has seen what they are
        up, down = feed_forward.products  # type: ignore[misc]
        if first_only:
            first, others = attention.first_only()  # type: ignore[operator]
            sources = others(rows)
            k, v = heads(sources if real is None else real.spread(sources), shape, 2, attention.head_size)
            rows = fill(rows[:many:S] if real is None else rows.index_select(0, real.first))
            (q,) = heads(first(rows), (B, 1), 1, attention.head_size)
            mixed = fill(mix_heads((q, k, v), mask))
        elif real is not None:
            mixed = real.mix(into(rows), shape, mask, attention.head_size)
        else:
            mixed = fill(mix_heads(heads(into(rows), shape, 3, attention.head_size), mask))
        rows = _normalise(back(mixed, residual=rows), self.attention_norm)
        bent = up(rows, formula_name(feed_forward.activation))
        return _normalise(down(bent, residual=rows), self.feed_forward_norm)

    def untouched(self, around: Snapshot | None = None) -> bool:
        """Whether every part is as `prepare` left it, nobody looks on, and the weights laid out are the weights.

        ``around``: of a module that the layer is in, and known to hold.
        """
        return (self.laid_out is not None and self.laid_out.holds(around)) or self._look()

    def _look(self) -> bool:
        attention, feed_forward = self.attention, self.feed_forward
        if type(attention) is not ProductAttention or type(feed_forward) is not ProductFeedForward:
            return False
        core, activation, inner = attention.core, feed_forward.activation, attention.inner()
        kinds = [type(part) for part in (core, activation, self.attention_norm, self.feed_forward_norm)]
        snapshot = quiet(self)
        if (
            kinds != [KernelAttention, KernelActivation, KernelLayerNorm, KernelLayerNorm]
            or attention.relative is not None
            or formula_name(activation) is None
            or snapshot is None
            or any("forward" in part.__dict__ for part in every_part(self))
            or replaced(core.scores, core.probs, core.dropout, self.dropout)
            or not alike(*inner)
        ):
            return False
        into, back = attention.products
        up, down = feed_forward.products
        stand = into.stands_for(*inner) and back.stands_for(attention.out)
        if not (stand and up.stands_for(feed_forward.up) and down.stands_for(feed_forward.down)):
            return False
        self.laid_out = LaidOut(snapshot, activation, [*inner, attention.out, feed_forward.up, feed_forward.down])
        return True


class LaidOut:
    """What a layer was when its weights were laid out, and whether it still is."""

    def __init__(self, snapshot: Snapshot, activation: Activation, linear: list[nn.Linear]) -> None:
        self.snapshot = snapshot
        self.around: Snapshot | None = None  # as long as this one holds, the layer's own does
        self.activation = activation
        self.formula = activation.formula
        self.values = [value for part in linear for value in part._parameters.values() if value is not None]
        self.state = state_of(self.values)

    def holds(self, around: Snapshot | None) -> bool:
        """Whether nothing has been exchanged, changed or hooked since."""
        if self.activation.formula is not self.formula or state_of(self.values) != self.state:
            return False
        if around is not None and around is self.around:
            return True
        if not self.snapshot.holds():
            return False
        self.around = around
        return True

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # a copied layer looks for itself


def _normalise(x: Tensor, norm: LayerNorm) -> Tensor:
    return torch.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps)
