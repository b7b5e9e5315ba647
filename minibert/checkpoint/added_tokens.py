"""Read the words that only the files beside the vocabulary know, and add them, as transformers 5 does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tokenizers

from ..config import ConfigError, is_integer
from .hub import CheckpointFiles

CONFIG = "tokenizer_config.json"
SPECIAL = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
NAMED = [f"{name}_token" for name in ("bos", "eos", *SPECIAL)]
FIELDS = ("content", "lstrip", "rstrip", "normalized", "single_word", "special")
HIGHEST = 2**31 - 1  # of ids: they are int32

Words = list[tuple[tokenizers.AddedToken, int | None]]  # each with the id that a file states


def read_settings(files: CheckpointFiles) -> tuple[dict[str, Any], Words]:
    """Return the fields of tokenizer_config.json, and the words that the files beside the vocabulary add.

    As in transformers, special_tokens_map.json and added_tokens.json count only where tokenizer_config.json has no
    added_tokens_decoder. Raise ConfigError, with file and field, if one is damaged.
    """
    values, where, older = files.read_object(CONFIG), f"{files.name}/{CONFIG}", "special_tokens_map.json"
    decoder = values.get("added_tokens_decoder")
    if not isinstance(decoder, dict | None):
        raise ConfigError(f"{where}: added_tokens_decoder must be an object, but is {decoder!r:.80}")
    special, elsewhere = files.read_object(older) if decoder is None else {}, f"{files.name}/{older}"
    new, old = "extra_special_tokens", "additional_special_tokens"
    extra = (_listed(values, new, where) or _listed(values, old, where)) + _listed(special, new, elsewhere)
    extra = _listed(values, "model_specific_special_tokens", where) + (extra or _listed(special, old, elsewhere))
    values |= special
    others = [name for name in values if name.endswith("_token") and name not in NAMED and _is_token(values[name])]
    names = [name for name in [*NAMED, *others] if values.get(name)]
    declared = [_token(values[name], f"{elsewhere if name in special else where}: {name}") for name in names] + extra
    words: Words = []
    for number, flags in (decoder or {}).items():
        place = f"{where}: added_tokens_decoder {number!r:.40}"
        words.append((_token(flags if isinstance(flags, dict) else None, place, special=False), _id(number, place)))
    known = {token.content for token in declared}
    for piece, number in ({} if decoder is not None else files.read_object("added_tokens.json")).items():
        place = f"{files.name}/added_tokens.json: {piece!r:.80}"
        words.append((_token(piece, place, special=piece in known), _id(number, place)))
    words.sort(key=lambda word: word[1] or 0)
    return values, [*words, *((token, None) for token in declared)]


def add_words(
    backend: tokenizers.Tokenizer, words: Words, values: Mapping[str, Any], where: str, *, usual: bool
) -> list[str]:
    """Add words that the vocabulary lacks, or that it splits. Note each that has another id than the one stated.

    ``usual`` adds BERT's special tokens of the vocabulary as well. Raise ConfigError if a new word can't have its id.
    """
    unnamed = [piece for name, piece in SPECIAL.items() if usual and not values.get(f"{name}_token")]
    more = [(_token(piece, where), None) for piece in unnamed if backend.token_to_id(piece) is not None]
    pad = read_special(values, "pad", where)
    present = {token.content: repr(token) for token in backend.get_added_tokens_decoder().values()}
    absent = {token.content for token, _ in words if backend.token_to_id(token.content) is None}
    new, notes = [], []
    told = {token.content for token, _ in [*words, *more]}
    if usual and values.get("added_tokens_decoder") is not None and (untold := sorted(present.keys() - told)):
        word = f"only tokenizer.json has the added word {untold[0]!r:.80}"
        notes.append(f"{word}: it is kept, and transformers 5 splits it")
    for token, number in [*words, *more]:
        piece = token.content
        if piece == pad and piece in absent and number is None:  # no model has a row for it
            continue
        stated = number is not None and values.get("added_tokens_decoder") is not None
        if piece not in present or (stated and present[piece] != repr(token)):
            new.append(token)
            present[piece] = repr(token)
    backend.add_tokens(new)
    for token, number in words:
        place = backend.token_to_id(token.content)
        if number is not None and place != number:
            text = f"the token {token.content!r:.80} has the id {place}, not {number} as the files say"
            if token.content in absent:
                raise ConfigError(f"{where}: {text}: {number} is not the next free one")
            notes.append(text)
    return notes


def read_special(values: Mapping[str, Any], name: str, where: str) -> str:
    """Read a special token: a string, or in later versions an object with `content`."""
    return _token(values.get(f"{name}_token") or SPECIAL[name], f"{where}: {name}_token").content


def _is_token(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and "__type" in value)


def _listed(values: Mapping[str, Any], name: str, where: str) -> list[tokenizers.AddedToken]:
    found = values.get(name) or []
    if not isinstance(found, (list, dict)):
        raise ConfigError(f"{where}: {name} must be a list or an object, but is {found!r:.80}")
    return [_token(value, f"{where}: {name}") for value in (found.values() if isinstance(found, dict) else found)]


def _token(value: object, where: str, *, special: bool = True) -> tokenizers.AddedToken:
    flags = {"content": value} if isinstance(value, str) else value
    if not isinstance(flags, dict) or not isinstance(flags.get("content"), str):
        raise ConfigError(f"{where} must be a string, or an object with `content`, but is {value!r:.80}")
    fields = {"special": special, **{name: flags[name] for name in FIELDS if name in flags}}
    try:
        return tokenizers.AddedToken(**fields)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} is damaged ({error!s:.200})") from None


def _id(number: object, where: str) -> int:
    value = int(number) if isinstance(number, str) and number.isdecimal() and len(number) < 11 else number
    if not isinstance(value, int) or not is_integer(value, 0, HIGHEST):
        raise ConfigError(f"{where} must have a whole number below 2^31 as its id, not {number!r:.40}")
    return value
