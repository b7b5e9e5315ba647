"""A checkpoint's files -> the `tokenizers` library's object: tokenizer.json as it is, or built from vocab.txt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from .config import ConfigError
from .hub import Files, HubError

# Japanese and other BERTs cut words by other programs first; building them from vocab.txt would give other tokens.
BERT_CLASSES = {None, "BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"}
SPECIAL = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}


@dataclass(frozen=True)
class Options:
    """What tokenizer_config.json and config.json say beyond the vocabulary."""

    max_length: int | None
    pad_token: str
    padding_side: str
    truncation_side: str


def read_options(files: Files) -> Options:
    """Lengths and sides. Raises ConfigError if a file is damaged."""
    values = files.read_object("tokenizer_config.json")
    limits = [values.get("model_max_length"), files.read_object("config.json").get("max_position_embeddings")]
    # transformers writes 1e30 for "no limit"
    known = [int(limit) for limit in limits if isinstance(limit, (int, float)) and 0 < limit < 1e9]
    return Options(
        max_length=min(known, default=None),
        pad_token=_special(values, "pad"),
        padding_side=values.get("padding_side", "right"),
        truncation_side=values.get("truncation_side", "right"),
    )


def open_backend(files: Files, *, lowercase_first: bool = False) -> tokenizers.Tokenizer:
    """The library's tokenizer.

    Raises:
        HubError: the checkpoint has neither tokenizer.json nor vocab.txt.
        ConfigError: a file is damaged, or asks for a tokenizer other than BERT's.
    """
    path = files.first(("tokenizer.json", "vocab.txt"))
    if path is None:
        raise HubError(f"{files.name} has neither tokenizer.json nor vocab.txt, so its text can't be tokenised")
    if path.name == "tokenizer.json":
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ConfigError(f"{path}: damaged or of an unknown format ({error})") from error
    else:
        backend = build(path, files.read_object("config.json") | files.read_object("tokenizer_config.json"))
        _add_tokens(backend, files)
    if lowercase_first and "Lowercase" not in _normalizer_types(backend):
        before = [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer is not None else [])]
        backend.normalizer = normalizers.Sequence(before)
    return backend


def build(vocab: Path, flags: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """BERT's tokenizer from its vocabulary (transformers' BertTokenizer is the reference).

    ``do_lower_case`` comes from the flags. Google's folders have no such flag: there the vocabulary tells, for one
    that was made of lower-cased text has next to no capitals.
    """
    kind = flags.get("tokenizer_class")
    if kind not in BERT_CLASSES:
        raise ConfigError(f"{vocab}: made for {kind}, which minibert has only as a tokenizer.json; save it as one")
    if flags.get("do_basic_tokenize", True) is not True or flags.get("never_split"):
        raise ConfigError(f"{vocab}: do_basic_tokenize: false and never_split are not supported; save a tokenizer.json")
    try:
        pieces = vocab.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{vocab}: not UTF-8 ({error.reason} at byte {error.start})") from None
    if pieces and not pieces[-1]:
        pieces.pop()
    ids = {piece.rstrip("\r"): i for i, piece in enumerate(pieces)}
    special = {name: _special(flags, name) for name in SPECIAL}
    if absent := [special[name] for name in ("unk", "sep", "pad", "cls") if special[name] not in ids]:
        raise ConfigError(f"{vocab}: no vocabulary of BERT: {', '.join(absent)} not in it")
    lower = flags.get("do_lower_case")
    backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token=special["unk"]))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=flags.get("tokenize_chinese_chars", True),
        strip_accents=flags.get("strip_accents"),  # None: as lower-casing
        lowercase=not _has_capitals(pieces) if lower is None else bool(lower),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.post_processor = processors.TemplateProcessing(
        single=f"{special['cls']}:0 $A:0 {special['sep']}:0",
        pair=f"{special['cls']}:0 $A:0 {special['sep']}:0 $B:1 {special['sep']}:1",
        special_tokens=[(special[name], ids[special[name]]) for name in ("cls", "sep")],
    )
    backend.add_special_tokens([piece for piece in special.values() if piece in ids])
    return backend


def _has_capitals(pieces: list[str]) -> bool:
    words = [piece for piece in pieces if not piece.startswith("[")]
    return sum(re.search("[A-Z]", piece) is not None for piece in words) > 0.01 * len(words)


def _add_tokens(backend: tokenizers.Tokenizer, files: Files) -> None:
    """added_tokens.json: words that were given ids beyond vocab.txt."""
    added = files.read_object("added_tokens.json")
    for piece, i in sorted(added.items(), key=lambda item: str(item[1])):
        backend.add_tokens([piece])
        if backend.token_to_id(piece) != i:
            raise ConfigError(f"{files.name}/added_tokens.json: {piece!r} can't have the id {i!r}")


def _normalizer_types(backend: tokenizers.Tokenizer) -> set[str]:
    found = backend.normalizer
    parts: Any = found if isinstance(found, normalizers.Sequence) else [found]
    return {type(part).__name__ for part in parts}


def _special(values: Mapping[str, Any], name: str) -> str:
    """A special token, written as a string or, by later versions, as an object with `content`."""
    token = values.get(f"{name}_token") or SPECIAL[name]
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str):
        raise ConfigError(f"{name}_token must be a string, but is {token!r}")
    return content
