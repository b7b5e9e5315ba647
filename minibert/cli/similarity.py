"""`minibert similarity`: every text compared with every other."""

from __future__ import annotations

import argparse
from typing import Any

from ..display import shorten, table
from .options import add_encoder, add_texts, load_encoder, read_texts, report_truncation


def add_command(commands: Any) -> None:
    """Add it to the parser."""
    parser = commands.add_parser(
        "similarity",
        help="how similar texts are",
        description="Compare every text with every other, by the checkpoint's similarity (mostly the cosine).",
    )
    add_texts(parser)
    add_encoder(parser)
    parser.set_defaults(run=_similarity)


def _similarity(options: argparse.Namespace) -> None:
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
