"""The settings of late interaction, and how PyLate and Stanford's ColBERT write them: as sentence-transformers 6 reads.

PyLate keeps them in config_sentence_transformers.json, Stanford in artifact.metadata.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn

from ..config import ConfigError, is_integer
from ..pooling import Dense, Normalize
from ..token_pooling import HierarchicalTokenPooling
from .hub import CheckpointFiles
from .load import read_tensor
from .names import by_canonical_name
from .sentence_transformers import SETTINGS, Fields, SentenceModules, flag, whole_number
from .tensors import CheckpointError
from .weights import open_weights

METADATA = "artifact.metadata"
# PyLate's lengths of queries and documents, and Stanford's, where a folder leaves them out.
PYLATE_LENGTHS, STANFORD_LENGTHS = (32, 180), (32, 220)


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


def read_pylate(files: CheckpointFiles, found: LateModules) -> None:
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
    words = read_words(values, where)
    found.skiplist_words = list(string.punctuation) if words is None else words
    found.after.append(Normalize())


def read_stanford(files: CheckpointFiles) -> LateModules:
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


def read_words(values: Fields, where: str) -> list[str] | None:
    """Return skiplist_words; None where they are not set."""
    words = values.get("skiplist_words")
    if words is not None and not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise ConfigError(f"{where}: skiplist_words must be a list of texts, not {words!r:.80}")
    return words
