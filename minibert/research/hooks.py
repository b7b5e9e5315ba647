"""Watch what a Bert computes, and put other numbers in its place.

    with capture(model, "layers.*.attention.core.probs") as values:
        model(**batch)
    values["layers.3.attention.core.probs"]  # (B, H, S, S)

    with patch(model, "layers.3.attention.core", values_of_another_text, heads=5):
        changed = model(**batch)

Names are those of the catalogue (docs/values.md), in a Bert and in whatever holds one, as a SentenceEncoder; and every
module that you put in a place of the page goes by its own name. Hooks are removed at the end of the `with`, however it
ends, and act until then on every forward of the model, in any thread. They act in the order in which they were put on:
a capture inside a patch keeps what the patch put there, one around it what was there before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..underway import Texts, texts_under_way
from .catalogue import Place, bert_in, find, nearest, whole_numbers


class Values(dict[str, Any]):
    """What was captured, by name, in the order in which it was computed."""

    def __missing__(self, name: str) -> Any:
        raise KeyError(
            f"{name} was not captured; of the {len(self)} values that were, the nearest: {nearest(name, self)}"
        )


@contextmanager
def capture(model: nn.Module, *patterns: str) -> Iterator[Values]:
    """Keep values of the forwards that run inside.

    After a forward of the model, the values are those of that (the latest) forward as they were computed, padding and
    gradients included, (B, ...). After `SentenceEncoder.encode` they are lists over all of its texts, in their order:
    copies without the batch's axis and without padding, as (H, tokens, tokens) of `probs`.

    Args:
        model: A Bert, or a module that holds one.
        patterns: Names, with `*`, `?`, `[0-4]` for what is between two dots and `**` for any number of such parts.

    Raises:
        ValueError: a pattern fits no name (it is said why not), or nothing that it fits was computed inside; or a
            value was computed twice in one forward, so that one name is not enough.
    """
    if not patterns:
        raise ValueError("say which values to capture: names, or patterns such as 'layers.*' or '**'")
    bert = bert_in(model)
    wanted = {pattern: find(bert, pattern) for pattern in patterns}
    keeper = _Keeper(Values())
    with ExitStack() as hooks:
        hooks.callback(bert.register_forward_pre_hook(keeper.begin).remove)
        hooks.callback(bert.register_forward_hook(keeper.end, always_call=True).remove)
        for place in {place.name: place for found in wanted.values() for place in found}.values():
            hooks.callback(place.hook(partial(keeper.keep, place)).remove)
        yield keeper.values
    for pattern, found in wanted.items():
        if not any(place.name in keeper.computed for place in found):
            raise ValueError(f"nothing that fits {pattern!r} was computed: did another model run, or none?")


@contextmanager
def patch(
    model: nn.Module,
    pattern: str,
    new: Callable[[Tensor], Tensor] | Tensor | Mapping[str, Any],
    *,
    positions: int | Sequence[int] | Mapping[int, int] | None = None,
    heads: int | Sequence[int] | None = None,
) -> Iterator[None]:
    """Put other numbers in the place of values, in the forwards that run inside.

    Args:
        model: A Bert, or a module that holds one.
        pattern: As in ``capture``.
        new: A function, value -> value of the same shape; or a tensor; or what ``capture`` gave, where the values are
            found by their names. Row b of the batch gets row b; a single row is for all. What was captured from
            `encode` is for `encode`: text i gets what text i had.
        positions: Only at these positions (of the queries, in scores and probs); {3: 5}: at 3 what ``new`` has at 5.
            None: at all, so ``new`` must be as long as the text.
        heads: Only in these heads. None: in all.

    Raises:
        ValueError: the pattern fits no name, or a value that it fits was not computed inside; ``new`` has another
            shape, dtype or device than what it replaces, or no such position or head.
        TypeError: ``new``, or what the function gives, is no such thing.
    """
    bert = bert_in(model)
    found = find(bert, pattern)
    used: set[str] = set()
    with ExitStack() as hooks:
        for place in found:
            at, among = _pairs(positions, place, "S", "positions"), _pairs(heads, place, "H", "heads")
            hooks.callback(place.hook(_Replacement(place, _own(new, place), at, among, used)).remove)
        yield
    if unused := [place.name for place in found if place.name not in used]:
        raise ValueError(f"not patched, because never computed: {', '.join(unused)}. Did another model run, or none?")


class _Keeper:
    """Keeps values of one forward at a time, or of one call of `encode`."""

    def __init__(self, values: Values) -> None:
        self.values = values
        self.computed: set[str] = set()  # in any forward so far
        self._seen: set[str] = set()  # in the forward that is running
        self._running = False
        self._call: object = None  # of encode

    def begin(self, *_: object) -> None:
        texts = texts_under_way()
        if texts is None or texts.call is not self._call:
            self.values.clear()
        self._call = texts and texts.call
        self._running = True
        self._seen.clear()

    def end(self, *_: object) -> None:
        self._running = False

    def keep(self, place: Place, value: Tensor) -> None:
        if self._running and place.name in self._seen:
            raise ValueError(f"{place.name} was computed twice in one forward, and one name can't hold both values")
        self._seen.add(place.name)
        self.computed.add(place.name)
        texts = texts_under_way()
        if texts is None:
            self.values[place.name] = value
            return
        entries = self.values.setdefault(place.name, [None] * texts.count)
        with torch.inference_mode(False):  # so that the copies can be computed with, gradients included
            for text, own in zip(texts.rows, _rows(place, value, texts), strict=True):
                entries[text] = value[own].clone()


@dataclass(frozen=True)
class _Replacement:
    """What goes into one place."""

    place: Place
    new: Callable[[Tensor], Tensor] | Tensor | list[Tensor]
    positions: dict[int, int] | None  # at which: from which of the new ones
    heads: dict[int, int] | None
    used: set[str]

    def __call__(self, value: Tensor) -> Tensor:
        name, axes, texts = self.place.name, self.place.axes, texts_under_way()
        self.used.add(name)
        new = self.new
        if not isinstance(new, (Tensor, list)):
            return self._blend(name, value, new(value), axes)
        for_all = bool(axes) and "B" not in axes
        if texts is not None and not for_all:
            return self._text_by_text(value, new, texts)
        if isinstance(new, list):
            where = "the same for all texts of a batch" if for_all else "patched in a forward that is not encode's"
            raise ValueError(f"{name} is {where}: give one tensor, not a list with one for each text")
        if "B" in axes and new.ndim == value.ndim and len(new) == 1:
            new = new.expand(len(value), *new.shape[1:])
        return self._blend(name, value, new, axes)

    def _text_by_text(self, value: Tensor, new: Tensor | list[Tensor], texts: Texts) -> Tensor:
        if len(new) not in (1, texts.count):
            raise ValueError(f"the patch for {self.place.name} is for {len(new)} texts, but encode has {texts.count}")
        result = value.clone()
        for text, own in zip(texts.rows, _rows(self.place, value, texts), strict=True):
            source = new[text if len(new) > 1 else 0]
            result[own] = self._blend(f"{self.place.name} in text {text}", value[own], source, self.place.axes[1:])
        return result

    def _blend(self, name: str, value: Tensor, source: Any, axes: tuple[str, ...]) -> Tensor:
        """The source at the chosen positions in the chosen heads, and elsewhere the value."""
        if not isinstance(source, Tensor):
            raise TypeError(f"what goes into the place of {name} must be a tensor, not {type(source).__name__}")
        chosen = torch.ones((), dtype=torch.bool, device=value.device)
        for what, letter, pairs in (("positions", "S", self.positions), ("heads", "H", self.heads)):
            if pairs is None or source.ndim != value.ndim:  # the latter is refused below
                continue
            if len(axes) != value.ndim:
                raise ValueError(
                    f"{name} is {_form(value)} and not ({', '.join(axes)}), so it is not known where its {what} are"
                )
            axis = axes.index(letter)
            for numbers, size in ((pairs, value.shape[axis]), (pairs.values(), source.shape[axis])):
                if wrong := [number for number in numbers if not 0 <= number < size]:
                    raise ValueError(f"{name}: there are {what} from 0 to {size - 1}, and so not {wrong[0]}")
            order = torch.zeros(value.shape[axis], dtype=torch.long)
            order[list(pairs)] = torch.tensor(list(pairs.values()))
            source = source.index_select(axis, order.to(source.device))
            here = torch.zeros(value.shape[axis], dtype=torch.bool)
            here[list(pairs)] = True
            chosen = chosen & here.to(value.device).reshape(-1, *[1] * (value.ndim - axis - 1))
        if (source.shape, source.dtype, source.device) != (value.shape, value.dtype, value.device):
            raise ValueError(f"{name} is {_form(value)}, and so can't be replaced by {_form(source)}")
        return torch.where(chosen, source, value)


def _own(new: Any, place: Place) -> Any:
    """Of what ``patch`` was given, the part that is for this place."""
    if isinstance(new, Mapping):
        if place.name not in new:
            raise ValueError(f"there is nothing to patch {place.name} with; the nearest: {nearest(place.name, new)}")
        new = new[place.name]
    if not isinstance(new, (Tensor, list)) and not callable(new):
        raise TypeError(f"a patch is a function, a tensor, or what capture gave, not {type(new).__name__}")
    return new


def _pairs(chosen: Any, place: Place, letter: str, what: str) -> dict[int, int] | None:
    """At which of the value's own numbers: which of the new ones goes there."""
    if chosen is None:
        return None
    if letter not in place.axes:
        form = f"({', '.join(place.axes)})" if place.axes else "of a module that is not the page's"
        raise ValueError(f"{place.name}, {form}, has no {what} to choose from")
    pairs = dict(chosen) if isinstance(chosen, Mapping) else {number: number for number in whole_numbers(chosen, what)}
    if not pairs:
        raise ValueError(f"no {what} are given, so that nothing would be patched")
    return pairs


def _rows(place: Place, value: Tensor, texts: Texts) -> list[tuple[int | slice, ...]]:
    """Where in a batch's value the part of each text is, without padding."""
    axes = place.axes
    if len(axes) != value.ndim:  # of a module of somebody's own: told by the sizes
        sizes = (len(texts.rows), max(texts.lengths))
        by_token = value.ndim > 2 and tuple(value.shape[:2]) == sizes
        if value.shape[:1] != sizes[:1]:
            raise ValueError(f"{place.name} is {_form(value)}, without a row for each text: use a forward, not encode")
        axes = ("B", "S" if by_token else "", *[""] * value.ndim)[: value.ndim]
    return [
        tuple(row if axis == "B" else slice(length if axis == "S" else None) for axis in axes)
        for row, length in enumerate(texts.lengths)
    ]


def _form(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)} on {value.device}"
