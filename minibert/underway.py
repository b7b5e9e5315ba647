"""Which texts are being computed: `encode` says it, and whoever watches values (`research.hooks`) asks.

It has to be said, because batches are cut by length, so that values come in another order than the texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Texts:
    """One batch of one call of `encode`."""

    call: object  # the same for all batches of the call
    count: int  # texts in the whole call
    rows: np.ndarray  # which of them are in this batch, row by row
    lengths: np.ndarray  # tokens of each row, without padding


_texts: ContextVar[Texts | None] = ContextVar("texts", default=None)


def texts_under_way() -> Texts | None:
    """The batch that this thread is computing for `encode`; None where it is none of encode's."""
    return _texts.get()


@contextmanager
def under_way(texts: Texts) -> Iterator[None]:
    """What this thread computes inside is that batch."""
    before = _texts.set(texts)
    try:
        yield
    finally:
        _texts.reset(before)
