"""In which order examples are learned from: a function of the seed and nothing else."""

from __future__ import annotations

import numpy as np

GROUP = 50  # batches that are sorted by length together: long enough to hardly pad, short enough to stay random


def epoch(
    lengths: np.ndarray, batch_size: int, *, seed: int, number: int, by_length: bool, fewest: int = 1
) -> list[np.ndarray]:
    """One pass over all rows in random order, each row once; the last batch may be smaller.

    Args:
        lengths: Tokens of each row, (N,).
        batch_size: Rows a batch.
        seed, number: Of the training, of the pass: together they are the order.
        by_length: Put rows of near-equal length in one batch (the paper's "smart batching", section 7): of every
            50 batches' rows, drawn at random, and the batches in random order again.
        fewest: A last batch of fewer rows than this is left out.
    """
    random = np.random.default_rng([seed, number])
    order = random.permutation(len(lengths))
    if len(order) % batch_size < fewest:
        order = order[: len(order) // batch_size * batch_size]
    if not by_length:
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    batches = []
    for start in range(0, len(order), batch_size * GROUP):
        group = order[start : start + batch_size * GROUP]
        group = group[np.argsort(lengths[group], kind="stable")]
        batches += [group[begin : begin + batch_size] for begin in range(0, len(group), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]
