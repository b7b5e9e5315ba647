"""A whole sentence encoder in a folder: a tiny BERT, its vocabulary, modules.json. Nothing here needs transformers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any

from helpers import TINY, widen

from minibert import Bert, BertForSequenceClassification, ClassifierConfig

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = (
    "the",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "hello",
    "world",
    "query",
    "passage",
    "man",
    "eats",
    "food",
    "who",
    "is",
)
# Every lower-case word can be spelt: the length of a text in tokens is at most that in letters, and easy to tell.
VOCABULARY = [
    *SPECIAL,
    *ascii_lowercase,
    *(f"##{letter}" for letter in ascii_lowercase),
    *digits,
    *(f"##{digit}" for digit in digits),
    *".,:!?",
    *WORDS,
    "Cat",
    "Dog",
]
assert len(VOCABULARY) == len(set(VOCABULARY)) == TINY.vocab_size

TEXTS = [
    "the cat sat on the mat.",
    "hello",
    "a man eats food, the dog eats the cat!",
    "who is on the mat?",
    "",
    "the world",
]

MODULE = "sentence_transformers.models."
MEAN = {"word_embedding_dimension": TINY.hidden_size, "pooling_mode_mean_tokens": True}


def write_json(folder: Path, file: str, values: object) -> None:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def write_vocabulary(folder: Path, pieces: list[str] = VOCABULARY, config: dict[str, Any] | None = None) -> Path:
    """vocab.txt, and tokenizer_config.json unless it is to be missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    if config is not None:
        write_json(folder, "tokenizer_config.json", config)
    return folder


def write_encoder(folder: Path, *modules: tuple[str, dict[str, Any]], **files: object) -> Path:
    """A checkpoint with these modules after the transformer: ("Pooling", config), ("Normalize", {}), ...

    Without any there is no modules.json. ``files`` are small JSON files by their names without ending.
    """
    widen(Bert(TINY)).save_pretrained(folder)
    write_vocabulary(folder, config={"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    entries = [{"idx": 0, "name": "0", "path": "", "type": f"{MODULE}Transformer"}]
    for i, (kind, values) in enumerate(modules, 1):
        entries.append({"idx": i, "name": str(i), "path": f"{i}_{kind}", "type": MODULE + kind})
        if values:
            write_json(folder, f"{i}_{kind}/config.json", values)
    if modules:
        write_json(folder, "modules.json", entries)
    for name, values in files.items():
        write_json(folder, f"{name}.json", values)
    return folder


def write_cross_encoder(folder: Path, num_labels: int = 1, **settings: object) -> Path:
    """A checkpoint with a classifier, as a cross-encoder is; ``settings`` go into its config.json."""
    config = ClassifierConfig(**asdict(TINY), num_labels=num_labels)
    widen(BertForSequenceClassification(config)).save_pretrained(folder, **settings)
    return write_vocabulary(folder, config={"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
