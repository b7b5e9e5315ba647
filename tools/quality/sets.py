"""The sets of the suite: texts from the held-out parts of the corpora, what belongs together, and how it is scored.

The corpora have no headings and no services, and tldr-pages' file has no commands. Nearest to them are: for a heading,
the sentence that shares most with the rest of its passage, from which it is taken out; for a command, the descriptions
of its examples; for the service of an utterance, the one that the words of the next turn name.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from minibert.training.reading import NLI_CLASSES, read_examples, read_pairs

from ..make_builtin import heldout
from ..make_builtin.heldout import normal_form
from ..make_builtin.pairs import KINDS
from . import measure
from .measure import Score

RETRIEVAL = {  # the kinds of pairs, and the number of cases of each
    "summary, abstract": 1000,
    "example, definition": 2000,
    "command, its examples": 1000,
    "question, story": 1000,
    "sentence, textbook": 1000,
    "sentence, PEP": 1000,
    "sentence, EIP": 1000,
}
GROUPS = 500  # of texts that are duplicates of each other
TRIPLETS = 1500
SHOTS = 8  # examples a class
UTTERANCES = 40, 60  # of a service: those that examples are drawn from, and those that are tested
SENTENCES = 16, 12  # of a section
SECTIONS = 80  # classes

# The words that name a service of the dialogues.
SERVICES = {
    "attractions": r"attractions?|museum|sightseeing",
    "bank": r"transfer|balance|savings|checking",
    "buses": r"bus|buses",
    "cars": r"rental|cars?|hatchback|sedan|suv",
    "dentists": r"dentists?|dental|cosmetic",
    "doctors": r"doctors?|gynecologist|dermatologist|practitioner|physician|ophthalmologist",
    "events": r"concerts?|events?|game|stadium",
    "flights": r"flights?|airlines",
    "homes": r"apartments?|property|properties|bedrooms?|baths?",
    "hotels": r"hotels?",
    "movies": r"movies?|films?|showtimes?|theater",
    "music": r"songs?|music|album",
    "restaurants": r"restaurants?|table|dine|cuisine",
    "rides": r"cab|taxi|rides?",
    "salons": r"salons?|stylists?|hair",
    "therapists": r"therapists?|psychologist|psychiatrist|counselor",
    "weather": r"weather|degrees|humidity|rain|wind",
}
REQUEST = re.compile(
    r"\b(i want|i need|i'd like|i would like|can you|could you|please|find|search|looking for)\b", re.I
)


@dataclass(frozen=True)
class Set:
    """One set: columns of texts, and the scores of their vectors. The first score counts in the mean."""

    name: str
    columns: Sequence[list[str]]
    score: Callable[..., dict[str, Score]]
    counts: bool = True  # in the mean


def read_sets(data: Path) -> list[Set]:
    """Read all sets from a folder of data; always the same. Raises OSError where a file is missing."""
    corpora = data / "corpora"
    human, first, second = read_pairs(data / "sts" / "sts-dev.csv")
    return [
        Set("STS-B dev", [first, second], partial(measure.similarity, human=human), counts=False),
        *(_retrieval(name, most, corpora) for name, most in RETRIEVAL.items()),
        _duplicates("captions of one image", heldout.held_out_units(corpora, heldout.IMAGES)),
        _duplicates("summaries of one paper", _summaries(corpora)),
        _services(corpora),
        _sections(corpora),
        _snli(data / "nli" / "snli_dev.tsv.gz"),
    ]


def _retrieval(kind: str, most: int, corpora: Path) -> Set:
    """Return at most ``most`` pairs (query, document) of a kind, each query and each document once."""
    pairs = KINDS[kind].make(heldout.held_out_units(corpora, KINDS[kind].file))
    by_document = {document: query for query, document in pairs}
    kept = list({query: document for document, query in by_document.items()}.items())
    random.Random(0).shuffle(kept)
    return Set(f"retrieval: {kind}", _columns(kept[:most]), measure.retrieval)


def _summaries(corpora: Path) -> list[list[str]]:
    """Return the summaries of each paper that has several."""
    by_abstract: dict[str, list[str]] = {}
    for summary, abstract in heldout.held_out_units(corpora, heldout.PAPERS):
        by_abstract.setdefault(abstract, []).append(summary)
    return [summaries for summaries in by_abstract.values() if len(summaries) > 1]


def _duplicates(name: str, groups: Sequence[list[str]]) -> Set:
    """Return one or two pairs of texts of each group, and for each text in them two pairs with a text of another.

    One of the two shares the most words, and the rarest, of all texts. The other is drawn at random.
    """
    groups = groups[:GROUPS]
    texts = [text for group in groups for text in group]
    group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    alike = _shared_words(texts)
    chance = np.random.default_rng(0)
    pairs = list[tuple[int, int, bool]]()
    for group in range(len(groups)):
        own = chance.permutation(np.flatnonzero(group_of == group))[:4].tolist()
        others = np.flatnonzero(group_of != group)
        pairs += [(own[i], own[i + 1], True) for i in range(0, len(own) - 1, 2)]
        for mine in own:
            hard, easy = others[alike[mine, others].argmax()], chance.choice(others)
            pairs += [(mine, int(hard), False), (mine, int(easy), False)]
    first, second, labels = zip(*pairs, strict=True)
    columns = [[texts[place] for place in side] for side in (first, second)]
    return Set(f"duplicates: {name}", columns, partial(measure.duplicates, labels=np.array(labels)))


def _shared_words(texts: Sequence[str]) -> np.ndarray:
    """Return the cosines of the texts' counts of words, weighted by rarity (idf). (n, n)"""
    words = [normal_form(text).split() for text in texts]
    places = {word: place for place, word in enumerate(sorted(set().union(*words)))}
    counts = np.zeros((len(texts), len(places)), dtype=np.float32)
    for row, found in enumerate(words):
        counts[row, [places[word] for word in found]] = 1
    counts *= np.log(len(texts) / counts.sum(0))
    counts /= np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)
    return counts @ counts.T


def service_of(text: str) -> str:
    """Return the one service that a text names, or "" where it names none or several."""
    found = [name for name, words in SERVICES.items() if re.search(rf"\b({words})\b", text, re.IGNORECASE)]
    return found[0] if len(found) == 1 else ""


def _services(corpora: Path) -> Set:
    """Return requests with the service that the next turn names; a request that names another one is left out."""
    by_service: dict[str, list[str]] = {name: [] for name in SERVICES}
    for unit in heldout.held_out_units(corpora, heldout.DIALOGUES):
        for turn, following in pairwise(unit):
            service = service_of(following)
            if service and REQUEST.search(turn) and service_of(turn) in ("", service):
                by_service[service].append(turn)
    return _few_shot("utterance, service", by_service, UTTERANCES)


def _sections(corpora: Path) -> Set:
    """Return sentences with the section of a textbook that they come from."""
    units = heldout.held_out_units(corpora, heldout.TEXTBOOKS)
    units = [unit for unit in units if len(unit) >= sum(SENTENCES)][:SECTIONS]
    return _few_shot("sentence, section", {unit[-1]: unit for unit in units}, SENTENCES)


def _few_shot(name: str, classes: Mapping[str, Sequence[str]], counts: tuple[int, int]) -> Set:
    """Return as many texts of each class. Raises ValueError where a class has too few."""
    few = [word for word, texts in classes.items() if len(texts) < sum(counts)]
    if few:
        raise ValueError(f"{name}: there are not {sum(counts)} texts for {', '.join(few)}")
    drawn = [text for texts in classes.values() for text in random.Random(0).sample(texts, sum(counts))]
    labels = np.repeat(np.arange(len(classes)), sum(counts))
    score = partial(measure.few_shot, classes=labels, shots=SHOTS, tested=counts[1])
    return Set(f"few examples: {name}", [drawn], score)


def _snli(path: Path) -> Set:
    """Return premises with a hypothesis that is entailed and one that is contradicted."""
    examples = read_examples(path, texts=[2, 3], label=1, classes=NLI_CLASSES)
    assert examples.labels is not None
    found: dict[str, dict[int, str]] = {}
    for premise, hypothesis, label in zip(*examples.columns, examples.labels.tolist(), strict=True):
        found.setdefault(premise, {})[label] = hypothesis
    rows = [(premise, own[0], own[2]) for premise, own in found.items() if {0, 2} <= own.keys()][:TRIPLETS]
    return Set("SNLI dev: entailed before contradicted", _columns(rows), measure.triplets)


def _columns(rows: Iterable[tuple[str, ...]]) -> list[list[str]]:
    return [list(column) for column in zip(*rows, strict=True)]
