"""Read and write what sentence-transformers' SparseEncoder keeps beside the masked-LM's weights: SPLADE and IDF.

Its modules are a masked LM and SpladePooling; or a Router, which leads documents to these and queries to a table with
a weight for each word (SparseStaticEmbedding). The names of versions 5 and 6 are read. Those of 5 are written, which
both understand.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from ..config import ConfigError, read_json
from ..pooling import SpladePooling
from .hub import CheckpointFiles
from .kinds import ROUTER_SETTINGS
from .load import read_tensor
from .save import write_json, write_tensors
from .sentence_transformers import (
    SETTINGS,
    Fields,
    SentenceModules,
    flag,
    read_entries,
    read_module_config,
    read_settings,
    whole_number,
    write_settings,
)
from .tensors import CheckpointError
from .transformer import TRANSFORMER_SETTINGS, check_transformer, usual
from .weights import PICKLE, SAFETENSORS, open_weights
from .wordpiece import open_tokenizer

PATH = "sentence_transformers.sparse_encoder.models."
MASKED_LM, SPLADE, STATIC = "MLMTransformer", "SpladePooling", ("SparseStaticEmbedding", "IDF")
SPLADE_SETTINGS = (
    *("pooling_strategy", "activation_function", "embedding_dimension"),
    *("word_embedding_dimension", "chunk_size"),  # of version 5; how many tokens at a time
)
# Of the masked LM's settings, the only values that are computed.
WORDS = usual("fill-mask", "logits", "token_embeddings")
TASKS = ("query", "document")
ROUTED = f"document_0_{MASKED_LM}", f"query_0_{STATIC[0]}"  # where the two are saved


@dataclass
class SparseModules(SentenceModules):
    """The settings of a sparse encoder besides its masked LM and its tokenizer. Its list of modules stays empty."""

    similarity_fn_name: str = "dot"
    pooling: SpladePooling = field(default_factory=SpladePooling)
    max_active_dims: int | None = None
    static: Tensor | None = None  # a weight for each word, (V,)
    static_folder: str = ""  # of its tokenizer
    static_for: frozenset[str | None] = frozenset()  # the tasks that use it; None is the call that names no task
    frozen: bool = False  # the static weights are not trained


def read_sparse_modules(files: CheckpointFiles) -> SparseModules:
    """Read the settings. A masked LM alone is pooled as SPLADE is: the highest log(1 + relu).

    Raises ConfigError, which names the file and the field, for all that is damaged or that minibert does not compute,
    and CheckpointError if the static weights are.
    """
    files.pin()
    found = SparseModules()
    path = files.get("modules.json")
    if path is None:
        found.notes.append("no modules.json: SPLADE's max pooling is sentence-transformers' default")
    else:
        entries = read_entries(path)
        types = {entry["path"]: entry["type"].rsplit(".", 1)[-1] for entry in entries}
        if list(types.values()) == ["Router"]:
            _read_router(found, files, files.below(entries[0]["path"]), entries[0]["path"])
        else:
            _read_route(found, files, types, list(types), str(path))
    read_settings(files, found)
    found.max_active_dims = whole_number(files.read_object(SETTINGS), "max_active_dims", found.source)
    return found


def without_special_tokens(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Return a copy that adds no [CLS] and no [SEP]."""
    plain: Any = tokenizers.Tokenizer.from_str(backend.to_str())
    plain.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    return plain


def _read_route(
    found: SparseModules, files: CheckpointFiles, types: dict[str, str], route: Sequence[str], where: str
) -> None:
    """Read a masked LM and its pooling. ``types`` has the class of each module, by its folder."""
    kinds = [types[place] for place in route]
    if len(kinds) != 2 or kinds[0] not in (MASKED_LM, "Transformer") or kinds[1] != SPLADE:
        text = f"minibert computes Transformer and {SPLADE}, and for queries SparseStaticEmbedding"
        raise ConfigError(f"{where}: {', '.join(kinds) or 'no module'}: {text}")
    found.transformer = route[0]
    _check_transformer(files.below(route[0]), WORDS if kinds[0] == MASKED_LM else {})
    values, where = read_module_config(files.below(route[1]), SPLADE_SETTINGS)
    chosen = {name: values[name] for name in SPLADE_SETTINGS[:2] if name in values}
    try:
        found.pooling = SpladePooling(**chosen)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _check_transformer(files: CheckpointFiles, implied: Fields) -> None:
    """Refuse settings of the masked LM that give other numbers than the scores of its words."""
    values = check_transformer(files, WORDS, "sparse encoder")
    if "transformer_task" not in {**implied, **values}:
        where = f"{files.name}/{TRANSFORMER_SETTINGS}"
        raise ConfigError(f"{where}: no transformer_task, so there are no scores of words: it must be 'fill-mask'")


def _read_router(found: SparseModules, files: CheckpointFiles, below: CheckpointFiles, folder: str) -> None:
    """Read where queries and documents go."""
    where = f"{below.name}/{ROUTER_SETTINGS}"
    values = below.read_object(ROUTER_SETTINGS) or below.read_object("config.json")
    types, routes, options = (values.get(name) or {} for name in ("types", "structure", "parameters"))
    if not (types and routes and all(isinstance(part, dict) for part in (types, routes, options))):
        raise ConfigError(f"{where}: expected the objects types, structure and parameters")
    if not all(isinstance(route, list) and {*map(type, route)} == {str} for route in routes.values()):
        raise ConfigError(f"{where}: structure must map routes to lists of modules")
    if unknown := options.keys() - {"default_route", "allow_empty_key", "route_mappings"}:
        raise ConfigError(f"{where}: minibert does not know the setting {min(unknown)}")
    base = f"{folder.rstrip('/')}/" if folder not in ("", ".") else ""
    kinds = {base + place: str(kind).rsplit(".", 1)[-1] for place, kind in types.items()}
    known = {name: tuple(base + place for place in route) for name, route in routes.items()}
    if odd := [place for route in known.values() for place in route if place not in kinds]:
        raise ConfigError(f"{where}: structure names {odd[0]!r:.80}, which types lacks")
    usual = options.get("default_route") or (next(iter(known)) if options.get("allow_empty_key", True) else None)
    mappings = _read_mappings(options.get("route_mappings") or {}, where)
    chosen = {task: _route(known, mappings, task, usual, where) for task in (None, *TASKS)}
    static = {task: route for task, route in chosen.items() if route and kinds[route[0]] in STATIC and len(route) == 1}
    others = {route for task, route in chosen.items() if route and task not in static}
    if "document" in static or len(others) != 1 or len({*static.values()}) > 1:
        text = "minibert computes one masked LM for documents, and it or one table of weights for queries"
        raise ConfigError(f"{where}: {', '.join(map(repr, known))} lead elsewhere: {text}")
    _read_route(found, files, kinds, others.pop(), where)
    if static:
        ((found.static_folder,),) = {*static.values()}
        _read_static(found, files.below(found.static_folder), files)
        found.static_for = frozenset(static)


def _read_mappings(mappings: object, where: str) -> dict[object, object]:
    """Return routes by pairs of a task and a modality, which the file has as Python writes them."""
    try:
        # A longer key names no route, and could take all of the parser's stack.
        return {literal_eval(key[:100]): name for key, name in mappings.items()}  # type: ignore[attr-defined]
    except (AttributeError, ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ConfigError(f"{where}: route_mappings is damaged ({error})") from None


def _route(
    known: dict[str, tuple[str, ...]], mappings: Mapping[object, object], task: str | None, usual: object, where: str
) -> tuple[str, ...] | None:
    """Return the folders of the modules for a task, found as sentence-transformers does; None where it would fail."""
    keys = ((task, "text"), (task, None), (None, "text"), (None, None))
    name = next((mappings[key] for key in keys if key in mappings), None)
    name = name or next((name for name in (task, "text") if name in known), None)
    name = name or (usual if task is None else None)
    if name is None and task is None:
        return None
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"{where}: no route for {task or 'texts'}: it has {', '.join(map(repr, known))}")
    return known[name]


def _read_static(found: SparseModules, files: CheckpointFiles, root: CheckpointFiles) -> None:
    """Read the weight of each word, from tensors or from a JSON file of words."""
    values, where = read_module_config(files, ("frozen", "path"), needed=False)
    found.frozen = flag(values, "frozen", False, where)
    source = values.get("path")
    if isinstance(source, str) and source.endswith(".json"):  # sentence-transformers ignores others
        name = Path(source).name  # below the checkpoint, wherever its author had it
        path = files.get(name) or root.require(name)
        found.static = _by_words(read_json(path), files, path)
        return
    tensors = open_weights(files, (SAFETENSORS, PICKLE))
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if shapes.keys() != {"weight"} or len(shapes["weight"]) != 1:
        raise CheckpointError(f"{files.name}: expected one tensor, weight (V,), and the file holds {shapes!r:.200}")
    found.static = read_tensor(tensors["weight"], "weight", torch.float32).clone()


def _by_words(words: Fields, files: CheckpointFiles, path: Path) -> Tensor:
    """Return the weights of a JSON object {word: weight} by id, 0 for other words."""
    backend: Any = open_tokenizer(files)[0]
    unknown = backend.token_to_id(getattr(backend.model, "unk_token", None) or "")
    weight = torch.zeros(backend.get_vocab_size())
    for word, value in words.items():
        if type(value) not in (int, float):
            raise ConfigError(f"{path}: the weight of {word!r:.80} is not a number")
        place = backend.token_to_id(word)
        place = unknown if place is None else place  # sentence-transformers gives [UNK] the last such weight
        if place is not None:
            weight[place] = value
    return weight


def write_sparse_modules(modules: SparseModules, folder: Path) -> None:
    """Write modules.json, its companions, and all modules but the masked LM. Raise OSError where that can't be.

    After a Router the masked LM and the tokenizer of the static weights are in the folders that the modules name.
    """
    pooling = modules.pooling
    entries, below = [(PATH + MASKED_LM, ""), (PATH + SPLADE, f"1_{SPLADE}")], folder / f"1_{SPLADE}"
    if modules.static is not None:
        entries, below = [("sentence_transformers.models.Router", "")], folder / f"document_1_{SPLADE}"
        masked_lm, static = modules.transformer, modules.static_folder
        types = {static: PATH + STATIC[0], masked_lm: PATH + MASKED_LM, below.name: PATH + SPLADE}
        structure = {task: [static] if task in modules.static_for else [masked_lm, below.name] for task in TASKS}
        options = {"default_route": "query" if None in modules.static_for else "document", "allow_empty_key": True}
        write_json({"types": types, "structure": structure, "parameters": options}, folder / ROUTER_SETTINGS)
        write_json({"frozen": modules.frozen}, folder / static / "config.json")
        write_tensors({"weight": modules.static}, folder / static / SAFETENSORS)
    below.mkdir()
    write_json({name: getattr(pooling, name) for name in SPLADE_SETTINGS[:2]}, below / "config.json")
    settings = {
        "model_type": "SparseEncoder",
        "similarity_fn_name": modules.similarity_fn_name,
        "max_active_dims": modules.max_active_dims,
    }
    write_settings(modules, folder, entries, {"max_seq_length": modules.max_seq_length}, settings)
