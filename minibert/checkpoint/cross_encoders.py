"""Read and write what sentence-transformers' CrossEncoder keeps beside the weights: its activation and prompts.

Old versions keep the activation in config.json, version 6 in a companion of modules.json. Both are read and written.
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
from .sentence_transformers import (
    SETTINGS,
    SentenceModules,
    activation_name,
    dotted_activation,
    read_entries,
    read_settings,
    write_settings,
)
from .transformer import PAIRS, check_transformer

Activation = Callable[[Tensor], Tensor]

OLD_ACTIVATION = "sbert_ce_default_activation_function"
TRANSFORMER_TYPE = "sentence_transformers.base.modules.transformer.Transformer"


@dataclass
class CrossModules(SentenceModules):
    """The settings of a cross-encoder besides its model and its tokenizer. Its list of modules stays empty."""

    activation: str | None = None  # a name in pooling.DENSE_ACTIVATIONS; None if the files name none


def read_cross_modules(files: CheckpointFiles, *, activation: bool = True) -> CrossModules:
    """Read the settings; skip the activation if the caller has another one. Raise ConfigError as ``read_modules``."""
    files.pin()
    found = CrossModules()
    path = files.get("modules.json")
    if path is not None:  # sentence-transformers ignores its companions without it
        entries = read_entries(path)
        types = [entry["type"] for entry in entries]
        if [kind.rsplit(".", 1)[-1] for kind in types] != ["Transformer"]:
            raise ConfigError(
                f"{path}: a cross-encoder is one Transformer, and here is {', '.join(types) or 'nothing'}"
            )
        found.transformer = entries[0]["path"]
        read_settings(files, found)
        check_transformer(files.below(found.transformer), PAIRS, "cross-encoder")
    if activation:
        found.activation = _activation(files, found.transformer, modules=path is not None)
    return found


def _activation(files: CheckpointFiles, transformer: str, *, modules: bool) -> str | None:
    """Return the activation from the newest of its three places, in sentence-transformers' order."""
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


def published_activation(activation: Activation) -> str:
    """Return its name in DENSE_ACTIVATIONS. Raise ConfigError if sentence-transformers can't load it by a name."""
    kind = type(activation)
    stock = kind.__module__.startswith("torch.nn.") and getattr(activation, "approximate", "none") == "none"
    for name, function in DENSE_ACTIVATIONS.items():
        if activation is function or (stock and kind.__name__ == name):
            return name
    known = ", ".join(f"torch.nn.{name}()" for name in DENSE_ACTIVATIONS)
    raise ConfigError(f"the activation {activation!r} has no published form: set activation_fn to one of {known}")


def old_settings(modules: CrossModules) -> dict[str, Any]:
    """Return further fields of config.json, for old versions and for programs that read no other file."""
    return {OLD_ACTIVATION: modules.activation and dotted_activation(modules.activation)}


def write_cross_modules(modules: CrossModules, folder: Path) -> None:
    """Write modules.json and its companions. Raise OSError if the folder can't be written."""
    transformer = {
        "transformer_task": "sequence-classification",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        "module_output_name": "scores",
    }
    settings = {"model_type": "CrossEncoder", "activation_fn": old_settings(modules)[OLD_ACTIVATION]}
    write_settings(modules, folder, [(TRANSFORMER_TYPE, "")], transformer, settings)
