"""Encode windows of texts one after another, here or in several processes. The results keep the windows' order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..processes import WorkerPool
from ..truncation import TruncationReport
from .sources import Window

if TYPE_CHECKING:
    from ..encoder import SentenceEncoder

# A call of few texts may be one batch, which takes one core or all, as the others are busy: with other last bits.
FEW = 256
Encoded: TypeAlias = "tuple[np.ndarray, TruncationReport]"


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
    """Yield each window with its vectors and report. Raises as `encode_window`, or WorkerError.

    Each of several processes has a copy of the encoder, and an equal share of the threads, or a GPU.
    """
    if processes == 1:
        yield from ((window, encode_window(encoder, window, options)) for window in windows)
        return
    waiting: deque[Window] = deque()

    def arguments() -> Iterator[tuple[Window, dict[str, Any]]]:
        for window in windows:
            waiting.append(window)
            yield window, options

    with WorkerPool(encoder, processes) as pool:
        yield from ((waiting.popleft(), result) for result in pool.run(encode_window, arguments()))
