"""Words in front of each text, as config_sentence_transformers.json names them ("query: ", "passage: ")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

QUERY = ("query",)
DOCUMENT = ("document", "passage", "corpus")  # the first that a checkpoint has


def choose(prompts: Mapping[str, str], prompt: str | None, name: str | None, default: str | None) -> str:
    """The words themselves go before a name, and a name before the checkpoint's default; "" where there is none.

    Raises:
        ValueError: the checkpoint has no prompt of that name.
    """
    if prompt is not None:
        return prompt
    name = default if name is None else name
    if name is None:
        return ""
    if name not in prompts:
        known = ", ".join(map(repr, prompts)) or "none"
        raise ValueError(f"the model has no prompt {name!r}; it has {known}")
    return prompts[name]


def own(prompts: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The prompt for one kind of text; "" where the checkpoint has none for it, whatever its default is."""
    return next((prompts[name] for name in names if name in prompts), "")


def with_own(options: dict[str, Any], prompts: Mapping[str, str], names: tuple[str, ...]) -> dict[str, Any]:
    """Options of `encode` with the prompt for one kind of text, unless they name another."""
    asked = options.get("prompt") is not None or options.get("prompt_name") is not None
    return options if asked else {**options, "prompt": own(prompts, names)}
