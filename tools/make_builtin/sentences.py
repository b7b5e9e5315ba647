"""Draw one shuffled list of different sentences from the corpora."""

from __future__ import annotations

import gzip
import random
from collections.abc import Collection, Iterator
from pathlib import Path

from .corpora import CORPORA, Corpus
from .heldout import normal_form, split_sentences

FEWEST_WORDS, MOST_LETTERS = 3, 240  # single terms teach little; long paragraphs take most of the time


def take_sentences(
    folder: Path, seed: int, corpora: tuple[Corpus, ...] = CORPORA, held_out: Collection[str] = ()
) -> list[str]:
    """Draw at most ``most`` sentences of each corpus at random, none twice, and shuffle all.

    ``held_out`` are the normal forms of texts that are not to be drawn.

    Raises:
        OSError: A corpus is not in the folder.
        ValueError: There is not a single sentence.
    """
    chance = random.Random(seed)
    seen = set(held_out)
    taken: list[str] = []
    for corpus in corpora:
        fresh = []
        for text in read_texts(folder / corpus.file):
            form = normal_form(text)
            if len(text.split()) >= FEWEST_WORDS and len(text) <= MOST_LETTERS and form and form not in seen:
                seen.add(form)
                fresh.append(text)
        chance.shuffle(fresh)
        taken += fresh[: corpus.most]
    if not taken:
        raise ValueError(f"{folder}: no sentence of {FEWEST_WORDS} words or more in any corpus")
    chance.shuffle(taken)
    return taken


def read_texts(path: Path) -> Iterator[str]:
    """Yield the lines of a gzipped file; of a .tsv file the sentences of each line's fields."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if ".tsv" in path.suffixes:
                yield from (part.strip() for field in line.split("\t") for part in split_sentences(field))
            else:
                yield line.strip()


def count_by_corpus(folder: Path, sentences: list[str], corpora: tuple[Corpus, ...] = CORPORA) -> dict[str, int]:
    """Count the sentences that come from each file."""
    left = set(sentences)
    counts = {}
    for corpus in corpora:
        found = left.intersection(read_texts(folder / corpus.file))
        counts[corpus.file] = len(found)
        left -= found
    return counts
