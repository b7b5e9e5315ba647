"""`minibert evaluate`: how good an encoder is, on a file."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

from ..display import table
from .data import add_columns, make_evaluator
from .options import add_model, encoder_of

EXAMPLES = """\
examples:
  minibert evaluate sts sts-dev.csv --model runs/first/model       the STS Benchmark's file, as published
  minibert evaluate sts pairs.jsonl --texts sentence1,sentence2 --label score
  minibert evaluate triplets triplets.tsv --texts 1,2,3            anchor, positive, negative
  minibert evaluate retrieval faq.csv --texts question,answer      each question among all answers

sts        correlations of cosines with people's scores: Spearman's, which papers quote, and Pearson's
triplets   the share of triplets whose positive is nearer than their negative
retrieval  at k: whether an answer is among the first k (accuracy), which share of a question's answers is (recall),
           1 / place of the first (mrr), and how high all of them stand (ndcg)"""


def add_commands(commands: Any) -> None:
    """Put it below the parser."""
    parser = commands.add_parser(
        "evaluate",
        help="how good a model is, on a file",
        description="Score a model on texts for which it is known what is alike. All scores are times 100.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=("sts", "triplets", "retrieval"), help="what is measured, see below")
    parser.add_argument("file", type=Path, metavar="FILE", help=".tsv, .csv, .jsonl (also with .gz) or .parquet")
    add_columns(parser, more="; a column that is told by its name is in the first line (default: the STS Benchmark's)")
    add_model(parser)
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    columns = {"texts": options.texts, "label": options.label, "form": options.format}
    evaluator = make_evaluator(options.kind, options.file, **columns)
    encoder = encoder_of(options)
    if options.truncation == "report":
        encoder.truncation = "warn"  # once for each of several calls of encode
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        scores = evaluator(encoder)
    for message in dict.fromkeys(str(warning.message) for warning in said):
        print(f"minibert: {message}", file=sys.stderr)
    print(f"{options.model}, pooling {encoder.pooling.extra_repr()}, {options.kind} on {options.file.name}")
    print(table([(name, f"{100 * value:.2f}") for name, value in scores.items()]))
