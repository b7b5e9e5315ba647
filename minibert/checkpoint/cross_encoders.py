"""What sentence-transformers' CrossEncoder keeps beside the weights: the activation of its scores, and prompts.

Its older versions have the activation in config.json, version 6 in a companion of modules.json. Both are read, and
both are written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import ConfigError
from ..pooling import DENSE_ACTIVATIONS
from .hub import CheckpointFiles
from .save import write_json
from .sentence_transformers import (
    SentenceModules,
    activation_name,
    dotted_activation,
    read_entries,
    read_prompts,
    read_transformer_settings,
)

Activation = Callable[[Tensor], Tensor]

SETTINGS = "config_sentence_transformers.json"
OLD_ACTIVATION = "sbert_ce_default_activation_function"


@dataclass
class CrossModules(SentenceModules):
    """All that a cross-encoder is besides its Bert with a classifier and its tokenizer; nothing comes after those."""

    activation: str | None = None  # a name in pooling.DENSE_ACTIVATIONS; None where the files name none


def read_cross_modules(files: CheckpointFiles, *, activation: bool = True) -> CrossModules:
    """Read all of it; without the activation, where another one was asked for.

    Raises:
        ConfigError: a file is damaged, or asks for modules or an activation that minibert does not compute.
    """
    found = CrossModules()
    path = files.get("modules.json")
    if path is not None:  # without it sentence-transformers does not look at its companions either
        found.transformer = _only_transformer(path)
        read_prompts(files, found)
        read_transformer_settings(files.below(found.transformer), found)
    if activation:
        found.activation = _activation(files, found.transformer, modules=path is not None)
    return found


def _activation(files: CheckpointFiles, transformer: str, *, modules: bool) -> str | None:
    """By the newest of the three words for it that the files have, in sentence-transformers' order."""
    config = files.below(transformer).read_object("config.json")
    newer = config.get("sentence_transformers")
    places = [
        (SETTINGS, files.read_object(SETTINGS).get("activation_fn") if modules else None),
        ("config.json", newer.get("activation_fn") if isinstance(newer, dict) else None),
        ("config.json", config.get(OLD_ACTIVATION)),
    ]
    for file, named in places:
        if named is not None:
            return activation_name(named, f"{files.name}/{file}: the activation (or pass activation_fn=...)")
    return None


def _only_transformer(path: Path) -> str:
    """The folder of the one module that a cross-encoder consists of."""
    entries = read_entries(path)
    if [entry["type"].rsplit(".", 1)[-1] for entry in entries] != ["Transformer"]:
        raise ConfigError(
            f"{path}: a cross-encoder is one Transformer with nothing after it, and here is "
            f"{', '.join(entry['type'] for entry in entries) or 'nothing'}: a sentence encoder is loaded as "
            "SentenceEncoder"
        )
    return str(entries[0]["path"])


def published_activation(activation: Activation) -> str:
    """Its name in DENSE_ACTIVATIONS. Raises ConfigError where sentence-transformers could not load it by any."""
    kind = type(activation)
    stock = kind.__module__.startswith("torch.nn.") and getattr(activation, "approximate", "none") == "none"
    for name, function in DENSE_ACTIVATIONS.items():
        if activation is function or (stock and kind.__name__ == name):
            return name
    raise ConfigError(
        f"the activation {activation!r} has no published form: set activation_fn to one of "
        f"{', '.join(f'torch.nn.{name}()' for name in DENSE_ACTIVATIONS)}"
    )


def old_settings(modules: CrossModules) -> dict[str, Any]:
    """What config.json says besides, for older versions and for the programs that read no other file."""
    return {OLD_ACTIVATION: modules.activation and dotted_activation(modules.activation)}


def write_cross_modules(modules: CrossModules, folder: Path) -> None:
    """Write modules.json and its companions. Raises OSError if the folder can't be written."""
    transformer = {
        "transformer_task": "sequence-classification",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        "module_output_name": "scores",
        "do_lower_case": modules.do_lower_case,
    }
    settings = {
        "model_type": "CrossEncoder",
        "activation_fn": modules.activation and dotted_activation(modules.activation),
        "prompts": modules.prompts,
        "default_prompt_name": modules.default_prompt_name,
    }
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    write_json(transformer, folder / "sentence_bert_config.json")
    write_json(settings, folder / SETTINGS)
    write_json([{"idx": 0, "name": "0", "path": "", "type": kind}], folder / "modules.json")
