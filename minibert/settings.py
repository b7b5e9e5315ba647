"""An encoder's settings, checked as they are set: prompts, the measure, sizes. A later call would fail less clearly.

What can be set on a model of sentence-transformers is set here too, or refused: nothing is set in vain.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Generic, TypeVar, overload

from .config import USUAL_PROMPTS, ConfigError, check_count

Value = TypeVar("Value")

# What can be set on sentence-transformers' models, or seems so. Here it would be an attribute that nothing reads.
FIXED = {
    "config": "change a part of encoder.model, or load another checkpoint",
    "device": "call encoder.to(device)",
    "_target_device": "call encoder.to(device)",
    "max_length": "set max_seq_length",
    "model_card_data": "write README.md beside the saved model",
    "num_labels": "it is that of the checkpoint's classifier",
    "processor": "set tokenizer, to a Tokenizer of minibert",
    "similarity_fn": "set similarity_fn_name",
    "transformers_model": "set model, or change a part of it",
}


class Checked(Generic[Value]):
    """An attribute that is set to what ``check(name, value)`` returns. Setting it raises what that raises."""

    def __init__(self, check: Callable[[str, Any], Value]) -> None:
        self._check = check

    def __set_name__(self, kind: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, owner: None, kind: type) -> Checked[Value]: ...
    @overload
    def __get__(self, owner: object, kind: type | None = None) -> Value: ...
    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        if owner is None:
            return self
        if self._name not in vars(owner):
            raise AttributeError(f"{type(owner).__name__} has no {self._name} yet")
        return vars(owner)[self._name]

    def __set__(self, owner: Any, value: Any) -> None:
        vars(owner)[self._name] = self._check(self._name, value)


class NoneInVain:
    """A base whose objects refuse what would be an attribute that nothing reads."""

    def __setattr__(self, name: str, value: Any) -> None:
        known = getattr(type(self), name, None)
        settable = isinstance(known, property) and known.fset is not None
        if name in FIXED and not settable:
            raise AttributeError(f"{name} of a {type(self).__name__} can't be set: {FIXED[name]}")
        if settable:  # a Module would become a part, past the property
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


def check_prompts(name: str, prompts: Any) -> dict[str, str]:
    """Return prompts by their names, None as "". Raise TypeError for anything else."""
    if not isinstance(prompts, Mapping) or not all(
        isinstance(key, str) and isinstance(text, str | None) for key, text in prompts.items()
    ):
        raise TypeError(f'{name} must map names to texts, as {{"query": "query: "}}, not {prompts!r:.80}')
    return {key: text or "" for key, text in prompts.items()}


def choose_prompt(prompts: Mapping[str, str], default: str | None, prompt: str | None, name: str | None) -> str:
    """Return a prompt as given, else by its name, else the default, else none. See `TextModel.choose_prompt`."""
    name = default if name is None and prompt is None else name
    if name is not None:
        known = {**dict.fromkeys(USUAL_PROMPTS, ""), **prompts}
        if name not in list(known):
            raise ValueError(f"the model has no prompt {name!r}; it has {', '.join(map(repr, prompts)) or 'none'}")
        prompt = known[name] if prompt is None else prompt
    if not isinstance(prompt, str | None):
        raise TypeError(f"prompt must be a string, not {type(prompt).__name__}")
    return prompt or ""


def one_of(known: Collection[str]) -> Callable[[str, Any], str]:
    """Return the check for one of some names, or for a member of an enumeration whose value is one. -> the name"""

    def check(name: str, value: Any) -> str:
        value = getattr(value, "value", value)
        if value not in list(known):
            raise ConfigError(f"{name} must be one of {', '.join(known)}, not {value!r:.80}")
        return str(value)

    return check


def instance_of(kind: type[Value], what: str) -> Callable[[str, Any], Value]:
    """Return the check for an instance of a class; ``what`` names it in the TypeError."""

    def check(name: str, value: Any) -> Value:
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be {what}, not {type(value).__name__}")
        return value

    return check


def count_or_none(name: str, value: Any) -> int | None:
    """Return a whole number from 1 on, or None. Raise ValueError for anything else."""
    check_count(name, value, optional=True)
    return None if value is None else int(value)
