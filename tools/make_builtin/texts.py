"""Draw what a student may learn from: sentences, passages, and pairs. Nothing of it is held out for tools/quality."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from .corpora import CORPORA, Corpus
from .heldout import IMAGES, PAPERS, PROBLEMS, SECTIONS, UNITS, held_out_forms, normal_form, training_units
from .pairs import KINDS, LETTERS, Kind, cut_passages
from .sentences import count_by_corpus, recombine, take_sentences

SHORTEST = 150  # letters of a passage
RECOMBINED = 2  # beginnings of each caption, each with as many ends


class TrainingPair(NamedTuple):
    """A query, the passage that answers it, and the name of their kind in `pairs.KINDS`."""

    kind: str
    query: str
    passage: str


class Texts(NamedTuple):
    """All training texts, each list shuffled and without repetitions."""

    sentences: list[str]
    recombined: list[str]  # of the halves of two captions
    passages: list[str]
    pairs: list[TrainingPair]

    @classmethod
    def of(cls, lists: Sequence[Any]) -> Texts:
        """Return what JSON made lists of."""
        sentences, recombined, passages, pairs = lists
        return cls(sentences, recombined, passages, [TrainingPair(*pair) for pair in pairs])


class Counts(NamedTuple):
    """How many texts there are: sentences by corpus, recombined ones, passages, and pairs by kind."""

    sentences: dict[str, int]
    recombined: int
    passages: int
    pairs: dict[str, int]


def count(folder: Path, drawn: Texts, corpora: tuple[Corpus, ...] = CORPORA) -> Counts:
    """Count what was drawn from the folder of corpora."""
    kinds = Counter(pair.kind for pair in drawn.pairs)
    by_corpus = count_by_corpus(folder, drawn.sentences, corpora)
    return Counts(by_corpus, len(drawn.recombined), len(drawn.passages), dict(kinds))


def take_texts(
    folder: Path, seed: int, corpora: tuple[Corpus, ...] = CORPORA, kinds: Mapping[str, Kind] = KINDS
) -> Texts:
    """Draw sentences, recombined ones, passages and pairs from the folder of corpora; the same seed draws the same.

    Raises OSError where a file is missing, and ValueError where there is not a single sentence.
    """
    files = [corpus.file for corpus in corpora]
    held_out = held_out_forms(folder, [file for file in files if file in UNITS])
    kinds = {name: kind for name, kind in kinds.items() if kind.file in files}
    return Texts(
        take_sentences(folder, seed, corpora, held_out),
        take_recombined(folder, seed, files, held_out),
        take_passages(folder, seed, files, held_out),
        take_pairs(folder, seed, kinds, held_out),
    )


def take_recombined(folder: Path, seed: int, files: Sequence[str], held_out: Set[str]) -> list[str]:
    """Return sentences made of two captions; none where there are no captions."""
    captions = [text for unit in training_units(folder, IMAGES) for text in unit] if IMAGES in files else []
    found = recombine(captions, RECOMBINED, seed, held_out)
    random.Random(seed).shuffle(found)
    return found


def take_passages(folder: Path, seed: int, files: Sequence[str], held_out: Set[str]) -> list[str]:
    """Return consecutive sentences, joined, of all lengths up to about 256 tokens; whole abstracts and problems too.

    Files whose units are neither sections nor such texts give none.
    """
    chance = random.Random(seed)
    found = []
    for file in files:
        if file in (PAPERS, PROBLEMS):
            found += [[unit[-1]] for unit in training_units(folder, file)]
        elif UNITS.get(file) == SECTIONS:
            for unit in training_units(folder, file):
                allowed = [text for text in unit if normal_form(text) not in held_out]
                found += cut_passages(allowed, chance.randint(2 * SHORTEST, LETTERS[1]), SHORTEST)
    passages = list(dict.fromkeys(" ".join(passage) for passage in found))
    chance.shuffle(passages)
    return [passage for passage in passages if normal_form(passage) not in held_out]


def take_pairs(folder: Path, seed: int, kinds: Mapping[str, Kind], held_out: Set[str]) -> list[TrainingPair]:
    """Return at most ``most`` pairs of each kind, none twice; a pair with a text that is held out is left out."""
    chance = random.Random(seed)
    taken = list[TrainingPair]()
    for name, kind in kinds.items():
        found = list(dict.fromkeys(kind.make(training_units(folder, kind.file))))
        chance.shuffle(found)
        allowed = [pair for pair in found if held_out.isdisjoint(map(normal_form, pair))]
        taken += [TrainingPair(name, *pair) for pair in allowed[: kind.most]]
    chance.shuffle(taken)
    return taken
