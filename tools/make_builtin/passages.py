"""Make passages of consecutive sentences, and pairs of texts that belong together."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from .heldout import normal_form

SENTENCES = 6, 10  # of a passage
LETTERS = 400, 1000  # of a passage: about 100 to 256 tokens of the teacher
LAST_SENTENCE = re.compile(r"(.+[.!?]) ([A-Z][^.!?]*\?)")


def cut_passages(section: list[str]) -> list[list[str]]:
    """Cut consecutive sentences into passages that don't overlap; short leftovers are dropped."""
    passages, current = list[list[str]](), list[str]()
    for sentence in section:
        if current and sum(map(len, current)) + len(current) + len(sentence) > LETTERS[1]:
            passages.append(current)
            current = []
        current = [*current, sentence]
        if len(current) == SENTENCES[1]:
            passages.append(current)
            current = []
    return [p for p in [*passages, current] if len(p) >= 4 and sum(map(len, p)) >= LETTERS[0]]


def split_passages(passages: Sequence[list[str]]) -> list[tuple[str, str]]:
    """Take out of each passage the sentence that shares most with the others. Return it, and what is left.

    What two sentences share are words, by their rarity (idf) in all passages, over the root of the sentence's length.
    """
    split = [[set(normal_form(sentence).split()) for sentence in passage] for passage in passages]
    seen = Counter(word for words in split for sentence in words for word in sentence)
    total = sum(map(len, passages))
    pairs = []
    for passage, words in zip(passages, split, strict=True):
        often = Counter(word for sentence in words for word in sentence)
        shared = [
            sum(math.log(total / seen[word]) for word in own if often[word] > 1) / math.sqrt(1 + len(own))
            for own in words
        ]
        best = max(range(len(passage)), key=shared.__getitem__)
        pairs.append((passage[best], " ".join(passage[:best] + passage[best + 1 :])))
    return pairs


def split_question(text: str) -> tuple[str, str] | None:
    """Return the question that a text ends with, and the text before it; None without one."""
    found = LAST_SENTENCE.fullmatch(text)
    return (found[2], found[1]) if found else None
