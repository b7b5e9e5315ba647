"""Name every value that the page computes: the catalogue, and where in a model each name is found.

A module's output has the module's name, whatever stands in that place. Two kinds of values are not module outputs: `q`,
`k`, `v` are `query`, `key`, `value` split into heads, and `before`, below a norm, is the norm's input.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from operator import index
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..model import Bert, MultiHeadAttention

Numbers: TypeAlias = "int | Sequence[int] | Tensor | np.ndarray"  # of positions or heads
Hook: TypeAlias = Callable[..., Any]


class Value(NamedTuple):
    """One row of the catalogue: `{}` in the name is the layer, the letters of the shape are the page's."""

    name: str
    shape: str
    words: str


# In order of computation. docs/values.md shows this table, and a test compares it with a real forward.
CATALOGUE = (
    Value("embeddings.token", "B S D", "the token's own vector"),
    Value("embeddings.token_type", "B S D", "the vector of the token's sentence (segment)"),
    Value("embeddings.position", "S D", "the position's vector, shared by all texts; absent with relative positions"),
    Value("embeddings.norm.before", "B S D", "the sum of these, BEFORE the norm"),
    Value("embeddings.norm", "B S D", "the sum, AFTER the norm, before dropout"),
    Value("embeddings", "B S D", "the first layer's input: after the norm and dropout"),
    Value("layers.{}.attention.query", "B S D", "each position's query, all heads side by side"),
    Value("layers.{}.attention.q", "B H S K", "the same, split into heads"),
    Value("layers.{}.attention.key", "B S D", "each position's key, all heads side by side"),
    Value("layers.{}.attention.k", "B H S K", "the same, split into heads"),
    Value("layers.{}.attention.value", "B S D", "each position's value, all heads side by side"),
    Value("layers.{}.attention.v", "B H S K", "the same, split into heads"),
    Value("layers.{}.attention.relative.distance", "S S K", "a vector per distance; only with relative positions"),
    Value("layers.{}.attention.relative", "B H S S", "the scores' bias by distance; only with relative positions"),
    Value("layers.{}.attention.core.scores", "B H S S", "q kᵀ / sqrt(K), plus the bias, before mask and softmax"),
    Value("layers.{}.attention.core.probs", "B H S S", "after mask and softmax, before dropout; each row sums to 1"),
    Value("layers.{}.attention.core", "B H S K", "each head's weighted sum of the values, before `out`"),
    Value("layers.{}.attention.out", "B S D", "the heads combined by the output projection"),
    Value("layers.{}.attention", "B S D", "the same: attention's contribution, before dropout"),
    Value("layers.{}.attention_norm.before", "B S D", "the input plus attention's contribution, BEFORE the norm"),
    Value("layers.{}.attention_norm", "B S D", "that sum AFTER the norm: the feed-forward's input"),
    Value("layers.{}.feed_forward.up", "B S F", "projected from D to F, before the activation"),
    Value("layers.{}.feed_forward.activation", "B S F", "the same, after the activation"),
    Value("layers.{}.feed_forward.down", "B S D", "projected back to D"),
    Value("layers.{}.feed_forward", "B S D", "the same: the feed-forward's contribution, before dropout"),
    Value("layers.{}.feed_forward_norm.before", "B S D", "its input plus its contribution, BEFORE the norm"),
    Value("layers.{}.feed_forward_norm", "B S D", "that sum AFTER the norm"),
    Value("layers.{}", "B S D", "the same: the next layer's input"),
    Value("layers", "B S D", "the last layer's output: `last_hidden_state`"),
    Value("pooler.dense", "B D", "the [CLS] vector after the pooler's dense layer, before tanh"),
    Value("pooler", "B D", "after tanh: `pooler_output`"),
)

_AXES = {value.name: tuple(value.shape.split()) for value in CATALOGUE}


@dataclass(frozen=True)
class Place:
    """Where one model computes a value."""

    name: str
    module: nn.Module
    axes: tuple[str, ...]  # letters; none for a module that the page does not have
    before: bool = False  # the module's input, not its output
    attention: MultiHeadAttention | None = None  # split into the heads of this one

    def hook(self, see: Callable[[Tensor], Tensor | None], here: Callable[[Hook], Hook]) -> RemovableHandle:
        """Call ``see`` with the value whenever it is computed. Its result, unless None, replaces the value.

        ``here`` says in which calls the hook acts.
        """

        def on_input(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            new = see(self._tensor(inputs[0] if inputs else None))
            return None if new is None else (new, *inputs[1:])

        def on_output(_: nn.Module, __: tuple[Any, ...], output: Any) -> Tensor | None:
            value = self._tensor(output)
            if self.attention is None:
                return see(value)
            new = see(self.attention.split(value))
            return None if new is None else new.transpose(1, 2).flatten(2)

        if self.before:
            return self.module.register_forward_pre_hook(here(on_input))
        return self.module.register_forward_hook(here(on_output))

    def _tensor(self, value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return value
        raise TypeError(f"{self.name} is not a tensor but {type(value).__name__}, so it can't be kept or patched")


def bert_in(model: nn.Module) -> Bert:
    """Return the one Bert that a model is or contains. Raises ValueError if there is none, or several."""
    berts = [part for part in model.modules() if isinstance(part, Bert)]
    if len(berts) != 1:
        raise ValueError(f"this {type(model).__name__} has {len(berts)} Berts in it, and exactly one is needed")
    return berts[0]


def find(bert: Bert, pattern: str) -> list[Place]:
    """Return the values whose names match a pattern.

    As in a shell, `*`, `?` and `[0-4]` stand for text between two dots, `**` for any number of such parts. Raises
    ValueError if none matches (the message says why), or if a matching module is used under several names.
    """
    modules = dict(bert.named_modules(remove_duplicate=False))
    chosen = [place for place in _places(modules) if _matches(place.name.split("."), pattern.split("."))]
    if not chosen:
        raise ValueError(f"no value is called {pattern!r}: {_why_not(bert, pattern)}. All names are in docs/values.md")
    uses = Counter(modules.values())
    if shared := [place.module for place in chosen if uses[place.module] > 1]:
        raise ValueError(
            f"{' and '.join(name for name, module in modules.items() if module is shared[0])} are one and the same "
            "module, so their values can't be told apart: give each place a module of its own (copy.deepcopy)"
        )
    return chosen


def whole_numbers(chosen: Any, what: str) -> list[int]:
    """Return an int, or a list, tensor or array of them, as a list. Raises TypeError for anything else."""
    try:
        several = isinstance(chosen, Iterable) and getattr(chosen, "ndim", 1) > 0  # a tensor of no axes is one number
        return [index(number) for number in (chosen if several else [chosen])]
    except TypeError:
        raise TypeError(f"{what} must be whole numbers, not {chosen!r}") from None


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the few names most similar to ``name``, as text."""
    return ", ".join(get_close_matches(name, names, n=5, cutoff=0.0)) or "none at all"


def _places(modules: Mapping[str, nn.Module]) -> Iterator[Place]:
    for name, module in modules.items():
        if before := _axes(f"{name}.before"):
            yield Place(f"{name}.before", module, before, before=True)
        # A plain list is never called. Dropout has no value: it is left out in eval mode.
        called = type(module).forward is not nn.Module.forward and not isinstance(module, nn.Dropout)
        if name and (_axes(name) or called):
            yield Place(name, module, _axes(name))
        owner, _, part = name.rpartition(".")
        attention, short = modules.get(owner), f"{owner}.{part[:1]}"
        if part in ("query", "key", "value") and isinstance(attention, MultiHeadAttention):
            yield Place(short, module, _axes(short), attention=attention)


def _axes(name: str) -> tuple[str, ...]:
    return _AXES.get(re.sub(r"(?<=^layers\.)\d+", "{}", name), ())


def _matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_matches(name[skipped:], pattern[1:]) for skipped in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _matches(name[1:], pattern[1:])


def _why_not(bert: Bert, pattern: str) -> str:
    """Follow the pattern, or a name of the catalogue that matches it, as far into the model as it leads."""
    hint = "; `*` stands for text between two dots, `**` for any number of such parts" if "*" in pattern else ""
    names = (value.name.format(layer) for layer in range(bert.config.num_hidden_layers) for value in CATALOGUE)
    path = next((name for name in names if _matches(name.split("."), pattern.split("."))), pattern)
    owner, trail = cast(nn.Module, bert), "the model"
    for part in path.split("."):
        children = dict(owner.named_children())
        name = next((name for name in children if fnmatchcase(name, part)), None)
        if name is None:
            has = f"only {', '.join(children)}" if children else "no parts at all"
            return f"{trail} ({type(owner).__name__}) has no {part!r}, {has}{hint}"
        owner, trail = children[name], name if owner is bert else f"{trail}.{name}"
    if isinstance(owner, nn.Dropout):
        return f"{trail} is a dropout: watch the value after it in training; in eval mode it does nothing"
    return f"{trail} ({type(owner).__name__}) is never called"
