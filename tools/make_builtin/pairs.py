"""Make passages of consecutive sentences, and pairs (query, passage) of texts that belong together."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from . import heldout
from .heldout import normal_form, split_sentences

MOST_SENTENCES = 10  # of a passage
LETTERS = 400, 1100  # of a passage: about 100 to 256 tokens of the teacher
LAST_SENTENCE = re.compile(r"(.+[.!?]) ([A-Z][^.!?]*\?)")

Units = Sequence[list[str]]
Pair = tuple[str, str]


def cut_passages(section: Sequence[str], most: int = LETTERS[1], fewest: int = LETTERS[0]) -> list[list[str]]:
    """Cut sentences into passages of at most ``most`` letters that don't overlap; drop those that stay short."""
    passages: list[list[str]] = [[]]
    for sentence in section:
        if len(passages[-1]) == MOST_SENTENCES or len(" ".join([*passages[-1], sentence])) > most:
            passages.append([])
        passages[-1].append(sentence)
    return [found for found in passages if len(found) > 1 and fewest <= len(" ".join(found)) <= most]


def take_out_sentences(passages: Units) -> list[Pair]:
    """Take out of each passage the sentence that shares most with the others. Return it, and what is left.

    What a sentence shares are words, by their rarity (idf) in all sentences, over the root of the sentence's length.
    """
    words = [[set(normal_form(sentence).split()) for sentence in passage] for passage in passages]
    seen = Counter(word for passage in words for sentence in passage for word in sentence)
    total = sum(map(len, passages))
    pairs = []
    for passage, own in zip(passages, words, strict=True):
        here = Counter(word for sentence in own for word in sentence)
        shared = [sum(math.log(total / seen[w]) for w in s if here[w] > 1) / math.sqrt(1 + len(s)) for s in own]
        best = shared.index(max(shared))
        pairs.append((passage[best], " ".join([*passage[:best], *passage[best + 1 :]])))
    return pairs


def _prose(sections: Units) -> list[Pair]:
    return take_out_sentences([p for section in sections for p in cut_passages(section) if len(p) > 3])


def _questions(lines: Units) -> Iterable[Pair]:
    found = [LAST_SENTENCE.fullmatch(text) for (text,) in lines]
    return [(match[2], match[1]) for match in found if match]


def _summaries(papers: Units) -> Iterable[Pair]:
    by_abstract: dict[str, list[str]] = {}
    for summary, abstract in papers:
        by_abstract.setdefault(abstract, []).append(summary)
    return [pair for summaries in by_abstract.values() for pair in pairwise(summaries)]


def _halves_of_abstracts(papers: Units) -> Iterable[Pair]:
    """Pair a summary with the first and with the second half of its abstract's sentences."""
    for summary, abstract in papers:
        parts = split_sentences(abstract)
        middle = len(parts) // 2
        if middle > 1:
            yield from ((summary, " ".join(half)) for half in (parts[:middle], parts[middle:]))


def _abstracts(papers: Units) -> list[list[str]]:
    """Return the sentences of each abstract."""
    return [split_sentences(abstract) for abstract in dict.fromkeys(paper[1] for paper in papers)]


def _neighbours(units: Units) -> Iterable[Pair]:
    return [(unit[i], unit[i + 1]) for unit in units for i in range(0, len(unit) - 1, 2)]


def _halves(units: Units) -> Iterable[Pair]:
    return [pair for unit in units for pair in zip(unit, unit[len(unit) // 2 :], strict=False) if len(unit) > 3]


@dataclass(frozen=True)
class Kind:
    """One kind of pairs: the corpus, and how its units become pairs."""

    file: str
    make: Callable[[Units], Iterable[Pair]]
    most: int  # of the recipe's pairs, so that no one kind outweighs the others
    times: int = 1  # that each is learnt in an epoch, each time with another hard negative


KINDS = {
    "summary, abstract": Kind(heldout.PAPERS, lambda units: [(unit[0], unit[1]) for unit in units], 5_000, 3),
    "summary, summary": Kind(heldout.PAPERS, _summaries, 5_000, 4),
    "summary, half of the abstract": Kind(heldout.PAPERS, _halves_of_abstracts, 10_000, 2),
    "sentence, abstract": Kind(heldout.PAPERS, lambda papers: _prose(_abstracts(papers)), 5_000, 3),
    "sentence, sentence of its abstract": Kind(heldout.PAPERS, lambda papers: _halves(_abstracts(papers)), 10_000, 2),
    "example, definition": Kind(
        heldout.WORDS, lambda units: [(unit[2], unit[1]) for unit in units if len(unit) > 2], 20_000
    ),
    "word, definition": Kind(heldout.WORDS, lambda units: [(unit[0], unit[1]) for unit in units], 10_000),
    "command, its examples": Kind(
        heldout.COMMANDS,
        lambda units: [(unit[-1], ". ".join(unit[:-1]) + ".") for unit in units if len(unit) > 3],
        5_000,
    ),
    "question, story": Kind(heldout.PROBLEMS, _questions, 10_000),
    "sentence, textbook": Kind(heldout.TEXTBOOKS, _prose, 15_000),
    "sentence, next sentence": Kind(heldout.TEXTBOOKS, _neighbours, 30_000),
    "sentence, sentence of its section": Kind(heldout.TEXTBOOKS, _halves, 40_000),
    "sentence, PEP": Kind(heldout.PEPS, _prose, 10_000),
    "sentence, EIP": Kind(heldout.EIPS, _prose, 5_000),
    "sentence, RFC": Kind(heldout.RFCS, _prose, 10_000),
    "sentence, speech": Kind(heldout.SPEECHES, _prose, 5_000),
    "sentence, Wikipedia": Kind(heldout.WIKIPEDIA, _prose, 5_000),
    "caption, caption": Kind(heldout.IMAGES, _neighbours, 10_000),
    "turn, next turn": Kind(
        heldout.DIALOGUES, lambda units: [pair for unit in units for pair in pairwise(unit)], 8_000
    ),
}
