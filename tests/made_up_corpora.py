"""A folder of data in the form that tools/make_builtin and tools/quality read, of made-up sentences of a few words."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest
from tiny_folder import WORDS

SERVICES = {"tables": "tables?", "flights": "flights?"}


def write_corpora(data: Path, count: int = 240) -> Path:
    """Fill corpora, sts and nli, always the same; return the folder of corpora. No sentence comes twice."""
    draw = random.Random(0)

    def words(least: int = 4, most: int = 9) -> str:
        return " ".join([*draw.choices(WORDS, k=draw.randint(least, most)), str(draw.randrange(10**9))])

    def sentence() -> str:
        return f"{words(8, 14).capitalize()}."

    def turns() -> list[str]:
        service = draw.choice(["table", "flight"])
        return [f"I need a {service} {words()}", f"which {service} {words()}?"]

    def topics() -> list[str]:
        return [words() for _ in range(count)]  # what a query and its passage share

    def more(own: random.Random) -> str:
        return " ".join(f"{' '.join(own.choices(WORDS, k=9)).capitalize()} {own.randrange(10**9)}." for _ in range(8))

    papers = [(topic, f"{topic}. {sentence()}") for topic in topics()]
    papers = [(topic, f"{text} {more(random.Random(text))}") for topic, text in papers]
    lines = {
        "grade_school_math/questions.en.txt.gz": [f"{sentence()} {topic}. Who is {topic}?" for topic in topics()],
        "image_captions/coco_testall.captions5.tsv.gz": [
            "\t".join(f"{topic} {words()}" for _ in range(5)) for topic in topics()
        ],
        "scitldr/tldr_abstract.tsv.gz": [f"{topic} {words()}\t{text}" for topic, text in papers for _ in range(2)],
        "tldr_pages/sentences.en.txt.gz": [
            line for topic in topics() for line in (words(), f"{topic} {words()}", words(), f"{topic}.")
        ],
        "wordnet/definitions_examples.en.tsv.gz": [f"cat, dog\t{topic}\t{topic} {words()}" for topic in topics()],
        "schema_guided_dialogue/utterances.en.txt.gz": [line for _ in range(10 * count) for line in turns()],
        "common_voice/sentences.en.txt.gz": [sentence() for _ in range(count)],
    }
    for name in ("openstax_ccby/sentences", "specs/peps.sentences", "specs/eips.sentences"):
        lines[f"{name}.en.txt.gz"] = [sentence() for _ in range(10 * count)]
    for name in ("specs/rust_rfcs.sentences", "nltk/state_union_inaugural", "wikitext2/valid_test.sentences"):
        lines[f"{name}.en.txt.gz"] = [sentence() for _ in range(count)]
    for file, content in lines.items():
        write_lines(data / "corpora" / file, content)
    labels = ("entailment", "neutral", "contradiction")
    snli = [f"{label}\t{premise}\t{words()}" for premise in [sentence() for _ in range(20)] for label in labels]
    write_lines(data / "nli" / "snli_dev.tsv.gz", snli)
    (data / "sts").mkdir()
    rows = [f"genre\tfile\tyear\t{i}\t{i % 6}\t{sentence()}\t{sentence()}\n" for i in range(20)]
    (data / "sts" / "sts-dev.csv").write_text("".join(rows), encoding="utf-8")
    return data / "corpora"


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))


def shrink_suite(monkeypatch: pytest.MonkeyPatch, queries: int) -> None:
    """Let tools/quality have fewer classes and cases, as made-up data have them."""
    from tools.quality import command, measure, sets

    monkeypatch.setattr(sets, "RETRIEVAL", dict.fromkeys(sets.RETRIEVAL, queries))
    for name, value in {"SERVICES": SERVICES, "UTTERANCES": (8, 6), "SENTENCES": (9, 4), "SECTIONS": 3}.items():
        monkeypatch.setattr(sets, name, value)
    for name, value in {"SHORT": 8, "LONG": 2, "TOKENS": 30}.items():
        monkeypatch.setattr(command, name, value)
    monkeypatch.setattr(measure, "DRAWS", 20)
