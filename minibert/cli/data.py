"""Flags that say what a file of examples holds, and how it is measured on; the same for `train` and `evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..training.loop import Evaluator
    from ..training.objectives import Softmax

FORMS = ("tsv", "csv", "jsonl", "parquet")
# What can be measured -> the score by which the best model is chosen.
SCORES = {"sts": "spearman", "nli": "accuracy", "triplets": "accuracy", "retrieval": "ndcg@10"}
LABELLED = ("sts", "nli")


def column(word: str) -> str | int:
    """A column by its number, or else by its name."""
    return int(word) if word.isdecimal() else word


def columns(words: str) -> list[str | int]:
    """Columns, with commas between them."""
    return [column(word) for word in words.split(",")]


def add_columns(parser: argparse._ActionsContainer, of: str = "", more: str = "") -> None:
    """What is where in a file; with ``of`` as "dev-" in front of each flag."""
    parser.add_argument(
        f"--{of}texts", type=columns, metavar="COLUMNS", help=f"columns of the texts, as 1,2 or question,answer{more}"
    )
    parser.add_argument(f"--{of}label", type=column, metavar="COLUMN", help="column of the score, or of the class")
    parser.add_argument(f"--{of}format", choices=FORMS, help="of the file (default: as its name ends)")


def make_evaluator(
    kind: str,
    path: Path,
    *,
    texts: list[str | int] | None,
    label: str | int | None,
    form: str | None,
    classes: Any = None,
    softmax: Softmax | None = None,
) -> Evaluator:
    """The evaluator of that kind on a file; for nli with its classifier and classes.

    Raises:
        ValueError: columns are not said; or as `read_examples`.
    """
    from ..training import evaluate
    from ..training.reading import STS_BENCHMARK, read_examples

    if kind == "sts" and texts is None and label is None:
        examples = read_examples(path, **STS_BENCHMARK | ({"form": form} if form else {}))
    else:
        if texts is None or (label is None and kind in LABELLED):
            raise ValueError(f"{path}: say which columns hold the texts{' and the label' * (kind in LABELLED)}")
        classes = classes if kind == "nli" else None
        examples = read_examples(
            path, texts=texts, label=label if kind in LABELLED else None, form=form, classes=classes
        )
    if kind == "nli":
        assert softmax is not None
        return evaluate.NLIEvaluator(examples, softmax.logits)
    if kind == "sts":
        return evaluate.STSEvaluator(examples)
    if kind == "triplets":
        return evaluate.TripletEvaluator(examples)
    return evaluate.RetrievalEvaluator.from_pairs(examples)
