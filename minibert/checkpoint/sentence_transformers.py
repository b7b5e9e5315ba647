"""Read and write modules.json and its companions: the modules that sentence-transformers runs after the transformer.

Three generations of that library are read. Class paths of 2.x, 5.4 and 6.x differ, so only the first and the last
part of a path count, and no class is imported. Pooling has one boolean per mode, or `pooling_mode`. The oldest form is
written, because all generations and other programs understand it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config import USUAL_PROMPTS, ConfigError, is_integer, read_json
from ..pooling import DENSE_ACTIVATIONS, POOLINGS, Dense, Normalize, Pooling
from .hub import CheckpointFiles
from .load import read_tensor
from .save import write_json, write_tensors
from .tensors import CheckpointError, on_meta
from .transformer import SENTENCES, TRANSFORMER_SETTINGS, check_transformer
from .weights import PICKLE, SAFETENSORS, open_weights

Fields = dict[str, Any]  # of a JSON object

SETTINGS = "config_sentence_transformers.json"

# In the order in which sentence-transformers concatenates several of them.
BOOLEANS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLING_SETTINGS = (*BOOLEANS, "pooling_mode", "include_prompt", "word_embedding_dimension", "embedding_dimension")
ORDER = ("Transformer", "BERT"), ("Pooling",), ("Dense", "Normalize")  # of modules; BERT is an old name
PLACES = ("module_input_name", "module_output_name")
DENSE_SETTINGS = ("in_features", "out_features", "bias", "activation_function", "use_residual", *PLACES)


@dataclass
class SentenceModules:
    """The parts and settings of a sentence encoder besides its Bert and its tokenizer."""

    transformer: str = ""  # the folder of config.json and the weights; old checkpoints use 0_BERT
    after: list[nn.Module] = field(default_factory=list)  # a Pooling, then any of Dense and Normalize
    max_seq_length: int | None = None
    do_lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str = "cosine"
    source: str = "these modules"  # the file that names the measure
    truncate_dim: int | None = None
    notes: list[str] = field(default_factory=list)  # choices that the files leave open


def read_modules(files: CheckpointFiles) -> SentenceModules:
    """Read all parts and settings.

    It raises ConfigError, which names the file and the field, for all that is damaged or that minibert does not
    compute, and CheckpointError if the weights of a Dense are damaged or differ from its config.
    """
    files.pin()
    found = SentenceModules()
    path = files.get("modules.json")
    if path is None:
        found.after.append(Pooling("mean"))
        found.notes.append("no modules.json: mean pooling is sentence-transformers' default, not the checkpoint's word")
    else:
        for place, entry in enumerate(read_entries(path)):
            _add(found, files, entry, path, ORDER[min(place, 2)])
        if not found.after or not isinstance(found.after[0], Pooling):
            raise ConfigError(f"{path}: no Pooling follows the Transformer, so there is no sentence vector")
    read_settings(files, found)
    below = files.below(found.transformer)
    values = below.read_object(TRANSFORMER_SETTINGS)
    if odd := [name for name in ("query_length", "document_length") if values.get(name) is not None]:
        text = f"{odd[0]}, a limit for `encode_{odd[0].split('_')[0]}` alone, is for MultiVectorEncoder only"
        raise ConfigError(f"{below.name}/{TRANSFORMER_SETTINGS}: {text}: delete it, and set max_seq_length")
    check_transformer(below, SENTENCES, "sentence encoder")
    return found


def vector_width(hidden_size: int, pooling: nn.Module, head: Iterable[nn.Module]) -> int:
    """Return D of the sentence vector. Raise ConfigError if a Dense does not fit the part before it."""
    width = hidden_size * (len(pooling.modes) if isinstance(pooling, Pooling) else 1)
    for module in head:
        if isinstance(module, Dense):
            if module.linear.in_features != width:
                found = f"in_features of a Dense's config.json is {module.linear.in_features}"
                raise ConfigError(f"{found}, but it gets {width} numbers")
            width = module.linear.out_features
        elif not isinstance(module, Normalize):  # one of the user's own tells by what it makes of a vector
            weight = next(module.parameters(), torch.empty(0))
            with torch.no_grad():
                width = module(torch.zeros(1, width, dtype=weight.dtype, device=weight.device)).shape[-1]
    return width


def check_writable(modules: Sequence[nn.Module]) -> None:
    """Raise ConfigError for a module that sentence-transformers does not have, before anything is written."""
    if odd := [type(module).__name__ for module in modules if type(module) not in (Pooling, Dense, Normalize)]:
        raise ConfigError(f"{odd[0]} is not a module of sentence-transformers, so it can't be saved")


def write_modules(modules: SentenceModules, hidden_size: int, folder: Path) -> None:
    """Write modules.json, its companions, and the folders that it names. Raise as ``check_writable``, or OSError."""
    check_writable(modules.after)
    entries = [("sentence_transformers.models.Transformer", "")]
    for i, module in enumerate(modules.after, 1):
        kind = type(module).__name__
        below = folder / f"{i}_{kind}"
        below.mkdir(parents=True, exist_ok=True)
        if isinstance(module, Pooling):
            write_json(_pooling_config(module, hidden_size), below / "config.json")
        if isinstance(module, Dense):
            write_json(dense_config(module), below / "config.json")
            write_tensors(module.state_dict(), below / SAFETENSORS)
        entries.append((f"sentence_transformers.models.{kind}", below.name))
    settings = {"similarity_fn_name": modules.similarity_fn_name, "truncate_dim": modules.truncate_dim}
    write_settings(modules, folder, entries, {"max_seq_length": modules.max_seq_length}, settings)


def write_settings(
    modules: SentenceModules, folder: Path, entries: Iterable[tuple[str, str]], transformer: Fields, settings: Fields
) -> None:
    """Write the three files that both kinds of encoder have. A value of None is left out.

    ``entries`` has the class path and folder of each module. ``transformer`` and ``settings`` are further fields of
    sentence_bert_config.json and config_sentence_transformers.json.
    """
    prompts = {"prompts": modules.prompts, "default_prompt_name": modules.default_prompt_name}
    transformer = {**transformer, "do_lower_case": modules.do_lower_case}
    place = Path(modules.transformer, TRANSFORMER_SETTINGS)
    for file, values in ((place, transformer), (SETTINGS, settings | prompts)):
        write_json({name: value for name, value in values.items() if value is not None}, folder / file)
    rows = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in enumerate(entries)]
    write_json(rows, folder / "modules.json")  # last: without it the folder is not yet an encoder


def read_entries(path: Path, libraries: tuple[str, ...] = ("sentence_transformers.",)) -> list[dict[str, Any]]:
    """Read the modules that modules.json lists, each with a type and a path. Raise ConfigError if it is damaged."""
    entries = read_json(path, list)
    if not all(isinstance(row, dict) and {type(row.get("type")), type(row.get("path"))} == {str} for row in entries):
        raise ConfigError(f"{path}: expected a list of objects with a type and a path each")
    if odd := [row["type"] for row in entries if not row["type"].startswith(libraries)]:
        text = "is none of sentence-transformers, and minibert runs no code of a checkpoint"
        raise ConfigError(f"{path}: the module {odd[0]!r} {text}")
    return entries


def read_settings(files: CheckpointFiles, found: SentenceModules) -> None:
    """Read config_sentence_transformers.json, and sentence_bert_config.json from the transformer's folder."""
    values, where = files.read_object(SETTINGS), f"{files.name}/{SETTINGS}"
    prompts, default = values.get("prompts") or {}, values.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ConfigError(f"{where}: prompts must map names to texts, not {prompts!r}")
    if default not in [None, *prompts, *USUAL_PROMPTS]:
        raise ConfigError(f"{where}: default_prompt_name {default!r} is not one of its prompts")
    found.prompts = {name: text or "" for name, text in prompts.items()}
    found.default_prompt_name, found.source = default, where
    found.similarity_fn_name = str(values.get("similarity_fn_name") or found.similarity_fn_name)
    found.truncate_dim = whole_number(values, "truncate_dim", where)
    below = files.below(found.transformer)
    values, where = below.read_object(TRANSFORMER_SETTINGS), f"{below.name}/{TRANSFORMER_SETTINGS}"
    found.max_seq_length = whole_number(values, "max_seq_length", where)
    found.do_lower_case = flag(values, "do_lower_case", False, where)


def whole_number(values: Fields, name: str, where: str) -> int | None:
    """Return a setting, None where it is not set. Raise ConfigError unless it is a whole number, at least 1."""
    if (value := values.get(name)) is not None and not is_integer(value, 1):
        raise ConfigError(f"{where}: {name} must be a whole number, not {value!r}")
    return value and min(value, 2**31)  # torch takes no larger ones


def flag(values: Fields, name: str, usual: bool, where: str) -> bool:
    """Return a setting, or the usual value. Raise ConfigError unless it is true or false."""
    if (value := values.get(name, usual)) not in (True, False, None):  # "false" would count as true
        raise ConfigError(f"{where}: {name} must be true or false, not {value!r:.80}")
    return bool(value)


def _add(
    found: SentenceModules, files: CheckpointFiles, entry: dict[str, Any], source: Path, expected: tuple[str, ...]
) -> None:
    kind = entry["type"].rsplit(".", 1)[-1]
    where = f"{source}: the module {entry['type']!r}"
    below = files.below(entry["path"])
    if entry.get("kwargs"):
        raise ConfigError(f"{where} takes further inputs ({entry['kwargs']!r}), which minibert does not give")
    if not any(kind in kinds for kinds in ORDER):
        raise ConfigError(f"{where} is unknown; minibert computes Transformer, Pooling, Dense, Normalize")
    if kind not in expected:
        raise ConfigError(f"{where} is in a place where minibert does not compute it")
    if kind == "Pooling":
        found.after.append(_read_pooling(below, found))
    elif kind == "Dense":
        found.after.append(read_dense(below))
    elif kind == "Normalize":
        read_module_config(below, PLACES, needed=False)  # nearly no model has one
        found.after.append(Normalize())
    else:
        found.transformer = entry["path"]


def _read_pooling(files: CheckpointFiles, found: SentenceModules) -> Pooling:
    values, where = read_module_config(files, POOLING_SETTINGS)
    modes = values.get("pooling_mode")
    if modes is None:
        modes = [mode for name, mode in BOOLEANS.items() if flag(values, name, False, where)]
        if not modes:
            modes = ["mean"]
            found.notes.append(f"{where} names no pooling: mean is sentence-transformers' default")
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or not all(mode in list(POOLINGS) for mode in modes):
        raise ConfigError(f"{where}: pooling_mode {modes!r} is unknown; minibert computes {', '.join(POOLINGS)}")
    return Pooling(modes, include_prompt=flag(values, "include_prompt", True, where))


def _pooling_config(pooling: Pooling, hidden_size: int) -> dict[str, Any]:
    modes, prompt = list(pooling.modes), {"include_prompt": pooling.include_prompt}
    if modes == [mode for mode in BOOLEANS.values() if mode in modes]:
        flags = {name: mode in modes for name, mode in BOOLEANS.items()}
        return {"word_embedding_dimension": hidden_size, **flags, **prompt}
    # Booleans can't express another order. Only sentence-transformers 5.4 and later read this form.
    return {"embedding_dimension": hidden_size, "pooling_mode": modes, **prompt}


def read_dense(files: CheckpointFiles, place: str = "sentence_embedding") -> Dense:
    """Read a Dense of a module's folder. Raise ConfigError, or CheckpointError where its weights do not fit."""
    values, where = read_module_config(files, DENSE_SETTINGS, place=place)
    for name in ("in_features", "out_features"):
        if not is_integer(width := values.get(name), 1, 2**20 - 1):
            raise ConfigError(f"{where}: {name} must be a whole number below {2**20}, not {width!r}")
    dotted = values.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = activation_name(dotted, f"{where}: activation_function")
    flags = {"bias": flag(values, "bias", True, where), "residual": flag(values, "use_residual", False, where)}
    with on_meta():  # no memory on the config's word alone
        dense = Dense(values["in_features"], values["out_features"], activation=activation, **flags)
    tensors = open_weights(files, (SAFETENSORS, PICKLE))
    expected = {name: tuple(value.shape) for name, value in dense.state_dict().items()}
    actual = {name: tensor.shape for name, tensor in tensors.items()}
    if expected != actual:
        raise CheckpointError(f"{files.name}: config.json asks for the weights {expected}, the file holds {actual}")
    weights = {name: read_tensor(tensors[name], name, torch.float32) for name in expected}
    dense.load_state_dict({name: value.clone() for name, value in weights.items()}, assign=True)  # not mapped
    return dense


def dense_config(dense: Dense) -> dict[str, Any]:
    """Return the fields from which `read_dense` makes the same."""
    config = {
        "in_features": dense.linear.in_features,
        "out_features": dense.linear.out_features,
        "bias": dense.linear.bias is not None,
        "activation_function": dotted_activation(dense.activation),
    }
    return config | ({"use_residual": True} if dense.use_residual else {})


def activation_name(dotted: object, where: str) -> str:
    """Convert `torch.nn.modules.activation.Tanh` to `Tanh`, a name in DENSE_ACTIVATIONS, without importing it."""
    name = str(dotted).rsplit(".", 1)[-1]
    if not str(dotted).startswith("torch.nn.") or name not in DENSE_ACTIVATIONS:
        known = ", ".join(f"torch.nn.{name}" for name in DENSE_ACTIVATIONS)
        raise ConfigError(f"{where} {dotted!r} is not one of {known}")
    return name


def dotted_activation(name: str) -> str:
    """Convert `Tanh` to `torch.nn.modules.activation.Tanh`, as sentence-transformers writes it."""
    return f"torch.nn.modules.{'linear' if name == 'Identity' else 'activation'}.{name}"


def read_module_config(
    files: CheckpointFiles, known: tuple[str, ...], *, needed: bool = True, place: str = "sentence_embedding"
) -> tuple[Fields, str]:
    """Read a module's config.json, and return its name too.

    Unknown settings and modules that work on other values than ``place`` are refused: both would change the numbers.
    """
    values, where = files.read_object("config.json", needed=needed, quiet=True), f"{files.name}/config.json"
    for name in PLACES:
        if values.get(name) not in (None, place):
            raise ConfigError(f"{where}: {name} {values[name]!r} is not supported, only {place!r}")
    if unknown := [name for name in values if name not in known]:
        raise ConfigError(f"{where}: minibert does not know the setting {', '.join(unknown)}")
    return values, where
