"""The page's layer in one piece, where all of it is still the page's own: no part is called that nobody looks at.

With short texts most of the time goes into calling parts, not into numbers. Where anything is watched, replaced or in
training mode, the page's own `forward` calls the parts, each of which then looks after itself (`sublayers.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..model import Activation, Encoder, EncoderLayer, LayerNorm
from .attention import LANES, KernelAttention, mix
from .kernels import KernelActivation, KernelLayerNorm, formula_name
from .linear import state_of
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


class Real:
    """Where the tokens of padded texts are, so that products are made of their rows only. mask (B, 1, 1, S)"""

    def __init__(self, mask: Tensor) -> None:
        real = mask.reshape(-1)  # (B * S,)
        places = real.nonzero().squeeze(1)
        self.places = functional.pad(places, (0, filled(len(places)) - len(places)))  # (M,), as `fill` fills up
        self.back = (real.cumsum(0) - 1).clamp_min_(0)  # (B * S,), in the place of padding the token before it
        B, S = len(mask), mask.shape[-1]
        self.first = self.back[::S]  # (B,)
        # Of few long texts attention is computed one by one: so much padding would cost more than the calls.
        self.lengths = real.view(B, S).sum(1).tolist() if B * LANES <= S else None

    def gather(self, rows: Tensor) -> Tensor:
        """All positions -> those of tokens, filled up. (B * S, X) -> (M, X)"""
        return rows.index_select(0, self.places)

    def spread(self, rows: Tensor) -> Tensor:
        """Back to all positions; at padding there is some other token's row. (M, X) -> (B * S, X)"""
        return rows.index_select(0, self.back)

    def mix(self, sources: Tensor, shape: tuple[int, int], mask: Tensor | None, head_size: int) -> Tensor:
        """Attention of these rows, which have queries, keys, values. (M, 3 D), (B, S), mask -> (M, D)"""
        if self.lengths is None:
            return self.gather(_mix_heads(_heads(self.spread(sources), shape, 3, head_size), mask))
        texts = sources.split([*self.lengths, len(sources) - sum(self.lengths)])
        mixed = [_mix_heads(_heads(text, (1, len(text)), 3, head_size), None) for text in texts[:-1] if len(text)]
        return torch.cat([*mixed, texts[-1][:, : sources.shape[1] // 3]])  # the rows that fill up


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
        real = None
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
                x, rows = rows[: B * S].view(B, S, D), None
            x = layer(x, mask)
            x = x[:, :1] if first_only else x
        if rows is None:
            return x
        rows = rows if real is None else real.spread(rows)
        return rows[: B * S].view(B, S, D)


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
        return self.in_one(fill(x.reshape(B * S, D)), (B, S), mask)[: B * S].view(B, S, D)

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
            k, v = _heads(sources if real is None else real.spread(sources), shape, 2, attention.head_size)
            rows = fill(rows[:many:S] if real is None else rows.index_select(0, real.first))
            (q,) = _heads(first(rows), (B, 1), 1, attention.head_size)
            mixed = fill(_mix_heads((q, k, v), mask))
        elif real is not None:
            mixed = real.mix(into(rows), shape, mask, attention.head_size)
        else:
            mixed = fill(_mix_heads(_heads(into(rows), shape, 3, attention.head_size), mask))
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


def _heads(rows: Tensor, shape: tuple[int, int], parts: int, head_size: int) -> Tensor:
    """Several projections side by side, as attention takes them. (M, parts * D), (B, S) -> (parts, B, H, S, K)"""
    return rows[: math.prod(shape)].view(*shape, parts, -1, head_size).permute(2, 0, 3, 1, 4)


def _mix_heads(heads: Iterable[Tensor], mask: Tensor | None) -> Tensor:
    """Attention, its heads side by side again. q (B, H, Q, K), k, v (B, H, S, K) -> (B * Q, D)"""
    q, k, v = heads
    B, _, Q, _ = q.shape
    return mix(q, k, v, mask).transpose(1, 2).reshape(B * Q, -1)


def fill(rows: Tensor) -> Tensor:
    """The rows, and zeros up to one of the numbers of rows that products are made of. (N, D) -> (M, D)

    For each number of rows oneDNN makes a program of its own, which takes it milliseconds, and keeps it with room for
    its results: of the batches of a large corpus it would come to keep gigabytes.
    """
    more = filled(len(rows)) - len(rows)
    return functional.pad(rows, (0, 0, 0, more)) if more else rows


def filled(many: int) -> int:
    """The next of the numbers of rows that products are made of: at most one in 16 more."""
    return many + -many % max(2, (1 << many.bit_length()) // 32)


def _normalise(x: Tensor, norm: LayerNorm) -> Tensor:
    return torch.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps)
