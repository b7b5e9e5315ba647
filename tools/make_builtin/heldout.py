"""Cut the corpora into units, and tell which are held out: tools/quality scores these, and training never sees them.

A unit is a line of fields, a question, the page of a command, or a section of prose. A hash of its last text decides,
so the parts don't depend on the order of lines or on a seed. Every fifth unit is held out.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

SHARE = 5  # one unit of so many is held out
SECTION = 32  # the mean number of lines of a section

ROWS, LINES, PAGES, SECTIONS = "rows", "lines", "pages", "sections"
# The corpora that tools/quality tests with, and what a unit of each is. Nothing of the other corpora is held out.
TESTED = {
    "grade_school_math/questions.en.txt.gz": LINES,
    "image_captions/coco_testall.captions5.tsv.gz": ROWS,
    "openstax_ccby/sentences.en.txt.gz": SECTIONS,
    "schema_guided_dialogue/utterances.en.txt.gz": SECTIONS,
    "scitldr/tldr_abstract.tsv.gz": ROWS,
    "specs/eips.sentences.en.txt.gz": SECTIONS,
    "specs/peps.sentences.en.txt.gz": SECTIONS,
    "tldr_pages/sentences.en.txt.gz": PAGES,
    "wordnet/definitions_examples.en.tsv.gz": ROWS,
}


def normal_form(text: str) -> str:
    """Return a text in lower case with only its letters a to z and digits."""
    return " ".join(re.findall("[a-z0-9]+", text.lower()))


def read_units(path: Path, kind: str) -> Iterator[list[str]]:
    """Yield the units of a gzipped file, each a list of texts.

    A page ends with the line that closes with a full stop: the file has a command's examples first, its description
    last. A section ends where the hash of a line says so.
    """
    unit: list[str] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            unit += [field.strip() for field in line.rstrip("\n").split("\t")] if kind == ROWS else [line.strip()]
            if (
                kind in (ROWS, LINES)
                or (kind == PAGES and unit[-1].endswith("."))
                or (kind == SECTIONS and _hash(unit[-1]) % SECTION == 0)
            ):
                yield unit
                unit = []
    if unit:
        yield unit


def is_held_out(unit: list[str]) -> bool:
    """Return whether a unit of a corpus in `TESTED` is kept for tests."""
    return _hash(unit[-1]) // SECTION % SHARE == 0


def held_out_units(folder: Path, file: str) -> list[list[str]]:
    """Return the units of a corpus in `TESTED` that training must not see."""
    return [unit for unit in read_units(folder / file, TESTED[file]) if is_held_out(unit)]


def training_units(folder: Path, file: str, kind: str) -> list[list[str]]:
    """Return the units of any corpus that training may see."""
    return [unit for unit in read_units(folder / file, kind) if file not in TESTED or not is_held_out(unit)]


def held_out_forms(folder: Path, files: tuple[str, ...] = tuple(TESTED)) -> set[str]:
    """Return the normal forms of all texts that are held out. Copies of them in other corpora can be left out too."""
    return {normal_form(text) for file in files for unit in held_out_units(folder, file) for text in unit}


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(normal_form(text).encode(), digest_size=8).digest(), "big")
