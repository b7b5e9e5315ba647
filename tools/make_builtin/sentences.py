"""Draw one shuffled list of different sentences from the corpora."""

from __future__ import annotations

import gzip
import random
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from .corpora import CORPORA, Corpus
from .heldout import normal_form, split_sentences

FEWEST_WORDS, MOST_LETTERS = 3, 240  # single terms teach little; long paragraphs take most of the time
JOINTS = frozenset({"and", "are", "at", "by", "from", "in", "is", "near", "on", "while", "with"})


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


def recombine(texts: Sequence[str], each: int, seed: int, held_out: Collection[str] = ()) -> list[str]:
    """Join ``each`` beginnings of each text to the ends of as many others, at a word of `JOINTS` that both have.

    Sentences that share one half differ in what happens, or in who does it. None is among ``texts``, nor its normal
    form in ``held_out``.
    """
    chance = random.Random(seed)
    ends: dict[str, list[str]] = {}
    starts = []
    for text in texts:
        words = text.split()
        places = [i for i in range(2, len(words) - 1) if words[i] in JOINTS]
        for i in places:
            ends.setdefault(words[i], []).append(" ".join(words[i:]))
        starts += [(" ".join(words[:i]), words[i]) for i in chance.sample(places, min(each, len(places)))]
    joined = [f"{start} {chance.choice(ends[word])}" for start, word in starts for _ in range(each)]
    seen = {*held_out, *map(normal_form, texts)}
    fresh = {form: text for text in joined if (form := normal_form(text)) not in seen}
    return list(fresh.values())


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
