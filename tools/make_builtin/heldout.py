"""Cut the corpora into units, and tell which are held out: tools/quality scores these, and training never sees them.

A unit is a line of text or of fields, the page of a command, or a section of prose or of dialogues. A hash of its last
text decides, so the parts don't depend on the order of units or on a seed. Every fifth unit is held out.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

SHARE = 5  # one unit of so many is held out
SECTION = 32  # the mean number of lines of a section

LINES, FIELDS, PAGES, SECTIONS = "lines", "fields", "pages", "sections"
DIALOGUES = "schema_guided_dialogue/utterances.en.txt.gz"
EIPS, PEPS, RFCS = (f"specs/{name}.sentences.en.txt.gz" for name in ("eips", "peps", "rust_rfcs"))
IMAGES = "image_captions/coco_testall.captions5.tsv.gz"
PAPERS = "scitldr/tldr_abstract.tsv.gz"
PROBLEMS = "grade_school_math/questions.en.txt.gz"
SPEECHES = "nltk/state_union_inaugural.en.txt.gz"
TEXTBOOKS = "openstax_ccby/sentences.en.txt.gz"
COMMANDS = "tldr_pages/sentences.en.txt.gz"
WIKIPEDIA = "wikitext2/valid_test.sentences.en.txt.gz"
WORDS = "wordnet/definitions_examples.en.tsv.gz"

# What a unit of each corpus is; and the corpora that tools/quality tests with. Nothing of the others is held out.
UNITS = {IMAGES: FIELDS, PAPERS: FIELDS, WORDS: FIELDS, PROBLEMS: LINES, COMMANDS: PAGES}
UNITS |= dict.fromkeys((TEXTBOOKS, PEPS, EIPS, RFCS, SPEECHES, WIKIPEDIA, DIALOGUES), SECTIONS)
TESTED = (COMMANDS, DIALOGUES, EIPS, IMAGES, PAPERS, PEPS, PROBLEMS, TEXTBOOKS, WORDS)


def normal_form(text: str) -> str:
    """Return a text in lower case with only its letters a to z and digits."""
    return " ".join(re.findall("[a-z0-9]+", text.lower()))


def split_sentences(text: str) -> list[str]:
    """Split where a mark of an end is followed by a capital."""
    return re.split(r"(?<=[.!?]) (?=[A-Z])", text)


def held_out_units(folder: Path, file: str) -> list[list[str]]:
    """Return the units of a corpus, by its file's name, that training must not see."""
    return [unit for unit in read_units(folder, file) if file in TESTED and is_held_out(unit)]


def training_units(folder: Path, file: str) -> list[list[str]]:
    """Return the units of a corpus that training may see."""
    return [unit for unit in read_units(folder, file) if file not in TESTED or not is_held_out(unit)]


def held_out_forms(folder: Path, files: Sequence[str] = TESTED) -> set[str]:
    """Return the normal forms of all texts that are held out, so that training can leave out copies of them too.

    So are the sentences of fields, such as abstracts. The words of a dictionary are not: other meanings of a word may
    be learnt.
    """
    units = [(file, unit[file == WORDS :]) for file in files for unit in held_out_units(folder, file)]
    texts = (text for _, unit in units for text in unit)
    parts = (part for file, unit in units if UNITS[file] == FIELDS for text in unit for part in split_sentences(text))
    return set(map(normal_form, chain(texts, parts)))


def is_held_out(unit: Sequence[str]) -> bool:
    """Return whether a unit of a corpus in `TESTED` is kept for tests."""
    return _hash(unit[-1]) // SECTION % SHARE == 0


def read_units(folder: Path, file: str) -> Iterator[list[str]]:
    """Yield the units of a gzipped file, each a list of texts. Raises OSError where there is no such file.

    A page ends with the line that closes with a full stop: the file has a command's examples first, its description
    last. A section ends where the hash of a line says so.
    """
    kind = UNITS[file]
    unit: list[str] = []
    with gzip.open(folder / file, "rt", encoding="utf-8") as lines:
        for line in lines:
            unit += [field.strip() for field in (line.split("\t") if kind == FIELDS else [line])]
            whole = kind in (LINES, FIELDS) or (kind == PAGES and unit[-1].endswith("."))
            if whole or (kind == SECTIONS and _hash(unit[-1]) % SECTION == 0):
                yield unit
                unit = []
    if unit:
        yield unit


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(normal_form(text).encode(), digest_size=8).digest(), "big")
