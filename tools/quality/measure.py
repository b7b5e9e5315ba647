"""Scores that can be bootstrapped: each is a function of how often each of its cases is drawn.

A case is a query, a pair, a triplet or an utterance. ``weights`` (B, n) says how often each of n cases is drawn, in
each of B draws; the score itself has weights of one. Teacher and student are scored with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 1000  # of the bootstrap
TRIALS = 10  # of few-shot classification
RIDGE = 1.0


class Score(NamedTuple):
    """A measure of one encoder on n cases; ``of`` takes weights (B, n) and returns scores (B,), from 0 to 1."""

    cases: int
    of: Callable[[np.ndarray], np.ndarray]

    @property
    def value(self) -> float:
        """The score itself: every case counts once."""
        return float(self.of(np.ones((1, self.cases)))[0])


class Share(NamedTuple):
    """A student's score in percent of the teacher's, with a 95 % interval, and the percentages of all draws."""

    percent: float
    low: float
    high: float
    draws: np.ndarray

    @classmethod
    def of_draws(cls, percent: float, draws: np.ndarray) -> Share:
        """Return the interval between the 2.5th and the 97.5th percentile of the draws."""
        low, high = np.percentile(draws, [2.5, 97.5])
        return cls(percent, float(low), float(high), draws)


def compare(student: Score, teacher: Score, seed: int) -> Share:
    """Return the student's share of the teacher's score, which is above 0, by a paired bootstrap over the cases."""
    weights = np.random.default_rng(seed).multinomial(teacher.cases, np.full(teacher.cases, 1 / teacher.cases), DRAWS)
    draws = student.of(weights) / np.maximum(teacher.of(weights), 1e-9)
    return Share.of_draws(100 * student.value / teacher.value, 100 * draws)


def mean_share(shares: Sequence[Share]) -> Share:
    """Return the mean over sets, each drawn on its own."""
    return Share.of_draws(
        float(np.mean([share.percent for share in shares])), np.mean([share.draws for share in shares], axis=0)
    )


def mean_of(values: np.ndarray) -> Score:
    """Return the mean of one number a case. (n,)"""
    return Score(len(values), lambda weights: weights @ values / weights.sum(1))


def retrieval(queries: np.ndarray, documents: np.ndarray) -> dict[str, Score]:
    """Score queries (n, D), each of which looks for the document in its own row of (n, D) among all documents."""
    scores = queries @ documents.T
    ranks = (scores >= np.diag(scores)[:, None]).sum(1)  # a tie counts against
    return {"first hit": mean_of(ranks == 1), "MRR@10": mean_of(np.where(ranks <= 10, 1 / ranks, 0))}


def triplets(anchors: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> dict[str, Score]:
    """Score triplets: a positive must be more similar to the anchor than the negative is. Each (n, D)."""
    return {"accuracy": mean_of(_cosines(anchors, positives) > _cosines(anchors, negatives))}


def duplicates(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> dict[str, Score]:
    """Score pairs, each (n, D), of which those labelled True should be the most similar. (n,)"""
    order = np.argsort(-_cosines(first, second), kind="stable")
    right = labels[order].astype(float)

    def average_precision(weights: np.ndarray) -> np.ndarray:
        drawn = weights[:, order]
        hits = drawn * right
        precision = hits.cumsum(1) / np.maximum(drawn.cumsum(1), 1)
        return (precision * hits).sum(1) / hits.sum(1)

    return {"average precision": Score(len(labels), average_precision)}


def similarity(first: np.ndarray, second: np.ndarray, human: np.ndarray) -> dict[str, Score]:
    """Score pairs, each (n, D), against human scores (n,)."""
    cosines = _cosines(first, second)

    def spearman(weights: np.ndarray) -> np.ndarray:
        a, b = _ranks(cosines, weights), _ranks(human, weights)
        total = weights.sum(1, keepdims=True)
        a, b = (x - (weights * x).sum(1, keepdims=True) / total for x in (a, b))
        return (weights * a * b).sum(1) / np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))

    return {"Spearman": Score(len(human), spearman)}


def few_shot(vectors: np.ndarray, classes: np.ndarray, shots: int, tested: int) -> dict[str, Score]:
    """Score a ridge classifier on few examples a class, over random choices of them.

    Args:
        vectors: (C * m, D); m of each class, one class after another.
        classes: (C * m,), from 0.
        shots: The examples of each class that one classifier learns from.
        tested: The number of each class's last vectors that are only tested.
    """
    count = classes.max() + 1
    each = len(classes) // count
    test = np.arange(len(classes)) % each >= each - tested
    chance, right = np.random.default_rng(0), np.zeros(test.sum())
    for _ in range(TRIALS):
        picked = np.concatenate([c * each + chance.permutation(each - tested)[:shots] for c in range(count)])
        known, labels = vectors[picked], np.eye(count)[classes[picked]]
        middle = known.mean(0)
        known = known - middle
        weights = np.linalg.solve(known @ known.T + RIDGE * np.eye(len(known)), labels - labels.mean(0))
        found = (vectors[test] - middle) @ known.T @ weights
        right += found.argmax(1) == classes[test]
    return {"accuracy": mean_of(right / TRIALS)}


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first * second).sum(1)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the rank of each value where it is drawn several times; ties share the mean of their ranks. (B, n)"""
    _, group = np.unique(values, return_inverse=True)
    counts = np.zeros((len(weights), group.max() + 1))
    np.add.at(counts.T, group, weights.T)
    return (counts.cumsum(1) - (counts - 1) / 2)[:, group]
