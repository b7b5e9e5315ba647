"""Build the `tokenizers` library's object from a checkpoint's files, and write it: tokenizer.json or vocab.txt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from ..config import ConfigError, is_integer, read_json
from .added_tokens import CONFIG, NAMED, SPECIAL, add_words, read_settings, read_special
from .atomic import replacing_all, write_text
from .hub import CheckpointFiles, Folder, HubError
from .save import write_json
from .tensors import CheckpointError
from .trial import reason, steps, try_out

# transformers 5 builds these from the vocabulary and from flags, whatever else tokenizer.json says.
FLAGGED = {None, *(f"{kind}Tokenizer{fast}" for kind in ("Bert", "DistilBert", "Electra") for fast in ("", "Fast"))}
# Japanese and some other BERTs split words with other programs first. From vocab.txt they would get other tokens.
BERT_CLASSES = FLAGGED | {"PreTrainedTokenizerFast", "TokenizersBackend"}
# Each flag, the field of BertNormalizer that it sets, and its value where there is none.
FLAGS = (
    ("do_lower_case", "lowercase", True),
    ("strip_accents", "strip_accents", None),
    ("tokenize_chinese_chars", "handle_chinese_chars", True),
)
TYPES = "token_type_ids"


class NoTokenizerError(HubError):
    """The checkpoint has weights, but neither of the files that a tokenizer can be made from."""


def open_tokenizer(
    files: CheckpointFiles, *, lowercase_first: bool = False
) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Build the library's tokenizer; with it return the keywords of ``Tokenizer``, with notes for the load report.

    Words that only the files beside the vocabulary know are added. The flags for case, accents and Chinese count
    against tokenizer.json. Both are as in transformers 5; docs/models.md has the table of what is not.

    Raises:
        NoTokenizerError: there is no vocabulary. ConfigError: a file is damaged or not BERT's; it is named.
    """
    path = files.first(("tokenizer.json", "vocab.txt"))
    if path is None:
        raise NoTokenizerError(f"{files.name} has neither tokenizer.json nor vocab.txt, so no text can be tokenised")
    values, words = read_settings(files)
    found = files.get("config.json") or files.cached("bert_config.json")  # Google's name
    config = {} if found is None else read_json(found)
    kind = _class(values, config, files.name)
    types = config.get("type_vocab_size", 2)
    backend: Any = build(path, config | values, kind) if path.name == "vocab.txt" else _open(path)
    options = _options(values, config, kind, backend, f"{files.name}/{CONFIG}")
    notes = add_words(backend, words, values, f"{files.name}/{CONFIG}", usual=kind in FLAGGED)
    highest, size = try_out(backend, path, types if is_integer(types, 1) else 2), options["vocab_size"]
    if path.name != "vocab.txt":
        notes += _follow_flags(backend, values) if kind in FLAGGED else []
    elif values.get("do_lower_case", config.get("do_lower_case")) is None and not backend.normalizer.lowercase:
        notes.append("without do_lower_case case is kept, as words of vocab.txt have capitals; transformers lowers it")
    backend.encode_special_tokens = values.get("split_special_tokens") is True
    parts = list(steps(backend.normalizer))
    if lowercase_first and not any(isinstance(part, normalizers.Lowercase) for part in parts):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *parts])
    if size is not None and highest >= size:
        notes.append(f"the tokenizer has ids up to {highest}, the model {size} tokens: texts with others are refused")
    if options["padding_side"] == "left":
        notes.append("padding_side left has no effect, because BERT counts positions from the left")
    return backend, {**options, "notes": notes}


def _open(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:
        raise ConfigError(f"{path}: damaged or of an unknown format ({reason(error)})") from error


def _class(values: Mapping[str, Any], config: Mapping[str, Any], where: str) -> str | None:
    """Return the name of transformers' class, and check the flags that this class has."""
    kind = values.get("tokenizer_class") or config.get("tokenizer_class")
    if kind is not None and not isinstance(kind, str):
        raise ConfigError(f"{where}/{CONFIG}: tokenizer_class must be a string, but is {kind!r:.80}")
    for flag, _, _ in FLAGS:
        if not isinstance(value := values.get(flag, config.get(flag)), bool | None):
            raise ConfigError(f"{where}/{CONFIG}: {flag} must be true, false or null, not {value!r:.80}")
    return kind


def _options(
    values: Mapping[str, Any], config: Mapping[str, Any], kind: str | None, backend: tokenizers.Tokenizer, where: str
) -> dict[str, Any]:
    """Return the keywords of ``Tokenizer``: lengths, sides, special tokens, and what tokenizer.json says of them."""
    limits = [values.get("model_max_length"), config.get("max_position_embeddings")]
    # transformers writes 1e30 for "no limit"
    known = [int(n) for n in limits if isinstance(n, (int, float)) and n is not True and 1 <= n < 1e9]
    padding, truncation = backend.padding or {}, backend.truncation or {}
    names = values.get("model_input_names", [TYPES] if not str(kind).startswith("DistilBert") else [])
    return {
        "max_length": min(known, default=None),
        "pad_token": read_special({"pad_token": padding.get("pad_token"), **values}, "pad", where),
        "mask_token": read_special(values, "mask", where),
        "padding_side": values.get("padding_side", padding.get("direction", "right")),
        "truncation_side": values.get("truncation_side", truncation.get("direction", "right")),
        "pair_types": not isinstance(names, list) or TYPES in names,
        "vocab_size": size if is_integer(size := config.get("vocab_size"), 1) else None,
    }


def build(vocab: Path, flags: Mapping[str, Any], kind: str | None) -> tokenizers.Tokenizer:
    """Build BERT's tokenizer from its vocabulary (transformers' BertTokenizer is the reference)."""
    if kind not in BERT_CLASSES:
        raise ConfigError(f"{vocab}: made for {kind:.80}, which minibert has only as a tokenizer.json; save it as one")
    if flags.get("do_basic_tokenize", True) is not True or flags.get("never_split"):
        raise ConfigError(f"{vocab}: do_basic_tokenize: false and never_split are not supported; save a tokenizer.json")
    try:
        pieces = vocab.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{vocab}: not UTF-8 ({error.reason} at byte {error.start})") from None
    ids = {piece.rstrip("\r"): i for i, piece in enumerate(pieces)}
    special = {name: read_special(flags, name, str(vocab)) for name in SPECIAL}
    if absent := [name for name in SPECIAL if name != "mask" and special[name] not in ids]:
        needed = ", ".join(f"{special[name]:.80} ({name}_token)" for name in absent)
        raise ConfigError(f"{vocab}: BERT's vocabulary needs {needed}, which this one lacks")
    if (lower := flags.get("do_lower_case")) is None:  # as in Google's folders: see if the words have capitals
        words = [piece for piece in pieces if not piece.startswith("[")]
        lower = sum(re.search("[A-Z]", word) is not None for word in words) <= 0.01 * len(words)
    return _bert(ids, special, {**flags, "do_lower_case": lower})


def _bert(ids: dict[str, int], special: Mapping[str, str], flags: Mapping[str, Any]) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token=special["unk"]))
    backend.normalizer = _normalizer(flags)
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


def _normalizer(flags: Mapping[str, Any]) -> normalizers.BertNormalizer:
    """Build the normalizer that the flags describe. Without strip_accents, accents go where case goes."""
    fields: dict[str, Any] = {field: usual if flags.get(flag) is None else flags[flag] for flag, field, usual in FLAGS}
    return normalizers.BertNormalizer(clean_text=True, **fields)


def _follow_flags(backend: tokenizers.Tokenizer, flags: Mapping[str, Any]) -> list[str]:
    """Set a BertNormalizer to the flags, as transformers 4 and 5 do, and note what that changes."""
    found, wanted = backend.normalizer, _normalizer(flags)
    notes = []
    if isinstance(found, normalizers.BertNormalizer):
        wanted.clean_text = found.clean_text
        backend.normalizer = wanted
        for flag, field, _ in FLAGS:
            if (before := getattr(found, field)) != (now := getattr(wanted, field)):
                text = f"{flag} {now} of {CONFIG} or its default counts against the {field} {before} of tokenizer.json"
                notes.append(f"{text}, as in transformers")
    if parts := _rebuilt_differently(backend, flags):
        text = "tokenizer.json is followed, as in transformers 4, where transformers 5 goes by flags"
        notes.append(f"{text}: {', '.join(parts)}")
    return notes


def _rebuilt_differently(backend: tokenizers.Tokenizer, flags: Mapping[str, Any]) -> list[str]:
    """Name the parts that transformers 5, which rebuilds a BertTokenizer from its flags, does not build like these."""
    special = {name: read_special(flags, name, CONFIG) for name in SPECIAL}
    ids: Any = {piece: backend.token_to_id(piece) for piece in special.values()}
    if lacking := [f"{name}_token" for name, piece in special.items() if ids[piece] is None]:
        return lacking
    plain = _state(_bert(ids, special, flags))
    return [name for name, state in _state(backend).items() if state != plain[name]]


def _state(backend: tokenizers.Tokenizer) -> dict[str, object]:
    """Return what decides on the ids beside the vocabulary."""
    model: Any = backend.model
    names = ("unk_token", "continuing_subword_prefix", "max_input_chars_per_word")
    probe = tokenizers.Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    if backend.post_processor is not None:
        probe.post_processor = backend.post_processor
    parts = {name: getattr(backend, name) for name in ("normalizer", "pre_tokenizer")}
    return {
        "model": (type(model), [getattr(model, name, None) for name in names]),
        **{name: None if part is None else part.__getstate__() for name, part in parts.items()},
        "post_processor": [(found.ids, found.type_ids) for found in (probe.encode("x"), probe.encode("x", "x"))],
    }


def save_tokenizer(backend: tokenizers.Tokenizer, folder: Path, *, pad: str, mask: str, **settings: Any) -> None:
    """Write tokenizer.json and tokenizer_config.json, with ``settings`` that aren't None as its fields; and vocab.txt.

    transformers and minibert read the same ids from it. Raise CheckpointError, and write nothing, if that can't be.
    """
    try:
        text = backend.to_str(pretty=True)
    except BaseException as error:
        raise CheckpointError(f"the tokenizer can't be written ({reason(error)})") from error
    values = {**_fields(backend, pad, mask, pair_types=settings.pop("pair_types")), **settings}
    with replacing_all(folder) as new:
        write_text(new / "tokenizer.json", text)
        write_json({k: v for k, v in values.items() if v is not None}, new / CONFIG)
        try:
            again = open_tokenizer(Folder(str(folder), new))[0]
        except ConfigError:
            again = None
        if again is None or (again.to_str(pretty=True), again.get_vocab()) != (text, backend.get_vocab()):
            raise CheckpointError("the tokenizer can't be written: other parts or ids would come back from its files")
        pieces = backend.get_vocab(with_added_tokens=False)
        lines = sorted(pieces, key=pieces.__getitem__)
        if isinstance(backend.model, models.WordPiece) and [*map(pieces.get, lines)] == [*range(len(lines))]:
            write_text(new / "vocab.txt", "".join(f"{piece}\n" for piece in lines))


def _fields(backend: tokenizers.Tokenizer, pad: str, mask: str, *, pair_types: bool) -> dict[str, Any]:
    """Return the fields from which transformers builds the same tokenizer.

    Its BertTokenizer takes the vocabulary from tokenizer.json and all else from flags. A tokenizer that flags can't
    describe is read from tokenizer.json unchanged, but for the words that are declared here.
    """
    added = backend.get_added_tokens_decoder()
    around, known, model = backend.encode("").tokens, {token.content for token in added.values()}, backend.model
    pieces = {"unk": getattr(model, "unk_token", None), "pad": pad, "mask": mask}
    if len(around) == 2:
        pieces |= {"cls": around[0], "sep": around[1]}
    values: dict[str, Any] = {f"{name}_token": piece for name, piece in pieces.items() if piece in known}
    found: Any = backend.normalizer
    if isinstance(found, normalizers.BertNormalizer):
        values |= {flag: getattr(found, field) for flag, field, _ in FLAGS}
    usual = len(values.keys() & NAMED) == len(SPECIAL) and not _rebuilt_differently(backend, values)
    types = [TYPES] if pair_types else []
    return values | {
        "added_tokens_decoder": {str(number): token.__getstate__() for number, token in sorted(added.items())},
        "split_special_tokens": backend.encode_special_tokens or None,
        "tokenizer_class": "BertTokenizer" if usual else "PreTrainedTokenizerFast",
        "model_input_names": None if usual and types else ["input_ids", *types, "attention_mask"],
    }
