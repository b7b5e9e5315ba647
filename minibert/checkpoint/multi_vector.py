"""Read and write the folders of late interaction: sentence-transformers 6's, PyLate's, and Stanford's ColBERT's.

All three become the same settings, as sentence-transformers 6.2 makes them. Its form is written.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import nn

from ..config import ConfigError, is_integer
from ..pooling import Dense, Normalize
from ..token_pooling import HierarchicalTokenPooling, check_tasks
from .colbert import LateModules, QueryExpansion, read_pylate, read_stanford, read_words
from .hub import CheckpointFiles
from .save import write_json, write_tensors
from .sentence_transformers import (
    PLACES,
    SETTINGS,
    Fields,
    dense_config,
    flag,
    read_dense,
    read_entries,
    read_module_config,
    read_settings,
    whole_number,
    write_settings,
)
from .transformer import SENTENCES, TRANSFORMER_SETTINGS, check_transformer
from .weights import SAFETENSORS

MEASURES = ("maxsim", "meanmaxsim")
TOKENS = "token_embeddings"
MASK = ("skiplist_words", "skiplist_tasks", "keep_only_token_ids")
POOLING = ("pool_factor", "num_protected_tokens", "normalize_embeddings", "tasks")
EXPANSION = QueryExpansion.__dataclass_fields__.keys()
TYPES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "MultiVectorMask": "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
    "HierarchicalTokenPooling": "sentence_transformers.multi_vector_encoder.modules.token_pooling."
    "HierarchicalTokenPooling",
}


def read_late_modules(files: CheckpointFiles) -> LateModules:
    """Read all parts and settings.

    Raises:
        ConfigError: a file or field, which it names, is damaged, or of what minibert does not compute.
        CheckpointError: the weights of a projection are damaged, or do not fit.
    """
    files.pin()
    path = files.get("modules.json")
    if path is None:
        return read_stanford(files)
    found = LateModules(source=str(path))
    entries = read_entries(path, ("sentence_transformers.", "pylate.models."))
    kinds = [entry["type"].rsplit(".", 1)[-1] for entry in entries]
    masked, last = kinds.count("MultiVectorMask"), [kind for kind in kinds[:-1] if kind == "HierarchicalTokenPooling"]
    if kinds[:1] != ["Transformer"] or kinds.count("Transformer") > 1 or masked > 1 or last:
        text = (
            "minibert computes a Transformer, then Dense, Normalize and one MultiVectorMask, and a token pooling last"
        )
        raise ConfigError(f"{path}: {text}, not {', '.join(kinds):.200}")
    for kind, entry in zip(kinds, entries, strict=True):
        _add(found, kind, files.below(entry["path"]), entry, f"{path}: the module {entry['type']!r:.200}")
    read_settings(files, found)
    if files.read_object(SETTINGS).get("model_type") == "MultiVectorEncoder":
        _read_transformer(files.below(found.transformer), found, masked=masked > 0)
        if found.similarity_fn_name not in MEASURES:
            text = f"similarity_fn_name must be one of {', '.join(MEASURES)}, not {found.similarity_fn_name!r:.80}"
            raise ConfigError(f"{found.source}: {text}")
    elif masked:
        raise ConfigError(f"{found.source}: model_type must be MultiVectorEncoder, as the modules are")
    else:
        read_pylate(files, found)
    return found


def _add(found: LateModules, kind: str, files: CheckpointFiles, entry: Fields, where: str) -> None:
    """Read one module."""
    if entry.get("kwargs") not in (None, [], ["task"]):
        raise ConfigError(f"{where} takes further inputs ({entry['kwargs']!r:.80}), which minibert does not give")
    if kind == "Transformer":
        found.transformer = entry["path"]
    elif kind == "Dense":
        found.after.append(read_dense(files, TOKENS))
    elif kind == "Normalize":
        read_module_config(files, PLACES, needed=False, place=TOKENS)
        found.after.append(Normalize())
    elif kind == "MultiVectorMask":
        _read_mask(files, found)
    elif kind == "HierarchicalTokenPooling":
        found.token_pooling = _read_pooling(files)
    else:
        raise ConfigError(f"{where} is unknown; minibert computes {', '.join(TYPES)}")


def _read_transformer(files: CheckpointFiles, found: LateModules, *, masked: bool) -> None:
    """Read the lengths and the query expansion from sentence_bert_config.json."""
    own = ("query_length", "document_length", "query_expansion")
    values = check_transformer(files, SENTENCES, "late-interaction model", own)
    where = f"{files.name}/{TRANSFORMER_SETTINGS}"
    found.query_length = whole_number(values, "query_length", where)
    found.document_length = whole_number(values, "document_length", where)
    expansion = values.get("query_expansion")
    if expansion is None:
        return
    if not isinstance(expansion, dict) or not {"length", "strategy"} <= expansion.keys() <= EXPANSION:
        text = f"query_expansion must have length and strategy, and may have attend and token, not {expansion!r:.200}"
        raise ConfigError(f"{where}: {text}")
    if not masked:
        raise ConfigError(f"{where}: query_expansion needs the module MultiVectorMask, which counts the added tokens")
    try:
        found.query_expansion = QueryExpansion(**expansion)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _read_mask(files: CheckpointFiles, found: LateModules) -> None:
    values, where = read_module_config(files, MASK)
    found.skiplist_words = read_words(values, where) or ()
    ids = found.keep_only_token_ids = values.get("keep_only_token_ids") or None
    if ids is not None and not (isinstance(ids, list) and all(is_integer(i, 0) for i in ids)):
        raise ConfigError(f"{where}: keep_only_token_ids must be a list of whole numbers, not {ids!r:.80}")
    found.skiplist_tasks = _tasks(values, "skiplist_tasks", where)


def _read_pooling(files: CheckpointFiles) -> HierarchicalTokenPooling:
    values, where = read_module_config(files, POOLING)
    values["tasks"] = _tasks(values, "tasks", where)
    values["normalize_embeddings"] = flag(values, "normalize_embeddings", False, where)  # as before version 6.2
    try:
        return HierarchicalTokenPooling(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _tasks(values: Fields, name: str, where: str) -> tuple[str, ...]:
    said = ["document"] if values.get(name) is None else values[name]
    try:
        return check_tasks([said] if isinstance(said, str) else said, name)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def write_late_modules(modules: LateModules, folder: Path) -> None:
    """Write modules.json, its companions, and the folders that it names. Raise OSError."""
    expansion = modules.query_expansion
    mask = {name: getattr(modules, name) for name in MASK}
    parts: list[tuple[str, Fields, nn.Module | None]] = [
        (
            type(part).__name__,
            (dense_config(part) if isinstance(part, Dense) else {}) | dict.fromkeys(PLACES, TOKENS),
            part,
        )
        for part in modules.after
    ]
    parts.append(("MultiVectorMask", {name: list(value) if value else value for name, value in mask.items()}, None))
    if modules.token_pooling is not None:
        config = {name: getattr(modules.token_pooling, name) for name in POOLING}
        parts.append(("HierarchicalTokenPooling", config, None))
    entries = [(TYPES["Transformer"], "")]
    for i, (kind, config, part) in enumerate(parts, 1):
        below = folder / f"{i}_{kind}"
        below.mkdir(parents=True, exist_ok=True)
        write_json(config, below / "config.json")
        if isinstance(part, Dense):
            write_tensors(part.state_dict(), below / SAFETENSORS)
        entries.append((TYPES[kind], below.name))
    lengths = {name: getattr(modules, name) for name in ("query_length", "document_length")}
    transformer = {**SENTENCES, **lengths, "query_expansion": expansion and asdict(expansion)}
    settings = {"model_type": "MultiVectorEncoder", "similarity_fn_name": modules.similarity_fn_name}
    write_settings(modules, folder, entries, transformer, settings)
