"""Whole batches side by side on the CPU, each on a core of its own.

torch would rather split every matrix product among all cores and wait for the slowest at each, which is no faster
for batches of this size, and collapses when another process keeps a core busy.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

# Each worker holds the values of one batch between layers: on many cores, fewer workers with some threads each.
MOST_WORKERS = 8

_lock = threading.Lock()
_pools: dict[tuple[int, int, int], ThreadPoolExecutor] = {}  # by process, workers, threads of each


def workers_for(device: torch.device, *, hooked: bool) -> int:
    """How many batches may run side by side: 1 where a thread of its own could change what is computed or seen.

    Hooks fire in the thread that computes, and autocast holds in the thread that asked for it.
    """
    if device.type != "cpu" or torch.is_autocast_enabled("cpu") or hooked:
        return 1
    return min(torch.get_num_threads(), MOST_WORKERS)


def side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, *, even_one: bool = False
) -> Iterator[tuple[Item, Result]]:
    """Each item with what the work makes of it, in the order of the items.

    An exception of any of them comes out here; what was not begun by then is not done. A single item is split among
    all cores (see `Lone`), unless ``even_one`` item is to have the numbers that it has among others.
    """
    if workers < 2:
        yield from ((item, work(item)) for item in items)
        return
    if len(items) < 2 and not even_one:
        yield from ((item, lone.compute(partial(work, item))) for item in items)
        return
    pool = _the_pool(workers, max(1, torch.get_num_threads() // workers))
    futures = [pool.submit(work, item) for item in items]
    try:
        for item, future in zip(items, futures, strict=True):
            yield item, future.result()
    finally:
        for future in futures:
            future.cancel()
        wait(futures)  # nothing goes on behind the caller's back


class Lone:
    """Computes a batch that has no others beside it: on all cores, or on one while another process keeps some busy.

    torch splits every product among its threads and waits for the last of them; where that one has to share its core,
    all wait, many times a forward, and a call takes ten times as long. It shows in the processor time that this
    process gets. After several crowded calls the next ones are computed on one core, and then it is tried again.
    """

    FREE = 0.82  # of the cores' time: idle cores give more to nine calls in ten, a shared one gives less to as many
    TRIAL = 4  # calls in a row that are crowded: the first of a kind are, too, as oneDNN makes its programs
    FIRST, MOST = 8, 128  # calls on one core before the next trial; twice as many after each that was crowded

    def __init__(self) -> None:
        self.crowded = 0
        self.on_one = 0
        self.patience = self.FIRST

    def compute(self, work: Callable[[], Result]) -> Result:
        """What the work gives."""
        if self.on_one > 0:
            self.on_one -= 1
            return on_one_core(work)
        wall, busy = time.perf_counter(), time.process_time()
        result = work()
        self.learn(time.perf_counter() - wall, time.process_time() - busy, torch.get_num_threads())
        return result

    def learn(self, wall: float, busy: float, threads: int) -> None:
        """Seconds that a call took, and seconds of all cores that it got."""
        if busy > self.FREE * threads * wall:
            self.crowded, self.patience = 0, self.FIRST
            return
        self.crowded += 1
        if self.crowded == self.TRIAL:
            self.on_one, self.crowded, self.patience = self.patience, 0, min(2 * self.patience, self.MOST)


lone = Lone()


def on_one_core(work: Callable[[], Result]) -> Result:
    """What the work gives, in a thread whose products are not split: a neighbour on another core is no hindrance."""
    return _the_pool(1, 1).submit(work).result()


def _the_pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Workers that compute on so many threads each; kept, because to start them costs as much as a short batch."""
    key = os.getpid(), workers, threads  # a forked process has none of its parent's threads
    with _lock:
        if key not in _pools:
            _pools[key] = _start(workers, threads)
        return _pools[key]


def _start(workers: int, threads: int) -> ThreadPoolExecutor:
    """Torch's setting is each thread's own, except that the latest is also what new threads begin with: put it back."""
    before = torch.get_num_threads()
    all_there = threading.Barrier(workers + 1)

    def begin() -> None:
        torch.get_num_threads()  # the first use in a thread takes the process's setting; only then may it be changed
        torch.set_num_threads(threads)
        all_there.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="minibert", initializer=begin)
    try:
        for _ in range(workers):
            pool.submit(int)
        all_there.wait()
    finally:
        torch.set_num_threads(before)
    return pool
