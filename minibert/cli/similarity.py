"""Compare every text with every other, by the checkpoint's similarity (mostly the cosine)."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..display import shorten, table
from .options import add_encoder, add_texts, load_encoder, read_texts, report_truncation

HELP = "how similar texts are"


def add_flags(parser: ArgumentParser) -> None:
    """Add texts and encoder."""
    add_texts(parser)
    add_encoder(parser)


def run(options: Namespace) -> None:
    """Print a table of all pairs."""
    texts = read_texts(options)
    if len(texts) < 2:
        raise ValueError("similarity needs at least two texts")
    encoder = load_encoder(options)
    vectors = encoder.encode(texts, batch_size=options.batch_size)
    report_truncation(encoder.truncation_report, options.truncation)
    rows: list[list[object]] = [["", "", *range(1, len(texts) + 1)]]
    for i, scores in enumerate(encoder.similarity(vectors, vectors).tolist()):
        rows.append([i + 1, shorten(texts[i], 48), *(f"{score:.3f}" for score in scores)])
    print(table(rows, left=(1,)))
