"""Which of its settings suits an engine best: tried one after another, the slow ones fewer times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from .job import Setting, Workload

Choice = TypeVar("Choice")

BATCHES = (4, 8, 16, 32, 64)
LONG_BATCHES = (1, 2, 4, 8, 16)  # of texts with some hundred tokens
# After each trial only those stay that are not further behind the fastest: the first also builds kernels and plans.
STAY_WITHIN = (1.5, 1.15, 1.05)


def possible(workload: Workload, threads: int, *, alone: bool = False) -> list[Setting]:
    """What is worth a trial: sizes of batch up to the call's, all threads for each batch or each batch one thread.

    Args:
        alone: The engine takes one batch after another.
    """
    texts = max(map(len, workload.calls))
    average = workload.tokens / max(1, workload.texts)
    sizes = LONG_BATCHES if average > 128 else BATCHES
    batches = sorted({min(size, texts) for size in sizes})
    found = []
    for batch in batches:
        found.append(Setting(batch, 1, threads))
        workers = 1 if alone else min(threads, -(-texts // batch))
        if threads > 1:
            found.append(Setting(batch, workers, 1))
    return found


def choose(choices: Sequence[Choice], seconds: Callable[[Choice], float]) -> tuple[Choice, dict[Choice, float]]:
    """The fastest, and the least seconds that each took."""
    best = {choice: seconds(choice) for choice in choices}
    for within in STAY_WITHIN:
        limit = within * min(best.values())
        # What the first trial took does not count: whoever came first paid for the others too.
        again = {choice: seconds(choice) for choice in choices if best[choice] <= limit}
        best = {c: again.get(c, t) if within == STAY_WITHIN[0] else min(t, again.get(c, t)) for c, t in best.items()}
    return min(best, key=best.__getitem__), best


def sample(workload: Workload, share: int = 4) -> Workload:
    """Every fourth call, or where there is only one, every fourth text: trials should take less time than the race."""
    calls = workload.calls
    if len(calls) > share:
        calls = calls[::share]
    elif len(calls) == 1 and len(calls[0]) > 16:
        calls = [calls[0][::share]]
    part = sum(map(len, calls)) / workload.texts
    return Workload(calls, workload.limit, round(workload.tokens * part))
