"""Batches of near-equal length, so that padding hardly exists.

Cost is counted in tokens: a batch of b texts costs b times its longest, padding included, and a fixed overhead for
being a batch at all. The cheapest cuts through the sorted lengths are found by dynamic programming.
"""

from __future__ import annotations

import numpy as np

from ..config import BertConfig

# Fitted on two cores of an Intel Xeon (48 to 160 gave the same speed): what a batch costs beside its tokens, in tokens.
OVERHEAD = 64
# What padding costs beside a token where it is only looked up and passed over (fitted, two cores of an AMD EPYC).
PADDING = 0.05
# Tokens a batch at most: enough to keep the matrix units busy, few enough that the values between layers stay in cache
# (512 to 1024 are as fast; the fewer, the less memory). Of small models more, because a batch costs its operators,
# however little they have to compute.
CPU_TOKENS = 768, 2048
CPU_WORK = 6 * 2**30  # multiplications in the layers' products that are enough (fitted, two cores of an AMD EPYC)
GPU_TOKENS = 32768
# Fewer tokens than this in all are not worth being split among cores batch by batch.
LEAST_TOKENS = 128


def cpu_tokens(config: BertConfig) -> int:
    """Tokens that make a batch on the CPU, padding included."""
    D, F = config.hidden_size, config.intermediate_size
    each = config.num_hidden_layers * D * (4 * D + 2 * F)
    fewest, most = CPU_TOKENS
    return min(most, max(fewest, CPU_WORK // each))


def plan(
    lengths: np.ndarray, config: BertConfig, *, max_texts: int | None, workers: int, padding: str, alone: bool
) -> list[np.ndarray]:
    """Return the indices of the texts of each batch; every text is in exactly one.

    Args:
        lengths: Tokens of each text, (texts,).
        max_texts: Texts a batch, at most; None: no bound.
        workers: Batches that are computed side by side.
        padding: "free", "costs", "none" (batches of one length); or "device": costs, on a GPU.
        alone: Each text by itself.
    """
    if alone or len(lengths) == 1:
        return list(np.arange(len(lengths))[:, None])
    if padding == "device":
        return plan_batches(lengths, max_tokens=GPU_TOKENS, max_texts=max_texts)
    total, most = int(lengths.sum()), cpu_tokens(config)
    if padding == "free":
        count = -(-total // most)
        count = -(-count // workers) * workers if count > 1 else min(workers, max(1, -(-total // LEAST_TOKENS)))
        return plan_even(lengths, count=count, max_texts=max_texts)
    most = min(most, max(LEAST_TOKENS, -(-total // workers)))
    if padding == "none":
        parts = (np.flatnonzero(lengths == length) for length in np.unique(lengths)[::-1])
        same = ((part, plan_batches(lengths[part], max_tokens=most, max_texts=max_texts)) for part in parts)
        return [part[group] for part, groups in same for group in groups]
    return plan_batches(lengths, max_tokens=most, max_texts=max_texts)


def plan_batches(lengths: np.ndarray, *, max_tokens: int, max_texts: int | None = None) -> list[np.ndarray]:
    """Indices of the texts of each batch, longest first; every text is in exactly one.

    Args:
        lengths: Tokens of each text, (texts,).
        max_tokens: Texts times longest, at most; a single text may be longer.
        max_texts: Texts a batch, at most; None: no bound of its own.
    """
    order = np.argsort(lengths, kind="stable")
    distinct, counts = np.unique(lengths, return_counts=True)  # only between different lengths can a cut save padding
    until = np.concatenate([[0], np.cumsum(counts)])  # texts shorter than distinct[i]
    per_batch = np.maximum(1, max_tokens // np.maximum(1, distinct))
    if max_texts is not None:
        per_batch = np.minimum(per_batch, max_texts)
    best = np.zeros(len(distinct) + 1)  # best[i]: the least cost of all texts shorter than distinct[i]
    start = np.zeros(len(distinct) + 1, dtype=np.int64)
    for end in range(1, len(distinct) + 1):
        texts = until[end] - until[:end]  # in a group that begins at any earlier length and ends here
        batches = -(-texts // per_batch[end - 1])
        cost = best[:end] + batches * OVERHEAD + texts * distinct[end - 1]
        start[end] = np.argmin(cost)
        best[end] = cost[start[end]]
    plan: list[np.ndarray] = []
    end = len(distinct)
    while end:
        begin = start[end]
        group = order[until[begin] : until[end]][::-1].copy()  # torch takes no arrays that run backwards
        plan += np.array_split(group, -(-len(group) // per_batch[end - 1]))
        end = begin
    return plan


def plan_even(lengths: np.ndarray, *, count: int, max_texts: int | None = None) -> list[np.ndarray]:
    """As `plan_batches`, for where padding costs little: batches of as many tokens each, so that workers end together.

    Args:
        lengths: Tokens of each text, (texts,).
        count: Batches; fewer where there are too few texts, more where padding would cost more than another batch.
        max_texts: Texts a batch, at most; None: no bound.
    """
    order = np.argsort(-lengths, kind="stable")
    until = np.cumsum(lengths[order])
    targets = lengths.sum() * np.arange(1, count) / count
    cuts = np.searchsorted(until - lengths[order] / 2, targets)  # a text is in the part where its middle is
    plan: list[np.ndarray] = []
    for part in np.split(order, cuts):
        for group in _cut_where_padded(part, lengths):
            plan += np.array_split(group, -(-len(group) // (max_texts or len(group))))
    return plan


def _cut_where_padded(rows: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Texts, longest first, cut wherever that saves more padding than a further batch costs."""
    if not len(rows):
        return []
    ours = lengths[rows]
    sizes = np.arange(1, len(rows))
    apart = sizes * ours[0] + (len(rows) - sizes) * ours[1:]  # positions of two batches, the first of so many texts
    if not len(apart) or PADDING * (len(rows) * ours[0] - apart.min()) <= OVERHEAD:
        return [rows]
    first = int(apart.argmin()) + 1
    return [*_cut_where_padded(rows[:first], lengths), *_cut_where_padded(rows[first:], lengths)]
