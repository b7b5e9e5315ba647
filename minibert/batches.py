"""Which texts are computed together, and on which core.

Texts of near-equal length share a batch, so that padding hardly exists. Whole batches run side by side on the CPU, each
on a core of its own: torch would split every product among all cores, and wait for the slowest at each.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from .config import BertConfig

Item = TypeVar("Item")
Result = TypeVar("Result")

# The cost of a batch beside its tokens, in tokens (fitted, two cores of an Intel Xeon: 48 to 160 gave the same speed).
OVERHEAD = 64
# The cost of padding beside a token's, where it is only pooled (fitted, two cores of an AMD EPYC).
PADDING = 0.05
# Tokens a batch at most: enough to keep the matrix units busy, and few enough that values between layers stay in cache
# (512 to 1024 are as fast; fewer take less memory). Small models get more, because each batch costs its operators.
CPU_TOKENS = 768, 2048
CPU_WORK = 6 * 2**30  # multiplications in the layers' products that are enough (fitted, two cores of an AMD EPYC)
GPU_TOKENS = 32768
GPU_OVERHEAD = 2048  # tokens that a GPU computes while Python launches a batch's operators (assumed, not measured)
# With fewer tokens than this in all, a call is not worth being split among cores.
LEAST_TOKENS = 128
# Each worker holds the values of one batch. With many cores, fewer workers get several threads each.
MOST_WORKERS = 8
AHEAD = 8  # batches that wait or are done, for each worker: with fewer, one may wait for a slower one


def cpu_tokens(config: BertConfig) -> int:
    """Return the tokens of a batch on the CPU, padding included."""
    D, F = config.hidden_size, config.intermediate_size
    each = config.num_hidden_layers * D * (4 * D + 2 * F)
    fewest, most = CPU_TOKENS
    return min(most, max(fewest, CPU_WORK // each))


def plan(
    lengths: np.ndarray,
    config: BertConfig,
    max_texts: int | None,
    workers: int,
    *,
    padding: str,
    alone: bool,
    on_gpu: bool = False,
) -> list[np.ndarray]:
    """Return the indices of the texts of each batch; every text is in exactly one.

    Args:
        lengths: Tokens of each text, (texts,).
        max_texts: Texts a batch, at most; None: no bound.
        workers: Batches that are computed side by side.
        padding: "free" to the stack, which packs tokens; "costs" on the page; "none" may be: batches of one length.
        alone: Each text by itself.
        on_gpu: Batches are larger there.
    """
    if alone or len(lengths) == 1:
        return list(np.arange(len(lengths))[:, None])
    overhead = GPU_OVERHEAD if on_gpu else OVERHEAD
    total, most = int(lengths.sum()), GPU_TOKENS if on_gpu else cpu_tokens(config)
    if padding == "free":
        count = -(-total // most)
        count = -(-count // workers) * workers if count > 1 else min(workers, max(1, -(-total // LEAST_TOKENS)))
        return plan_even(lengths, count=count, max_texts=max_texts, overhead=overhead)
    most = most if on_gpu else min(most, max(LEAST_TOKENS, -(-total // workers)))
    if padding == "none":
        parts = (np.flatnonzero(lengths == length) for length in np.unique(lengths)[::-1])
        same = ((part, plan_batches(lengths[part], max_tokens=most, max_texts=max_texts)) for part in parts)
        return [part[group] for part, groups in same for group in groups]
    return plan_batches(lengths, max_tokens=most, max_texts=max_texts, overhead=overhead)


def plan_batches(
    lengths: np.ndarray, *, max_tokens: int, max_texts: int | None = None, overhead: int = OVERHEAD
) -> list[np.ndarray]:
    """Plan batches where padding costs as much as tokens. The cheapest cuts are found by dynamic programming.

    A batch of b texts costs b times its longest, and ``overhead``. Batches come longest first.

    Args:
        lengths: Tokens of each text, (texts,).
        max_tokens: Texts times longest, at most; a single text may be longer.
        max_texts: Texts a batch, at most; None: no bound.
    """
    order = np.argsort(lengths, kind="stable")
    distinct, counts = np.unique(lengths, return_counts=True)  # a cut saves padding only between different lengths
    until = np.concatenate([[0], np.cumsum(counts)])  # texts shorter than distinct[i]
    per_batch = np.maximum(1, max_tokens // np.maximum(1, distinct))
    if max_texts is not None:
        per_batch = np.minimum(per_batch, max_texts)
    best = np.zeros(len(distinct) + 1)  # best[i]: the least cost of texts shorter than distinct[i]
    start = np.zeros(len(distinct) + 1, dtype=np.int64)
    for end in range(1, len(distinct) + 1):
        texts = until[end] - until[:end]  # of a group that begins at any earlier length and ends here
        batches = -(-texts // per_batch[end - 1])
        cost = best[:end] + batches * overhead + texts * distinct[end - 1]
        start[end] = np.argmin(cost)
        best[end] = cost[start[end]]
    plan: list[np.ndarray] = []
    end = len(distinct)
    while end:
        begin = start[end]
        group = order[until[begin] : until[end]][::-1].copy()  # torch does not take arrays that run backwards
        plan += np.array_split(group, -(-len(group) // per_batch[end - 1]))
        end = begin
    return plan


def plan_even(
    lengths: np.ndarray, *, count: int, max_texts: int | None = None, overhead: int = OVERHEAD
) -> list[np.ndarray]:
    """Plan batches where padding costs little: of as many tokens each, so that workers end together.

    Args:
        lengths: Tokens of each text, (texts,).
        count: Batches; fewer for too few texts, more where padding would cost more than another batch.
        max_texts: Texts a batch, at most; None: no bound.
    """
    order = np.argsort(-lengths, kind="stable")
    middles = np.cumsum(lengths[order], dtype=np.float64)
    middles -= lengths[order] / 2  # in place: of a million texts each such array takes 8 MB
    cuts = np.searchsorted(middles, lengths.sum() * np.arange(1, count) / count)  # a text is where its middle is
    plan: list[np.ndarray] = []
    for part in np.split(order, cuts):
        for group in _cut_where_padded(part, lengths, overhead):
            plan += np.array_split(group, -(-len(group) // (max_texts or len(group))))
    return plan


def _cut_where_padded(rows: np.ndarray, lengths: np.ndarray, overhead: int) -> list[np.ndarray]:
    """Cut texts, longest first, wherever that saves more padding than another batch costs."""
    if not len(rows):
        return []
    ours = lengths[rows]
    sizes = np.arange(1, len(rows))
    apart = sizes * ours[0] + (len(rows) - sizes) * ours[1:]  # positions of two batches, by the first one's texts
    if not len(apart) or PADDING * (len(rows) * ours[0] - apart.min()) <= overhead:
        return [rows]
    first = int(apart.argmin()) + 1
    return [group for part in np.split(rows, [first]) for group in _cut_where_padded(part, lengths, overhead)]


_lock = threading.Lock()
_pools: dict[tuple[int, int, int], ThreadPoolExecutor] = {}  # by process, workers, threads of each

# A forked process has none of its parent's threads. torch would wait for them for ever, so there it uses one.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


def workers_for(device: torch.device, *, hooked: bool) -> int:
    """Return how many batches may run side by side.

    One where the thread matters: hooks fire in the thread that computes; autocast, profilers and dispatch modes (as
    FlopCounterMode) hold in the caller's.
    """
    watched = torch.autograd.profiler._is_profiler_enabled or torch._C._len_torch_dispatch_stack()
    if device.type != "cpu" or torch.is_autocast_enabled("cpu") or hooked or watched:
        return 1
    return min(torch.get_num_threads(), MOST_WORKERS)


def side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, *, even_one: bool = False
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the work's result, in the order of the items. Each item runs in the caller's context.

    An exception of any of them is raised here, and items that have not begun are dropped. A single item is split
    among all cores (see `SingleBatch`), unless ``even_one``: it must get the numbers that it has among others.
    """
    if workers < 2:
        yield from ((item, work(item)) for item in items)
        return
    if len(items) < 2 and not even_one:
        yield from ((item, single.compute(partial(work, item))) for item in items)
        return
    pool = _the_pool(workers, max(1, torch.get_num_threads() // workers))
    futures: deque[Future[Result]] = deque()
    try:
        for i, item in enumerate(items):
            with suppress(RuntimeError):  # the interpreter is ending, and starts no more work in other threads
                while len(futures) < AHEAD * workers and i + len(futures) < len(items):
                    futures.append(pool.submit(copy_context().run, work, items[i + len(futures)]))
            yield item, futures.popleft().result() if futures else work(item)  # and its memory is free
    finally:
        for future in futures:
            future.cancel()
        wait(futures)  # nothing goes on behind the caller's back


class SingleBatch:
    """Compute a batch without others beside it: on all cores, or on one while another process keeps some busy.

    torch splits every product among its threads and waits for the last of them. If that one shares its core, all wait,
    many times a forward, and a call takes ten times as long. It shows in the processor time that this process gets:
    over many calls, for the system counts it at ticks, milliseconds apart. After two crowded windows, the next calls
    run on one core, and then all cores are tried again.
    """

    FREE = 0.78  # of the cores' time: idle cores give more, a shared core gives less (measured on two cores)
    WINDOW = 0.04  # seconds of calls that are judged together
    TRIAL = 2  # crowded windows in a row; the first calls of a shape are crowded too, while oneDNN compiles
    FIRST, MOST = 0.2, 6.4  # seconds of calls on one core before the next trial; twice as many after each crowded one

    def __init__(self) -> None:
        self.wall = self.busy = self.on_one = 0.0  # seconds: of the window, of a core in it, and to go on one core
        self.crowded, self.patience = 0, self.FIRST

    def compute(self, work: Callable[[], Result]) -> Result:
        """Return the work's result."""
        wall, busy, alone = time.perf_counter(), time.process_time(), self.on_one > 0
        result = on_one_core(work) if alone else work()
        wall = time.perf_counter() - wall
        self.on_one -= wall if alone else 0.0
        if not alone:
            self.learn(wall, time.process_time() - busy, torch.get_num_threads())
        return result

    def learn(self, wall: float, busy: float, threads: int) -> None:
        """Learn from a call: the seconds it took, and the seconds it got of all cores."""
        self.wall, self.busy = self.wall + wall, self.busy + busy / threads
        if self.wall < self.WINDOW:
            return
        self.crowded = 0 if self.busy > self.FREE * self.wall else self.crowded + 1
        self.wall = self.busy = 0.0
        if not self.crowded:
            self.patience = self.FIRST
        elif self.crowded == self.TRIAL:
            self.on_one, self.crowded, self.patience = self.patience, 0, min(2 * self.patience, self.MOST)


single = SingleBatch()


def on_one_core(work: Callable[[], Result]) -> Result:
    """Return the work's result, from a thread that does not split products and so needs one free core only."""
    try:
        return _the_pool(1, 1).submit(copy_context().run, work).result()
    except RuntimeError as error:
        if "cannot schedule new futures" not in str(error):
            raise
        return work()  # the interpreter is ending


def _the_pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Return workers with so many threads each. They are kept: starting them costs as much as a short batch."""
    key = os.getpid(), workers, threads  # a forked process has none of its parent's threads
    with _lock:
        if key not in _pools:
            _pools[key] = _start(workers, threads)
        return _pools[key]


def _start(workers: int, threads: int) -> ThreadPoolExecutor:
    """Start workers. torch's setting is each thread's own, but new threads begin with the latest: put it back."""
    before = torch.get_num_threads()
    all_there = threading.Barrier(workers + 1)

    def begin() -> None:
        torch.get_num_threads()  # the first use in a thread takes the process's setting; only then can it be changed
        torch.set_num_threads(threads)
        with suppress(threading.BrokenBarrierError):
            all_there.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="minibert", initializer=begin)
    try:
        for _ in range(workers):
            pool.submit(int)
        all_there.wait()
    except BaseException:  # those that did start would wait for the others for ever, and so would the process's end
        all_there.abort()
        pool.shutdown()
        raise
    finally:
        torch.set_num_threads(before)
    return pool
