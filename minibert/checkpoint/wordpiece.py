"""Build the `tokenizers` library's object from a checkpoint's files, and write it: tokenizer.json or vocab.txt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from ..config import ConfigError, read_json
from .atomic import replacing, write_text
from .hub import CheckpointFiles, HubError
from .save import write_json

# Japanese and some other BERTs split words with other programs first. From vocab.txt they would get other tokens.
BERT_CLASSES = {None, "BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"}
SPECIAL = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}


class NoTokenizerError(HubError):
    """The checkpoint has weights, but neither of the files that a tokenizer can be made from."""


def read_options(files: CheckpointFiles) -> dict[str, Any]:
    """Read the keywords of ``Tokenizer`` from tokenizer_config.json and config.json: lengths, sides, special tokens."""
    values = files.read_object("tokenizer_config.json")
    path = files.get("config.json") or files.cached("bert_config.json")  # Google's name
    config = {} if path is None else read_json(path)
    limits = [values.get("model_max_length"), config.get("max_position_embeddings")]
    # transformers writes 1e30 for "no limit"
    known = [int(limit) for limit in limits if isinstance(limit, (int, float)) and 0 < limit < 1e9]
    return {
        "max_length": min(known, default=None),
        "pad_token": _special(values, "pad", files.name),
        "mask_token": _special(values, "mask", files.name),
        "padding_side": values.get("padding_side", "right"),
        "truncation_side": values.get("truncation_side", "right"),
    }


def open_backend(files: CheckpointFiles, *, lowercase_first: bool = False) -> tokenizers.Tokenizer:
    """Build the library's tokenizer. Raise NoTokenizerError, or ConfigError if a file is damaged or not BERT's."""
    path = files.first(("tokenizer.json", "vocab.txt"))
    if path is None:
        raise NoTokenizerError(f"{files.name} has neither tokenizer.json nor vocab.txt, so no text can be tokenised")
    if path.name == "tokenizer.json":
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ConfigError(f"{path}: damaged or of an unknown format ({error})") from error
    else:
        backend = build(path, files.read_object("config.json") | files.read_object("tokenizer_config.json"))
        _add_tokens(backend, files)
    found = backend.normalizer
    parts: Any = found if isinstance(found, normalizers.Sequence) else [found] if found is not None else []
    if lowercase_first and not any(isinstance(part, normalizers.Lowercase) for part in parts):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *parts])
    return backend


def build(vocab: Path, flags: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Build BERT's tokenizer from its vocabulary (transformers' BertTokenizer is the reference)."""
    if (kind := flags.get("tokenizer_class")) not in BERT_CLASSES:
        raise ConfigError(f"{vocab}: made for {kind}, which minibert has only as a tokenizer.json; save it as one")
    if flags.get("do_basic_tokenize", True) is not True or flags.get("never_split"):
        raise ConfigError(f"{vocab}: do_basic_tokenize: false and never_split are not supported; save a tokenizer.json")
    for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        if not isinstance(flags.get(name), bool | None):
            raise ConfigError(f"{vocab}: {name} must be true, false or null, not {flags[name]!r}")
    try:
        pieces = vocab.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{vocab}: not UTF-8 ({error.reason} at byte {error.start})") from None
    ids = {piece.rstrip("\r"): i for i, piece in enumerate(pieces)}
    special = {name: _special(flags, name, str(vocab)) for name in SPECIAL}
    if absent := [special[name] for name in ("unk", "sep", "pad", "cls") if special[name] not in ids]:
        raise ConfigError(f"{vocab}: BERT's vocabulary needs {', '.join(absent)}, which this one lacks")
    if (lower := flags.get("do_lower_case")) is None:  # as in Google's folders: see if the words have capitals
        words = [piece for piece in pieces if not piece.startswith("[")]
        lower = sum(re.search("[A-Z]", word) is not None for word in words) <= 0.01 * len(words)
    backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token=special["unk"]))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=flags.get("tokenize_chinese_chars") is not False,
        strip_accents=flags.get("strip_accents"),  # None: the same as lowercase
        lowercase=lower,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    cls, sep = special["cls"], special["sep"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
    )
    backend.add_special_tokens([piece for piece in special.values() if piece in ids])
    return backend


def _add_tokens(backend: tokenizers.Tokenizer, files: CheckpointFiles) -> None:
    """Add the words with ids beyond vocab.txt, from added_tokens.json or (later versions) tokenizer_config.json."""
    try:
        added = {int(i): {"content": piece} for piece, i in files.read_object("added_tokens.json").items()}
        flagged = files.read_object("tokenizer_config.json").get("added_tokens_decoder") or {}
        added |= {int(i): {k: v for k, v in flags.items() if k != "__type"} for i, flags in flagged.items()}
        for i, flags in sorted(added.items()):
            backend.add_tokens([tokenizers.AddedToken(**flags)])
            if backend.token_to_id(flags["content"]) != i:
                raise ValueError(f"the token {flags['content']!r} can't have the id {i}")
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise ConfigError(f"{files.name}: added_tokens.json or added_tokens_decoder is damaged ({error})") from None


def save_tokenizer(backend: tokenizers.Tokenizer, folder: Path, *, pad: str, mask: str, **settings: Any) -> None:
    """Write tokenizer.json, vocab.txt and tokenizer_config.json, with ``settings`` that aren't None as its fields."""
    with replacing(folder / "tokenizer.json") as temporary:
        backend.save(str(temporary))
    vocabulary = backend.get_vocab(with_added_tokens=False)
    lines = [f"{piece}\n" for piece in sorted(vocabulary, key=vocabulary.__getitem__)]
    write_text(folder / "vocab.txt", "".join(lines))
    values = {**_flags(backend, pad, mask), **settings}
    write_json({k: v for k, v in values.items() if v is not None}, folder / "tokenizer_config.json")


def _flags(backend: tokenizers.Tokenizer, pad_token: str, mask_token: str) -> dict[str, Any]:
    """Return the fields from which transformers rebuilds the tokenizer.

    Its BertTokenizer takes the vocabulary from tokenizer.json and all else from flags. A tokenizer that flags can't
    describe is read from tokenizer.json unchanged.
    """
    around = backend.encode("").tokens
    pieces = {"unk": backend.model.unk_token, "pad": pad_token}
    if len(around) == 2:
        pieces |= {"cls": around[0], "sep": around[1]}
    special = [token.content for token in backend.get_added_tokens_decoder().values() if token.special]
    others = [piece for piece in special if piece not in pieces.values()]
    if mask_token in others or len(others) == 1:
        pieces["mask"] = mask_token if mask_token in others else others[0]
    values: dict[str, Any] = {f"{name}_token": piece for name, piece in pieces.items()}
    found, usual = backend.normalizer, isinstance(backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
    if usual and isinstance(found, normalizers.BertNormalizer) and found.clean_text:
        return values | {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": found.lowercase,
            "strip_accents": found.strip_accents,
            "tokenize_chinese_chars": found.handle_chinese_chars,
        }
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return values | {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names}


def _special(values: Mapping[str, Any], name: str, where: str) -> str:
    """Read a special token: a string, or in later versions an object with `content`."""
    token = values.get(f"{name}_token") or SPECIAL[name]
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str):
        raise ConfigError(f"{where}: {name}_token must be a string, but is {token!r}")
    return content
