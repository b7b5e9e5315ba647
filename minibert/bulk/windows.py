"""Encode windows of texts one after another, here or in several processes. The results keep the windows' order."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from ..truncation import TruncationReport
from .sources import Window

if TYPE_CHECKING:
    from ..encoder import SentenceEncoder

# A call of few texts may be one batch, which takes one core or all, as the others are busy: with other last bits.
FEW = 256
Encoded: TypeAlias = "tuple[np.ndarray, TruncationReport]"
_own: list[SentenceEncoder] = []  # of a process that was started here


def encode_window(encoder: SentenceEncoder, window: Window, options: dict[str, Any]) -> Encoded:
    """Return a window's vectors, (n, D) in float32, and what was truncated. Raises as `encode`, with the ids."""
    ids, texts, _ = window
    try:
        vectors: np.ndarray = encoder.encode_document(texts, batch_invariant=len(texts) < FEW, **options)
    except ValueError as error:
        raise ValueError(f"among {ids[0]} to {ids[-1]}: {error}" if ids else str(error)) from error
    return vectors.astype(np.float32, copy=False), encoder.truncation_report


def encoded(
    encoder: SentenceEncoder, windows: Iterable[Window], options: dict[str, Any], processes: int
) -> Iterator[tuple[Window, Encoded]]:
    """Yield each window with its vectors and report. Raises as `encode_window`.

    Each of several processes has a copy of the encoder, and an equal share of the threads, or a GPU.
    """
    if processes == 1:
        yield from ((window, encode_window(encoder, window, options)) for window in windows)
        return
    context = multiprocessing.get_context("spawn")
    # As bytes: torch would put the weights into shared memory, of which containers have little.
    given = pickle.dumps(encoder), context.Value("i", 0), max(1, torch.get_num_threads() // processes)
    pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=given)
    waiting: deque[tuple[Window, Future[Encoded]]] = deque()
    try:
        for window in windows:
            waiting.append((window, pool.submit(_encode, window, options)))
            if len(waiting) > 2 * processes:
                first, future = waiting.popleft()
                yield first, future.result()
        yield from ((first, future.result()) for first, future in waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(encoder: bytes, counter: Any, threads: int) -> None:
    """Make a process ready that was just started."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C the parent tells
    torch.set_num_threads(threads)
    own = pickle.loads(encoder)
    with counter.get_lock():
        number, counter.value = counter.value, counter.value + 1
    _own.append(own.to(f"cuda:{number % torch.cuda.device_count()}") if own.device.type == "cuda" else own)


def _encode(window: Window, options: dict[str, Any]) -> Encoded:
    return encode_window(_own[0], window, options)


def _end_with_parent() -> None:
    """End this process with the one that has started it, even where that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
