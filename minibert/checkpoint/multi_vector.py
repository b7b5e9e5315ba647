"""Read and write the folders of late interaction: sentence-transformers 6's, PyLate's, and Stanford's ColBERT's.

All three become the same settings, as sentence-transformers 6.2 makes them. Its form is written.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn

from ..config import ConfigError, is_integer
from ..pooling import Dense, Normalize
from ..token_pooling import HierarchicalTokenPooling, check_tasks
from .hub import CheckpointFiles
from .load import read_tensor
from .names import by_canonical_name
from .save import write_json, write_tensors
from .sentence_transformers import (
    PLACES,
    SETTINGS,
    TRANSFORMER_SETTINGS,
    Fields,
    SentenceModules,
    dense_config,
    flag,
    read_dense,
    read_entries,
    read_module_config,
    read_settings,
    whole_number,
    write_settings,
)
from .tensors import CheckpointError
from .weights import SAFETENSORS, open_weights

METADATA = "artifact.metadata"
MEASURES = ("maxsim", "meanmaxsim")
TOKENS = "token_embeddings"
MASK = ("skiplist_words", "skiplist_tasks", "keep_only_token_ids")
POOLING = ("pool_factor", "num_protected_tokens", "normalize_embeddings", "tasks")
# Of sentence_bert_config.json; the first four have one value that is computed here.
TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": TOKENS,
}
# PyLate's defaults, and Stanford's, for what its folder leaves out.
PYLATE_LENGTHS, STANFORD_LENGTHS = (32, 180), (32, 220)
TYPES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "MultiVectorMask": "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
    "HierarchicalTokenPooling": "sentence_transformers.multi_vector_encoder.modules.token_pooling."
    "HierarchicalTokenPooling",
}


@dataclass(frozen=True)
class QueryExpansion:
    """How queries are filled up (ColBERT's query augmentation, arXiv 2004.12832, section 3.2).

    Args:
        length: Tokens of a query, at least.
        strategy: "fixed": exactly so many, longer queries are truncated. "min": longer ones stay.
        attend: Let the other tokens attend to the added ones. They themselves attend in either case.
        token: What is added. None: the mask token.

    Raises:
        ConfigError: one of them is none of these.
    """

    length: int
    strategy: str = "fixed"
    attend: bool = False
    token: str | None = None

    def __post_init__(self) -> None:
        if not is_integer(self.length, 1, 2**31):
            raise ConfigError(f"query_expansion: length must be a whole number from 1, not {self.length!r:.80}")
        if self.strategy not in ("fixed", "min"):
            raise ConfigError(f"query_expansion: strategy must be fixed or min, not {self.strategy!r:.80}")
        if not isinstance(self.attend, bool) or not isinstance(self.token, str | None):
            raise ConfigError("query_expansion: attend must be true or false, and token a text or null")


EXPANSION = QueryExpansion.__dataclass_fields__.keys()


@dataclass
class LateModules(SentenceModules):
    """The parts and settings of a late-interaction encoder. ``after`` has any of Dense and Normalize."""

    similarity_fn_name: str = "maxsim"
    query_length: int | None = None
    document_length: int | None = None
    query_expansion: QueryExpansion | None = None
    skiplist_words: Sequence[str] = ()
    skiplist_tasks: Sequence[str] = ("document",)
    keep_only_token_ids: Sequence[int] | None = None
    token_pooling: HierarchicalTokenPooling | None = None
    markers: dict[str, str] = field(default_factory=dict)  # by the field that names it; made special in the tokenizer


def read_late_modules(files: CheckpointFiles) -> LateModules:
    """Read all parts and settings.

    Raises:
        ConfigError: a file or field, which it names, is damaged, or of what minibert does not compute.
        CheckpointError: the weights of a projection are damaged, or do not fit.
    """
    files.pin()
    path = files.get("modules.json")
    if path is None:
        return _read_stanford(files)
    found, masked = LateModules(source=str(path)), False
    for place, entry in enumerate(read_entries(path, ("sentence_transformers.", "pylate.models."))):
        kind, below = entry["type"].rsplit(".", 1)[-1], files.below(entry["path"])
        where = f"{path}: the module {entry['type']!r}"
        if entry.get("kwargs") not in (None, [], ["task"]):
            raise ConfigError(f"{where} takes further inputs ({entry['kwargs']!r:.80}), which minibert does not give")
        if (place == 0) != (kind == "Transformer") or found.token_pooling or (kind == "MultiVectorMask" and masked):
            raise ConfigError(f"{where} is in a place where minibert does not compute it")
        if kind == "Transformer":
            found.transformer = entry["path"]
        elif kind == "Dense":
            found.after.append(read_dense(below, TOKENS))
        elif kind == "Normalize":
            read_module_config(below, PLACES, needed=False, place=TOKENS)
            found.after.append(Normalize())
        elif kind == "MultiVectorMask":
            masked = True
            _read_mask(below, found)
        elif kind == "HierarchicalTokenPooling":
            found.token_pooling = _read_pooling(below)
        else:
            raise ConfigError(f"{where} is unknown; minibert computes {', '.join(TYPES)}")
    read_settings(files, found)
    if files.read_object(SETTINGS).get("model_type") == "MultiVectorEncoder":
        _read_transformer(files.below(found.transformer), found, masked=masked)
        if found.similarity_fn_name not in MEASURES:
            text = f"similarity_fn_name must be one of {', '.join(MEASURES)}, not {found.similarity_fn_name!r:.80}"
            raise ConfigError(f"{found.source}: {text}")
    elif masked:
        raise ConfigError(f"{found.source}: model_type must be MultiVectorEncoder, as the modules are")
    else:
        _read_pylate(files, found)
    return found


def _read_transformer(files: CheckpointFiles, found: LateModules, *, masked: bool) -> None:
    """Read the lengths and the query expansion from sentence_bert_config.json."""
    values, where = files.read_object(TRANSFORMER_SETTINGS), f"{files.name}/{TRANSFORMER_SETTINGS}"
    known = (*TRANSFORMER, "query_length", "document_length", "query_expansion", "max_seq_length", "do_lower_case")
    if unknown := [name for name in values if name not in known and values[name] is not None]:
        raise ConfigError(f"{where}: minibert does not know the setting {', '.join(unknown):.200}")
    for name, value in TRANSFORMER.items():
        if values.get(name, value) != value:
            raise ConfigError(f"{where}: {name} {values[name]!r:.200} is not supported, only {value!r}")
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
    found.skiplist_words = _words(values, where) or ()
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


def _words(values: Fields, where: str) -> list[str] | None:
    words = values.get("skiplist_words")
    if words is not None and not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise ConfigError(f"{where}: skiplist_words must be a list of texts, not {words!r:.80}")
    return words


def _read_pylate(files: CheckpointFiles, found: LateModules) -> None:
    """Read what PyLate keeps in config_sentence_transformers.json. It normalises always, and lists no module for it."""
    values, where = files.read_object(SETTINGS), f"{files.name}/{SETTINGS}"
    found.similarity_fn_name = "maxsim"  # PyLate has no other, whatever its file says
    for task in ("query", "document"):
        marker = values.get(f"{task}_prefix", f"[{task[0].upper()}] ") or ""
        if not isinstance(marker, str):
            raise ConfigError(f"{where}: {task}_prefix must be a text, not {marker!r:.80}")
        if marker:
            found.markers[f"{task}_prefix"] = marker
            found.prompts[task] = marker + found.prompts.get(task, "").removeprefix(marker)
    lengths = (whole_number(values, f"{task}_length", where) for task in ("query", "document"))
    query, document = (length or usual for length, usual in zip(lengths, PYLATE_LENGTHS, strict=True))
    expanded = flag(values, "do_query_expansion", True, where) or values.get("do_query_expansion", True) is None
    attend = flag(values, "attend_to_expansion_tokens", False, where)
    found.query_expansion = QueryExpansion(query, attend=attend) if expanded else None
    found.query_length, found.document_length = (None if expanded else query), document
    words = _words(values, where)
    found.skiplist_words = list(string.punctuation) if words is None else words
    found.after.append(Normalize())


def _read_stanford(files: CheckpointFiles) -> LateModules:
    """Read artifact.metadata, and the projection from among the weights."""
    tensors, name = by_canonical_name(open_weights(files)), "linear.weight"
    if name not in tensors:
        text = f"there is neither modules.json nor a projection ({name} among the weights), so no late interaction"
        raise CheckpointError(f"{files.name}: {text}. Put a Bert, a Tokenizer and LateModules together to train one")
    if len(tensors[name].shape) != 2:
        raise CheckpointError(f"{tensors[name].file}: {name} must have two dimensions, not {tensors[name].shape}")
    found = LateModules(source=f"{files.name}/{METADATA}", notes=[f"{name} is the projection of token vectors"])
    values, where = files.read_object(METADATA), found.source
    for key, known in (("similarity", "cosine"), ("interaction", "colbert")):
        if values.get(key, known) != known:
            raise ConfigError(f"{where}: {key} {values[key]!r:.80} is not supported, only {known!r}")
    dense = Dense(tensors[name].shape[1], tensors[name].shape[0], bias=False, activation="Identity")
    dense.linear.weight = nn.Parameter(read_tensor(tensors[name], name, torch.float32).clone())
    if values.get("dim", dense.linear.out_features) != dense.linear.out_features:
        raise ConfigError(
            f"{where}: dim is {values['dim']!r:.80}, and {name} gives {dense.linear.out_features} numbers"
        )
    for key, task, usual in (("query_token_id", "query", "[unused0]"), ("doc_token_id", "document", "[unused1]")):
        marker = values.get(key) or usual
        if not isinstance(marker, str):
            raise ConfigError(f"{where}: {key} must be a text, not {marker!r:.80}")
        found.markers[key], found.prompts[task] = marker, f"{marker} "
    lengths = (whole_number(values, name, where) for name in ("query_maxlen", "doc_maxlen"))
    query, found.document_length = (length or usual for length, usual in zip(lengths, STANFORD_LENGTHS, strict=True))
    found.query_expansion = QueryExpansion(query, attend=flag(values, "attend_to_mask_tokens", False, where))
    found.skiplist_words = list(string.punctuation) if flag(values, "mask_punctuation", True, where) else []
    found.after = [dense, Normalize()]
    return found


def add_markers(tokenizer: Any, modules: LateModules) -> None:
    """Let the library's tokenizer keep each marker whole, as PyLate and Stanford put it in after [CLS].

    Note words to skip that the vocabulary lacks. Raise ConfigError for a marker that it lacks.
    """
    for name, marker in modules.markers.items():
        known = [piece for piece in (marker, marker.strip()) if tokenizer.token_to_id(piece) is not None]
        if not known:
            raise ConfigError(
                f"{modules.source}: the vocabulary has no marker {marker!r:.80} ({name}): add it, with a row"
            )
        if tokenizer.encode(known[0], add_special_tokens=False).tokens != [known[0]]:
            tokenizer.add_special_tokens([AddedToken(known[0], normalized=False, special=True)])
    if lost := [word for word in modules.skiplist_words if tokenizer.token_to_id(word) is None]:
        modules.notes.append(f"the vocabulary has no {' '.join(lost):.200}: skiplist_words without effect")


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
    transformer = {**TRANSFORMER, **lengths, "query_expansion": expansion and asdict(expansion)}
    settings = {"model_type": "MultiVectorEncoder", "similarity_fn_name": modules.similarity_fn_name}
    write_settings(modules, folder, entries, transformer, settings)
