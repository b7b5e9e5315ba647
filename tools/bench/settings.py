"""Which of its settings suits an engine best: all are tried, the slow ones fewer times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from .job import Setting, Workload

Choice = TypeVar("Choice")

BATCHES = (1, 2, 4, 8, 16, 32, 64)
MOST_TOKENS = 4096  # a batch; larger ones leave the caches, and where they were tried, none was chosen
# After each trial only those stay that are no further behind the fastest: the first also builds kernels and plans.
STAY_WITHIN = (1.4, 1.1)
BLOCK = 32  # texts of near-equal length that stay together in a sample


def possible(workload: Workload, threads: int, *, alone: bool = False) -> list[Setting]:
    """What is worth a trial: sizes of batch up to the call's; all threads for a batch, or a batch for each thread.

    Args:
        alone: The engine takes one batch after another.
    """
    texts = max(map(len, workload.calls))
    average = workload.tokens / workload.texts
    found = []
    for batch in [size for size in BATCHES if size <= texts and (size == 1 or size * average <= MOST_TOKENS)]:
        batches = -(-texts // batch)
        if batches > 2 * BLOCK:  # of one or two short texts: more calls than computation
            continue
        found.append(Setting(batch, 1, threads))
        if threads > 1:
            workers = 1 if alone else min(threads, batches)
            found.append(Setting(batch, workers, 1))
    return found


def choose(choices: Sequence[Choice], seconds: Callable[[Choice], float]) -> tuple[Choice, dict[Choice, float]]:
    """The fastest, and the least seconds that each took after its first trial (or in it, if it had no other)."""
    first = {choice: seconds(choice) for choice in choices}
    later: dict[Choice, float] = {}
    for within in STAY_WITHIN:
        so_far = later or first
        limit = within * min(so_far.values())
        for choice in [choice for choice, best in so_far.items() if best <= limit]:
            later[choice] = min(later.get(choice, float("inf")), seconds(choice))
    return min(later, key=later.__getitem__), first | later


def sample(workload: Workload, share: int = 4) -> Workload:
    """Every fourth call; of a single call every fourth block of texts, so that batches are as even as in the race."""
    calls = workload.calls
    if len(calls) > share:
        calls = calls[::share]
    elif len(calls) == 1 and len(calls[0]) >= BLOCK * share:
        texts = sorted(calls[0], key=len)
        calls = [[text for i in range(0, len(texts), BLOCK * share) for text in texts[i : i + BLOCK]]]
    elif len(calls) == 1:
        calls = [calls[0][::share]]
    part = sum(map(len, calls)) / workload.texts
    return Workload(calls, workload.limit, round(workload.tokens * part))
