"""Find what the files of a checkpoint say against each other, where it loads all the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..config import BertConfig, is_integer, read_json
from .added_tokens import CONFIG, SPECIAL, read_settings, read_special
from .hub import CheckpointFiles
from .sentence_transformers import read_entries
from .transformer import TRANSFORMER_SETTINGS

JSON, VOCAB = "tokenizer.json", "vocab.txt"
OK, WARNING, FAILED = "ok", "warning", "FAILED"
UNUSED = 128  # rows of the embedding table without a word: so many are padding to a round number


class Check(NamedTuple):
    """One thing that was looked at: ``status`` is "ok", "warning" or "FAILED"."""

    name: str
    status: str
    seen: str
    advice: str = ""


def compare_files(
    files: CheckpointFiles, transformer: str, tokenizer: Any, config: BertConfig, *, pairs: bool
) -> list[Check]:
    """Compare the files with each other. At least one check for each subject, and one more for each contradiction.

    Args:
        files: Of the checkpoint, which was loaded without an error.
        transformer: The folder of config.json in it.
        tokenizer, config: What was made of them, a `Tokenizer` and a BertConfig.
        pairs: The model reads pairs of texts.
    """
    inner = files.below(transformer)
    values, backend = read_settings(inner)[0], tokenizer._backend
    path = inner.cached(JSON)
    whole = {} if path is None else read_json(path)
    subjects = {
        "letters": _letters(inner, values, backend),
        "longest text": _lengths(inner, values, config),
        "special tokens": _special(inner, values, backend, tokenizer, whole, pairs and config.type_vocab_size > 1),
        "vocabulary": _vocabulary(inner, backend, tokenizer, config, path is not None),
        "pooling": _pooling(files, config),
    }
    found = []
    for name, rows in subjects.items():
        first, *wrong = rows
        if first and not wrong:
            found.append(Check(name, OK, first))
        found += [Check(name, *row) for row in wrong]
    return found + [Check("tokenizer", WARNING, note, "let the files agree") for note in tokenizer.notes]


Rows = Iterator[Any]  # first what is there, in words, and then (status, seen, advice) for each contradiction


def _letters(files: CheckpointFiles, values: dict[str, Any], backend: Any) -> Rows:
    normalize = (lambda text: text) if backend.normalizer is None else backend.normalizer.normalize_str
    lowers, strips = normalize("A") == "a", normalize("é") == "e"
    yield f"{'lower case' if lowers else 'case is kept'}, accents are {'removed' if strips else 'kept'}"
    words = [word for word in backend.get_vocab(with_added_tokens=False) if re.match("(##)?[a-zA-Z]", word)]
    capitals = sum(re.search("[A-Z]", word) is not None for word in words)
    counted = f"{capitals:,} of {len(words):,} words of the vocabulary have capitals"
    if lowers and capitals > 0.05 * len(words):
        where = TRANSFORMER_SETTINGS if files.read_object(TRANSFORMER_SETTINGS).get("do_lower_case") else CONFIG
        yield WARNING, f"text is lower-cased, but {counted}", f"do_lower_case false in {where}, for a cased model"
    if not lowers and len(words) > 50 and capitals <= 0.01 * len(words):
        yield WARNING, f"case is kept, but {counted}: capitals are unknown", f"do_lower_case true in {CONFIG}"
    for name, done in (("do_lower_case", lowers), ("strip_accents", strips)):
        if isinstance(said := values.get(name), bool) and said != done:
            yield WARNING, f"{name} is {said} in {CONFIG}, but {JSON} does otherwise, and counts", "let them agree"


def _lengths(files: CheckpointFiles, values: dict[str, Any], config: BertConfig) -> Rows:
    positions = config.max_position_embeddings
    below = files.read_object(TRANSFORMER_SETTINGS)
    names = ("max_seq_length", "query_length", "document_length")
    said: dict[str, Any] = {
        f"{name} of {TRANSFORMER_SETTINGS}": n for name in names if is_integer(n := below.get(name), 1)
    }
    own = values.get("model_max_length")
    own = own if isinstance(own, (int, float)) and 1 <= own < 1e9 else None  # transformers writes 1e30 for "no limit"
    said |= {f"model_max_length of {CONFIG}": int(own)} if own else {}
    stated = ", ".join(f"{name}: {value}" for name, value in said.items())
    yield f"{positions} positions" + (f"; {stated}" if stated else "")
    for name, value in said.items():
        if value > positions:
            yield WARNING, f"{name} is {value}, but the model has {positions} positions", f"at most {positions} there"
    if positions >= said.get(f"max_seq_length of {TRANSFORMER_SETTINGS}", 0) > (own or positions):
        yield WARNING, f"{stated}: the first counts, other programs take the second", "the same number in both"


def _special(
    files: CheckpointFiles, values: dict[str, Any], backend: Any, tokenizer: Any, whole: dict[str, Any], pairs: bool
) -> Rows:
    around, pair = backend.encode(""), backend.encode("a", "a")
    cls, sep = (read_special(values, name, CONFIG) for name in ("cls", "sep"))
    yield f"{' '.join(around.tokens) or 'none'} around a text; padding {tokenizer.pad_token}, id {tokenizer.pad_id}"
    for token, number in dict(zip(pair.tokens, pair.ids, strict=True)).items():
        if (own := backend.token_to_id(token)) != number:
            text = f"{token} is put around a text as id {number}, but the vocabulary has it as {own}"
            yield FAILED, text, f"the ids of the post_processor of {JSON}"
    if around.tokens != [cls, sep]:
        text = f"a text is between {' and '.join(around.tokens) or 'no tokens'}, not {cls} and {sep}"
        yield WARNING, text, f"the post_processor of {JSON}, unless it was trained so"
    if pairs and not any(pair.type_ids):
        yield WARNING, "both texts of a pair have token type 0", f"the post_processor of {JSON}: 1 for the second text"
    config, padding = files.read_object("config.json"), whole.get("padding") or {}
    for name in SPECIAL:
        token = tokenizer.pad_token if name == "pad" else read_special(values, name, CONFIG)
        for where, said in (("config.json", config.get(f"{name}_token_id")), (JSON, padding.get(f"{name}_id"))):
            if said is not None and said != (number := backend.token_to_id(token)):
                text = f"{where} has {name} id {said}, and {token} is {number} in the vocabulary"
                yield WARNING, text, "the files of one model; the vocabulary counts here"


def _vocabulary(files: CheckpointFiles, backend: Any, tokenizer: Any, config: BertConfig, from_json: bool) -> Rows:
    rows, highest = config.vocab_size, tokenizer.highest_id
    yield f"{len(tokenizer):,} words, {rows:,} rows in the embedding table"
    if (unused := rows - highest - 1) >= UNUSED:
        text = f"the embedding table has {unused:,} rows more than the vocabulary has words ({highest + 1:,})"
        yield WARNING, text, "the tokenizer of this very model; if it is, there is no harm"
    path = files.cached(VOCAB)
    if path is not None and from_json:
        lines = path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
        odd = [(i, word) for i, line in enumerate(lines) if backend.token_to_id(word := line.rstrip("\r")) != i]
        if odd:
            i, word = odd[0]
            text = f"{len(odd):,} words have another id in {VOCAB} than in {JSON}, which counts: {word!r:.40}"
            yield WARNING, f"{text} is {i} and {backend.token_to_id(word)}", f"remove {VOCAB}, or make it again"


def _pooling(files: CheckpointFiles, config: BertConfig) -> Rows:
    path = files.cached("modules.json")
    yield ""
    for entry in [] if path is None else read_entries(path, ("",)):
        if entry["type"].rsplit(".", 1)[-1] == "Pooling":
            below = files.below(entry["path"])
            values = below.read_object("config.json")
            for name in ("word_embedding_dimension", "embedding_dimension"):
                if values.get(name) not in (None, config.hidden_size):
                    text = f"{name} of {entry['path']} is {values[name]!r:.40}, and the model is {config.hidden_size}"
                    yield WARNING, f"{text} wide", "the pooling's folder of this very model"
