"""modules.json and its companions: what sentence-transformers put after the transformer.

All three generations of that library are read: class paths of 2.x, 5.4 and 6.x (only the last part of a path counts,
and nothing is ever imported), Pooling with one boolean per mode or with `pooling_mode`. What is written is the oldest
form, which all of them, and the other programs that read such folders, understand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config import ConfigError, read_json
from ..pooling import DENSE_ACTIVATIONS, POOLINGS, Dense, Normalize, Pooling
from .hub import CheckpointFiles
from .load import read_tensor
from .save import write_json, write_tensors
from .tensors import CheckpointError, on_meta
from .weights import SAFETENSORS, open_weights

# In the order in which sentence-transformers lays several of them side by side.
BOOLEANS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLING_SETTINGS = (*BOOLEANS, "pooling_mode", "include_prompt", "word_embedding_dimension", "embedding_dimension")
DENSE_SETTINGS = ("in_features", "out_features", "bias", "activation_function", "use_residual")
DENSE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass
class SentenceModules:
    """All that a sentence encoder is besides its Bert and its tokenizer."""

    transformer: str = ""  # the folder of config.json and the weights; old checkpoints have it below, as 0_BERT
    after: list[nn.Module] = field(default_factory=list)  # a Pooling, then any of Dense and Normalize
    max_seq_length: int | None = None
    do_lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str = "cosine"
    truncate_dim: int | None = None
    notes: list[str] = field(default_factory=list)  # what was decided for lack of word in the files


def read_modules(files: CheckpointFiles) -> SentenceModules:
    """Read all of it.

    Raises:
        ConfigError: a file is damaged, or asks for a module or a setting that minibert does not compute; it is named.
        CheckpointError: a Dense module's weights are damaged or not those of its config.
    """
    found = SentenceModules()
    read_prompts(files, found)
    path = files.get("modules.json")
    if path is None:
        found.after.append(Pooling("mean"))
        found.notes.append("no modules.json: mean pooling is sentence-transformers' default, not the checkpoint's word")
    else:
        for entry in read_entries(path):
            _add(found, files, entry, path)
        if not found.after or not isinstance(found.after[0], Pooling):
            raise ConfigError(f"{path}: after the Transformer comes no Pooling, so there is no sentence vector")
    read_transformer_settings(files.below(found.transformer), found)
    return found


def vector_width(hidden_size: int, pooling: nn.Module, head: Iterable[nn.Module]) -> int:
    """Numbers in a sentence vector. Raises ConfigError where a Dense does not fit what comes before."""
    width = hidden_size * (len(pooling.modes) if isinstance(pooling, Pooling) else 1)
    for module in head:
        if isinstance(module, Dense):
            if module.linear.in_features != width:
                raise ConfigError(f"a Dense takes vectors of {module.linear.in_features}, but gets {width} numbers")
            width = module.linear.out_features
    return width


def check_writable(modules: Sequence[nn.Module]) -> None:
    """Raise ConfigError for a module that sentence-transformers does not have, so that no half of it gets written."""
    for module in modules:
        if type(module) not in (Pooling, Dense, Normalize):
            raise ConfigError(
                f"{type(module).__name__} is no module that sentence-transformers has; it can't be saved in its form"
            )


def write_modules(modules: SentenceModules, hidden_size: int, folder: Path) -> None:
    """Write modules.json, the folders it names, sentence_bert_config.json and config_sentence_transformers.json.

    Raises:
        ConfigError: a module is none that sentence-transformers has. OSError: the folder can't be written.
    """
    check_writable(modules.after)
    entries = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for i, module in enumerate(modules.after, 1):
        kind = type(module).__name__
        below = folder / f"{i}_{kind}"
        below.mkdir(parents=True, exist_ok=True)
        if isinstance(module, Pooling):
            write_json(_pooling_config(module, hidden_size), below / "config.json")
        if isinstance(module, Dense):
            write_json(_dense_config(module), below / "config.json")
            write_tensors(module.state_dict(), below / SAFETENSORS)
        entries.append({"idx": i, "name": str(i), "path": below.name, "type": f"sentence_transformers.models.{kind}"})
    settings = {"max_seq_length": modules.max_seq_length, "do_lower_case": modules.do_lower_case}
    write_json({k: v for k, v in settings.items() if v is not None}, folder / "sentence_bert_config.json")
    words = {
        "prompts": modules.prompts,
        "default_prompt_name": modules.default_prompt_name,
        "similarity_fn_name": modules.similarity_fn_name,
        "truncate_dim": modules.truncate_dim,
    }
    write_json({k: v for k, v in words.items() if v is not None}, folder / "config_sentence_transformers.json")
    write_json(entries, folder / "modules.json")  # last: a folder without it is not yet a sentence encoder


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The modules that modules.json lists, each with a type and a path. Raises ConfigError if it is damaged."""
    entries = read_json(path)
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("type"), str) and isinstance(entry.get("path"), str)
        for entry in entries
    ):
        raise ConfigError(f"{path}: expected a list of objects with a type and a path each")
    return entries


def _add(found: SentenceModules, files: CheckpointFiles, entry: dict[str, Any], source: Path) -> None:
    kind = entry["type"].rsplit(".", 1)[-1]
    where = f"{source}: the module {entry['type']!r}"
    below = files.below(entry["path"])
    if entry.get("kwargs"):
        raise ConfigError(f"{where} takes further inputs ({', '.join(entry['kwargs'])}), which minibert does not give")
    if kind in ("Transformer", "BERT") and not found.after:
        found.transformer = entry["path"]
    elif kind == "Pooling" and not found.after:
        found.after.append(_read_pooling(below, found))
    elif kind == "Dense" and found.after:
        found.after.append(_read_dense(below))
    elif kind == "Normalize" and found.after:
        _only_for_sentences(below.read_object("config.json"), below, known=())
        found.after.append(Normalize())
    elif kind in ("Transformer", "BERT", "Pooling", "Dense", "Normalize"):
        raise ConfigError(f"{where} stands in a place where minibert does not compute it")
    else:
        raise ConfigError(f"{where} is none that minibert computes: Transformer, Pooling, Dense, Normalize")


def _read_pooling(files: CheckpointFiles, found: SentenceModules) -> Pooling:
    values = files.read_object("config.json", needed=True)
    _refuse_unknown(values, files, POOLING_SETTINGS)
    modes = values.get("pooling_mode")
    if modes is None:
        modes = [mode for name, mode in BOOLEANS.items() if values.get(name)]
        if not modes:
            modes = ["mean"]
            found.notes.append(f"{files.name}/config.json names no pooling: the mean, as sentence-transformers has it")
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or not all(mode in list(POOLINGS) for mode in modes):
        raise ConfigError(
            f"{files.name}/config.json: pooling_mode {modes!r} is unknown; minibert computes {', '.join(POOLINGS)}"
        )
    return Pooling(modes, include_prompt=bool(values.get("include_prompt", True)))


def _read_dense(files: CheckpointFiles) -> Dense:
    values = files.read_object("config.json", needed=True)
    _only_for_sentences(values, files, known=DENSE_SETTINGS)
    activation = activation_name(
        values.get("activation_function", "torch.nn.modules.activation.Tanh"),
        f"{files.name}/config.json: activation_function",
    )
    with on_meta():  # no memory on the config's word alone
        dense = Dense(
            _width(values, "in_features", files),
            _width(values, "out_features", files),
            bias=bool(values.get("bias", True)),
            activation=activation,
            residual=bool(values.get("use_residual", False)),
        )
    stored = open_weights(files, DENSE_WEIGHTS)
    expected = {name: tuple(value.shape) for name, value in dense.state_dict().items()}
    actual = {name: tensor.shape for name, tensor in stored.items()}
    if expected != actual:
        raise CheckpointError(f"{files.name}: config.json asks for the weights {expected}, the file holds {actual}")
    dense.load_state_dict({name: read_tensor(stored[name], name, torch.float32) for name in expected}, assign=True)
    return dense


def activation_name(dotted: object, where: str) -> str:
    """`torch.nn.modules.activation.Tanh` -> `Tanh`, of DENSE_ACTIVATIONS. Nothing is imported by such a name.

    Raises:
        ConfigError: it is none of them; the message begins with ``where``.
    """
    name = str(dotted).rsplit(".", 1)[-1]
    if not str(dotted).startswith("torch.nn.") or name not in DENSE_ACTIVATIONS:
        known = ", ".join(f"torch.nn.{name}" for name in DENSE_ACTIVATIONS)
        raise ConfigError(f"{where} {dotted!r} is none of {known}")
    return name


def dotted_activation(name: str) -> str:
    """`Tanh` -> `torch.nn.modules.activation.Tanh`, as sentence-transformers writes it."""
    return f"torch.nn.modules.{'linear' if name == 'Identity' else 'activation'}.{name}"


def _width(values: Mapping[str, Any], name: str, files: CheckpointFiles) -> int:
    width = values.get(name)
    if not isinstance(width, int) or not 0 < width < 2**20:
        raise ConfigError(f"{files.name}/config.json: {name} must be a whole number, not {width!r}")
    return width


def _only_for_sentences(values: Mapping[str, Any], files: CheckpointFiles, known: tuple[str, ...]) -> None:
    """Refuse what would change the numbers: work on the tokens' vectors, and settings that minibert does not know."""
    places = ("module_input_name", "module_output_name")
    for name in places:
        if values.get(name) not in (None, "sentence_embedding"):
            raise ConfigError(
                f"{files.name}/config.json: {name} {values[name]!r} is not supported, only the sentence's"
            )
    _refuse_unknown(values, files, (*places, *known))


def _refuse_unknown(values: Mapping[str, Any], files: CheckpointFiles, known: tuple[str, ...]) -> None:
    if unknown := [name for name in values if name not in known]:
        raise ConfigError(f"{files.name}/config.json: minibert does not know the setting {', '.join(unknown)}")


def read_transformer_settings(files: CheckpointFiles, found: SentenceModules) -> None:
    """sentence_bert_config.json, which lies beside config.json. Raises ConfigError if it is damaged."""
    values = files.read_object("sentence_bert_config.json")
    length = values.get("max_seq_length")
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
        raise ConfigError(f"{files.name}/sentence_bert_config.json: max_seq_length must be a number, not {length!r}")
    found.max_seq_length = length
    found.do_lower_case = bool(values.get("do_lower_case", False))


def read_prompts(files: CheckpointFiles, found: SentenceModules) -> None:
    """config_sentence_transformers.json, which lies beside modules.json. Raises ConfigError if it is damaged."""
    source = "config_sentence_transformers.json"
    values = files.read_object(source)
    prompts = values.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ConfigError(f"{files.name}/{source}: prompts must map names to texts, not {prompts!r}")
    found.prompts = {name: text or "" for name, text in prompts.items()}
    found.default_prompt_name = values.get("default_prompt_name")
    if found.default_prompt_name is not None and found.default_prompt_name not in list(found.prompts):
        raise ConfigError(
            f"{files.name}/{source}: default_prompt_name {found.default_prompt_name!r} is no prompt of it"
        )
    found.similarity_fn_name = str(values.get("similarity_fn_name") or "cosine")
    found.truncate_dim = values.get("truncate_dim")
    if found.truncate_dim is not None and (not isinstance(found.truncate_dim, int) or found.truncate_dim < 1):
        raise ConfigError(f"{files.name}/{source}: truncate_dim must be a number, not {found.truncate_dim!r}")


def _pooling_config(pooling: Pooling, hidden_size: int) -> dict[str, Any]:
    flags = {name: mode in pooling.modes for name, mode in BOOLEANS.items()}
    if list(pooling.modes) != [mode for mode in BOOLEANS.values() if mode in pooling.modes]:
        # An order that the booleans can't tell; only sentence-transformers 5.4 and later have a word for it.
        return {
            "embedding_dimension": hidden_size,
            "pooling_mode": list(pooling.modes),
            "include_prompt": pooling.include_prompt,
        }
    return {"word_embedding_dimension": hidden_size, **flags, "include_prompt": pooling.include_prompt}


def _dense_config(dense: Dense) -> dict[str, Any]:
    config = {
        "in_features": dense.linear.in_features,
        "out_features": dense.linear.out_features,
        "bias": dense.linear.bias is not None,
        "activation_function": dotted_activation(dense.activation),
    }
    return config | ({"use_residual": True} if dense.use_residual else {})
