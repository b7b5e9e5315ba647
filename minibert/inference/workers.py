"""Whole batches side by side on the CPU, each on a core of its own.

torch would rather split every matrix product among all cores and wait for the slowest at each, which is no faster
for batches of this size, and collapses when another process keeps a core busy: with one of two cores taken, encoding
1024 texts took 6.1 s so, and 1.5 s with workers; 1.1 s either way on a free machine (all-MiniLM-L6-v2, float32, two
cores of an Intel Xeon, 2026-11-23).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

Item = TypeVar("Item")
Result = TypeVar("Result")

# Each worker holds the values of one batch between layers: on many cores, fewer workers with some threads each.
MOST_WORKERS = 8
# Starting a worker costs some milliseconds, and at the end most of them wait for the last: with fewer batches than
# this for each (a call of 32 texts has two or three in all) one after another was 15 % faster on a free machine.
LEAST_EACH = 2

_lock = threading.Lock()
_calls = 0
_threads = 1  # torch's setting before the first of the calls that are under way


def workers_for(model: nn.Module, device: torch.device) -> int:
    """How many batches may run side by side: 1 where a thread of its own could change what is computed or seen.

    Hooks fire in the thread that computes, and autocast holds in the thread that asked for it.
    """
    if device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return 1
    if _has_any_global_hook() or any(part._forward_hooks or part._forward_pre_hooks for part in model.modules()):
        return 1
    return min(torch.get_num_threads(), MOST_WORKERS)


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[tuple[Item, Result]]:
    """Each item with what the work makes of it, in the order of the items.

    An exception of any of them comes out here; what was not begun by then is not done.
    """
    if workers < 2 or len(items) < LEAST_EACH * workers:
        yield from ((item, work(item)) for item in items)
        return
    with _few_threads_each(workers) as begin:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="minibert", initializer=begin)
        try:
            yield from zip(items, pool.map(work, items), strict=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _few_threads_each(workers: int) -> Iterator[Callable[[], None]]:
    """What a worker calls first, so that it computes on its share of the cores; torch's setting is put back at the end.

    torch keeps the number for each thread, but one copy of it, for MKL and for threads to come, is the whole process's.
    So the last call to end puts it back, whichever began first.
    """
    global _calls, _threads
    with _lock:
        if _calls == 0:
            _threads = torch.get_num_threads()
        _calls += 1
        share = max(1, _threads // workers)
    try:
        yield lambda: torch.set_num_threads(share)
    finally:
        with _lock:
            _calls -= 1
            if _calls == 0:
                torch.set_num_threads(_threads)
