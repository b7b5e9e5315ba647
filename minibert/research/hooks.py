"""Watch the values that a Bert computes, and replace them.

    with capture(model, "layers.*.attention.core.probs") as values:
        model(**batch)
    values["layers.3.attention.core.probs"]  # (B, H, S, S)

    with patch(model, "layers.3.attention.core", values_of_another_text, heads=5):
        changed = model(**batch)

Names are those of the catalogue (docs/values.md), in a Bert and in any module that contains one, as a SentenceEncoder.
A module of your own goes by the name of its place. Hooks are removed at the end of the `with`, however it ends. Until
then they act on the forwards of the thread (or asynchronous task) that opened them, and on no other's. They act in the
order in which they were registered: a capture inside a patch keeps the new values, one around it the old ones. `encode`
computes a hooked model by the page, at its speed. A model that is to be compiled is hooked first: `torch.compile` skips
hooks that are put on later, which is an error at the end of the `with`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..call import Batch, current_batch
from .catalogue import Hook, Numbers, Place, bert_in, find, nearest, whole_numbers

New: TypeAlias = "Callable[[Tensor], Tensor] | Tensor | list[Tensor]"

_LETTERS = {"positions": "S", "heads": "H"}
_WHY_NONE = "did another model run, or another thread, or a model that was compiled before?"
_open: ContextVar[frozenset[object]] = ContextVar("open", default=frozenset())  # captures and patches, by a mark


class Values(dict[str, Any]):
    """Captured values by name, in the order of computation: tensors, or after `encode` lists with one for each text."""

    def __missing__(self, name: str) -> Any:
        near = nearest(name, self)
        raise KeyError(f"{name} was not captured; of the {len(self)} values that were, the nearest: {near}")


@contextmanager
def capture(model: nn.Module, *patterns: str) -> Iterator[Values]:
    """Keep values of the forwards that run inside: those whose names match one of the patterns, as in ``find``.

    After a forward of the model, the values are those of that (the latest) forward as computed, with padding and
    gradients, (B, ...). After `SentenceEncoder.encode` they are lists over all of its texts, in order: copies without
    the batch axis and without padding, as (H, tokens, tokens) of `probs`.

    Raises:
        ValueError: a pattern matches no name (the message says why), or no value that it matches was computed inside;
            or a value was computed twice in one forward, so that one name can't hold both.
    """
    if not patterns:
        raise ValueError("say which values to capture: names, or patterns such as 'layers.*' or '**'")
    bert = bert_in(model)
    wanted = {pattern: find(bert, pattern) for pattern in patterns}
    keeper = _Keeper()
    with ExitStack() as hooks:
        here = hooks.enter_context(in_this_context())
        hooks.callback(bert.register_forward_pre_hook(here(keeper.begin)).remove)
        hooks.callback(bert.register_forward_hook(here(keeper.end), always_call=True).remove)
        for place in {place.name: place for found in wanted.values() for place in found}.values():
            hooks.callback(place.hook(partial(keeper.keep, place), here).remove)
        yield keeper.values
    for pattern, found in wanted.items():
        if not any(place.name in keeper.computed for place in found):
            raise ValueError(f"nothing that matches {pattern!r} was computed: {_WHY_NONE}")


@contextmanager
def patch(
    model: nn.Module,
    pattern: str,
    new: New | Mapping[str, New],
    *,
    positions: Numbers | Mapping[int, int] | None = None,
    heads: Numbers | None = None,
) -> Iterator[None]:
    """Replace values in the forwards that run inside.

    Args:
        model, pattern: As in ``capture``.
        new: A function, value -> value of the same shape; or a tensor; or the result of ``capture``, which is looked up
            by name. Row b of the batch gets row b, and a single row serves all. Values captured from `encode` are for
            `encode`: text i gets those of text i.
        positions: Replace at these positions only (of the queries, in scores and probs). {3: 5} puts at 3 the new value
            of 5. None: at all, so ``new`` must be as long as the text.
        heads: Replace in these heads only. None: in all.

    Raises:
        ValueError: the pattern matches no name, or a value that it matches was not computed inside; ``new`` has another
            shape, dtype or device than the value; there is no such position or head.
        TypeError: ``new``, or the function's result, is of another type.
    """
    bert = bert_in(model)
    found = find(bert, pattern)
    given = {what: chosen for what, chosen in (("positions", positions), ("heads", heads)) if chosen is not None}
    used: set[str] = set()
    with ExitStack() as hooks:
        here = hooks.enter_context(in_this_context())
        for place in found:
            where = {what: _pairs(chosen, place, what) for what, chosen in given.items()}
            hooks.callback(place.hook(_Patch(place, _new_at(place, new), where, used), here).remove)
        yield
    if unused := [place.name for place in found if place.name not in used]:
        raise ValueError(f"not patched, because never computed: {', '.join(unused)}: {_WHY_NONE}")


@contextmanager
def in_this_context() -> Iterator[Callable[[Hook], Hook]]:
    """Yield a function that confines a hook to the forwards of the context that is in here."""
    here = object()
    _open.set(_open.get() | {here})
    try:
        yield lambda hook: lambda *given: hook(*given) if here in _open.get() else None
    finally:
        _open.set(_open.get() - {here})


class _Keeper:
    """Keeps the values of one forward at a time, or of one call of `encode`."""

    def __init__(self) -> None:
        self.values = Values()
        self.computed: set[str] = set()  # in any forward so far
        self._seen: set[str] | None = None  # in the forward that is running
        self._call: object = None  # of encode

    def begin(self, *_: object) -> None:
        batch = current_batch()
        if batch is None or batch.call is not self._call:
            self.values.clear()
        self._call = batch and batch.call
        self._seen = set()

    def end(self, *_: object) -> None:
        self._seen = None

    def keep(self, place: Place, value: Tensor) -> None:
        name, batch = place.name, current_batch()
        if self._seen is not None:
            if name in self._seen:
                raise ValueError(f"{name} was computed twice in one forward, and one name can't hold both values")
            self._seen.add(name)
        self.computed.add(name)
        if batch is None:
            self.values[name] = value
            return
        if name not in self.values:
            self.values[name] = [None] * batch.count
        for text, part in _by_text(place, value, batch):
            if batch.count > 1 or part.is_inference():  # so that it keeps no batch, and can take part in gradients
                with torch.inference_mode(False):
                    part = part.clone()
            self.values[name][text] = part


@dataclass(frozen=True)
class _Patch:
    """The hook that replaces the value of one place."""

    place: Place
    new: New
    where: dict[str, dict[int, int]]  # of positions and heads: number -> number in the new value
    used: set[str]

    def __call__(self, value: Tensor) -> Tensor:
        name, axes, new, batch = self.place.name, self.place.axes, self.new, current_batch()
        self.used.add(name)
        if not isinstance(new, (Tensor, list)):
            return self._blend(name, value, new(value), axes)
        shared = bool(axes) and "B" not in axes
        if batch is not None and not shared:
            return self._text_by_text(value, new, batch)
        if isinstance(new, list):
            where = "the same for all texts of a batch" if shared else "patched in a forward that is not encode's"
            raise ValueError(f"{name} is {where}: give one tensor, not a list with one for each text")
        if "B" in axes and new.ndim == value.ndim and len(new) == 1:
            new = new.expand(len(value), *new.shape[1:])
        return self._blend(name, value, new, axes)

    def _text_by_text(self, value: Tensor, new: Tensor | list[Tensor], batch: Batch) -> Tensor:
        if len(new) not in (1, batch.count):
            raise ValueError(f"the patch for {self.place.name} is for {len(new)} texts, but encode has {batch.count}")
        result = value.clone()
        for text, part in _by_text(self.place, result, batch):
            source = new[text if len(new) > 1 else 0]
            part.copy_(self._blend(f"{self.place.name} in text {text}", part, source, self.place.axes[1:]))
        return result

    def _blend(self, name: str, value: Tensor, source: Tensor, axes: tuple[str, ...]) -> Tensor:
        """Return the source at the chosen positions of the chosen heads, and the value elsewhere."""
        if not isinstance(source, Tensor):
            raise TypeError(f"the new value of {name} must be a tensor, not {type(source).__name__}")
        chosen = torch.ones((), dtype=torch.bool, device=value.device)
        for what, pairs in self.where.items():
            if source.ndim != value.ndim:  # refused below
                break
            if len(axes) != value.ndim:
                raise ValueError(f"{name} is {_form(value)}, not ({', '.join(axes)}): which axis has the {what}?")
            axis = axes.index(_LETTERS[what])
            for numbers, size in ((pairs, value.shape[axis]), (pairs.values(), source.shape[axis])):
                if wrong := [number for number in numbers if not 0 <= number < size]:
                    raise ValueError(f"{name}: there are {what} from 0 to {size - 1}, but not {wrong[0]}")
            order = torch.tensor([pairs.get(number, -1) for number in range(value.shape[axis])])
            source = source.index_select(axis, order.clamp(min=0).to(source.device))
            chosen = chosen & (order >= 0).to(value.device).reshape(-1, *[1] * (value.ndim - axis - 1))
        if (source.shape, source.dtype, source.device) != (value.shape, value.dtype, value.device):
            raise ValueError(f"{name} is {_form(value)}, and can't be replaced by {_form(source)}")
        return torch.where(chosen, source, value)


def _new_at(place: Place, new: Any) -> Any:
    if isinstance(new, Mapping):
        if place.name not in new:
            raise ValueError(f"there is nothing to patch {place.name} with; the nearest: {nearest(place.name, new)}")
        new = new[place.name]
    if not isinstance(new, (Tensor, list)) and not callable(new):
        raise TypeError(f"a patch is a function, a tensor, or the result of capture, not {type(new).__name__}")
    return new


def _pairs(chosen: Any, place: Place, what: str) -> dict[int, int]:
    """Return where to replace, with the place in the new value for each."""
    if _LETTERS[what] not in place.axes:
        form = f"({', '.join(place.axes)})" if place.axes else "of a module that is not the page's"
        raise ValueError(f"{place.name}, {form}, has no {what} to choose from")
    pairs = dict(chosen) if isinstance(chosen, Mapping) else {number: number for number in whole_numbers(chosen, what)}
    if not pairs:
        raise ValueError(f"no {what} are given, so nothing would be patched")
    return pairs


def _by_text(place: Place, value: Tensor, batch: Batch) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of each text in a batch, and its part of the value: a view, without padding."""
    axes = place.axes
    if len(axes) != value.ndim:  # of a custom module: recognise its axes by their sizes
        if value.shape[:1] != (len(batch.rows),):
            raise ValueError(f"{place.name} is {_form(value)}, without a row for each text: use a forward, not encode")
        axes = ("B", "S") if value.ndim > 2 and value.shape[1] == max(batch.lengths) else ("B",)
    inner = axes[1:] if "B" in axes else axes
    for row, (text, length) in enumerate(zip(batch.rows.tolist(), batch.lengths.tolist(), strict=True)):
        part = value[row] if "B" in axes else value
        for axis, letter in enumerate(inner):
            if letter == "S" and length < part.shape[axis]:
                part = part.narrow(axis, 0, length)
        yield text, part


def _form(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)} on {value.device}"
