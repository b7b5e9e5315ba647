"""Compare every text with every other, by the checkpoint's similarity (mostly the cosine)."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from heapq import nlargest
from operator import itemgetter
from typing import TYPE_CHECKING

from ..config import check_count
from ..display import shorten, table
from .options import add_encoder, add_texts, load_encoder, read_texts, report_truncation

if TYPE_CHECKING:
    import numpy as np

    from ..encoder import SentenceEncoder

HELP = "how similar texts are"
MOST = 50  # texts that are shown as a matrix
SCORES = 2**22  # in memory at once


def add_flags(parser: ArgumentParser) -> None:
    """Add texts, encoder, and the number of pairs."""
    add_texts(parser)
    add_encoder(parser)
    text = f"show the N most similar pairs, not the matrix (default: 20 for more than {MOST} texts)"
    parser.add_argument("--top", type=int, metavar="N", help=text)


def run(options: Namespace) -> None:
    """Print a matrix of all pairs, or a list of the most similar ones."""
    check_count("top", options.top, optional=True)
    [texts] = read_texts(options)
    if len(texts) < 2:
        raise ValueError("similarity needs at least two texts")
    encoder = load_encoder(options)
    shown = sys.stderr.isatty() and len(texts) > 100
    vectors = encoder.encode(texts, batch_size=options.batch_size, show_progress_bar=shown)
    report_truncation(encoder.truncation_report, options.truncation)
    rows: list[list[object]]
    if options.top is None and len(texts) <= MOST:
        rows = [["", "", *range(1, len(texts) + 1)]]
        for i, scores in enumerate(encoder.similarity(vectors, vectors).tolist()):
            rows.append([i + 1, shorten(texts[i], 48), *(f"{score:.3f}" for score in scores)])
        print(table(rows, left=(1,)))
        return
    pairs = most_similar(encoder, vectors, options.top or 20)
    if options.top is None:
        total = len(texts) * (len(texts) - 1) // 2
        print(f"minibert: the {len(pairs)} most similar of {total:,} pairs (--top N shows more)", file=sys.stderr)
    rows = [[f"{score:.3f}", i + 1, shorten(texts[i], 48), j + 1, shorten(texts[j], 48)] for score, i, j in pairs]
    print(table(rows, left=(2, 4)))


def most_similar(encoder: SentenceEncoder, vectors: np.ndarray, count: int) -> list[tuple[float, int, int]]:
    """Return the ``count`` most similar pairs, best first: score, and places i < j. Few rows are in memory at once."""
    import torch

    best: list[tuple[float, int, int]] = []
    n = len(vectors)
    step = max(1, SCORES // n)
    for start in range(0, n - 1, step):
        rows = vectors[start : start + step]
        scores = encoder.similarity(rows, vectors[start:])
        scores[torch.ones_like(scores, dtype=torch.bool).tril()] = -torch.inf  # each pair once
        values, places = scores.flatten().topk(min(count, scores.numel()))
        for value, place in zip(values.tolist(), places.tolist(), strict=True):
            i, j = divmod(place, scores.shape[1])
            if i < j:
                best.append((value, start + i, start + j))
        best = nlargest(count, best, key=itemgetter(0))
    return best
