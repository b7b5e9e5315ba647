"""Compare every text with every other, by the checkpoint's similarity (mostly the cosine)."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from ..config import check_count
from ..display import shorten, table
from .options import add_encoder, add_texts, load_encoder, read_texts, report_truncation

HELP = "how similar texts are"
MOST = 50  # texts that are shown as a matrix


def add_flags(parser: ArgumentParser) -> None:
    """Add texts, encoder, and the number of pairs."""
    add_texts(parser)
    add_encoder(parser)
    text = f"show the N most similar pairs, not the matrix (default: 20 for more than {MOST} texts)"
    parser.add_argument("--top", type=int, metavar="N", help=text)


def run(options: Namespace) -> None:
    """Print a matrix of all pairs, or a list of the most similar ones."""
    check_count("top", options.top, optional=True)
    from ..bulk.mining import paraphrase_mining_embeddings

    [texts] = read_texts(options)
    if len(texts) < 2:
        raise ValueError("similarity needs at least two texts")
    encoder = load_encoder(options)
    shown = sys.stderr.isatty() and len(texts) > 100
    vectors = encoder.encode(texts, batch_size=options.batch_size, show_progress_bar=shown)
    report_truncation(encoder.truncation_report, options.truncation)
    rows: list[list[object]] = []
    if options.top is None and len(texts) <= MOST:
        rows = [["", "", *range(1, len(texts) + 1)]]
        for i, scores in enumerate(encoder.similarity(vectors, vectors).tolist()):
            rows.append([i + 1, shorten(texts[i], 48), *(f"{score:.3f}" for score in scores)])
        print(table(rows, left=(1,)))
        return
    most = options.top or 20
    pairs = paraphrase_mining_embeddings(vectors, max_pairs=most, top_k=most, score_function=encoder.similarity)
    if options.top is None:
        total = len(texts) * (len(texts) - 1) // 2
        print(f"minibert: the {len(pairs)} most similar of {total:,} pairs (--top N shows more)", file=sys.stderr)
    rows = [
        [f"{score:.3f}", i + 1, shorten(texts[int(i)], 48), j + 1, shorten(texts[int(j)], 48)] for score, i, j in pairs
    ]
    print(table(rows, left=(2, 4)))
