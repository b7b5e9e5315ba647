"""The texts of a race, and how an engine may be driven. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

LARGE, CALLS, SINGLE, LONG = WORKLOADS = ("one large call", "calls of 32", "one text a call", "long texts")
BATCHES = (1, 2, 4, 8, 16, 32, 64)
MOST_TOKENS = 4096  # in a batch; larger batches leave the caches, and no engine chose one
# After each trial only the choices this near to the fastest stay. The first trial also builds kernels and plans.
STAY_WITHIN = (1.4, 1.1)
BLOCK = 32  # texts of similar length that stay together in a sample

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Model:
    """A checkpoint, as far as an engine needs to know it."""

    name: str
    folder: str
    work: str  # the folder of tokenizer/ and of the converted forms
    pooling: str  # cls or mean
    normalize: bool
    limit: int  # tokens
    hidden: int
    intermediate: int
    layers: int
    heads: int
    positions: int

    def linear_flops(self, tokens: int) -> float:
        """Return the operations of all linear layers: a product and a sum for each weight and token."""
        return 2.0 * tokens * self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.intermediate)


@dataclass(frozen=True)
class Workload:
    """Texts, call by call."""

    calls: list[list[str]]
    limit: int  # texts are truncated to this number of tokens
    tokens: int  # of all texts, without padding

    @property
    def texts(self) -> int:
        """Count the texts of all calls."""
        return sum(map(len, self.calls))


class Setting(NamedTuple):
    """How an engine is driven: texts in a batch, batches side by side, threads for each batch."""

    batch: int
    workers: int
    threads: int

    def __str__(self) -> str:
        return f"{self.batch}, {self.workers} x {self.threads}"


def possible(workload: Workload, threads: int, *, alone: bool = False) -> list[Setting]:
    """Return the settings worth a trial: all threads for one batch, or one thread for each of several.

    An engine that is ``alone`` computes one batch after another.
    """
    texts = max(map(len, workload.calls))
    average = workload.tokens / workload.texts
    found = []
    for batch in [size for size in BATCHES if size <= texts and (size == 1 or size * average <= MOST_TOKENS)]:
        batches = -(-texts // batch)
        if batches > 2 * BLOCK:  # more calls than computation
            continue
        found.append(Setting(batch, 1, threads))
        if threads > 1:
            found.append(Setting(batch, 1 if alone else min(threads, batches), 1))
    return found


def choose(choices: Sequence[Choice], seconds: Callable[[Choice], float]) -> tuple[Choice, dict[Choice, float]]:
    """Return the fastest choice, and the least seconds of each after its first trial (or in it, if it had one)."""
    first = {choice: seconds(choice) for choice in choices}
    later: dict[Choice, float] = {}
    for within in STAY_WITHIN:
        so_far = later or first
        limit = within * min(so_far.values())
        for choice in [choice for choice, best in so_far.items() if best <= limit]:
            later[choice] = min(later.get(choice, float("inf")), seconds(choice))
    return min(later, key=later.__getitem__), first | later


def sample(workload: Workload, share: int = 4) -> Workload:
    """Return every fourth call; of a single call every fourth block, so that batches are as even as in the race."""
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
