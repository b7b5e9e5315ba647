"""Score a model on texts whose similarities are known. All scores are times 100."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..display import table
from .options import add_columns, add_encoder, load_encoder

if TYPE_CHECKING:
    from ..training.loop import Evaluator

HELP = "how good a model is, on a file"
EXAMPLES = """\
examples:
  minibert evaluate sts sts-dev.csv --model runs/first/model       the STS Benchmark's file, as published
  minibert evaluate sts pairs.jsonl --texts sentence1,sentence2 --label score
  minibert evaluate triplets triplets.tsv --texts 1,2,3            anchor, positive, negative
  minibert evaluate retrieval faq.csv --texts question,answer      each question among all answers

sts        correlations of cosines with human scores: Spearman's, which papers quote, and Pearson's
triplets   the share of triplets whose positive is more similar than their negative
retrieval  at k: the share of questions with an answer among the first k (accuracy), the share of a question's answers
           among them (recall), 1 / rank of the first (mrr), and the ranks of all of them (ndcg)"""

# Kind of evaluation -> the score that selects the best model.
SCORES = {"sts": "spearman", "nli": "accuracy", "triplets": "accuracy", "retrieval": "ndcg@10"}


def add_flags(parser: ArgumentParser) -> None:
    """Add kind, file, columns and encoder."""
    parser.add_argument("kind", choices=("sts", "triplets", "retrieval"), help="see below")
    parser.add_argument("file", type=Path, metavar="FILE", help=".tsv, .csv, .jsonl (also with .gz) or .parquet")
    add_columns(parser, more="; names are in the first line (default: the STS Benchmark's)")
    add_encoder(parser)


def run(options: Namespace) -> None:
    """Print the scores."""
    if options.label is not None and options.kind != "sts":
        raise ValueError(f"--label is of sts: {options.kind} reads none")
    evaluator = make_evaluator(options.kind, options.file, options.texts, options.label, options.format)
    encoder = load_encoder(options)
    if options.truncation == "report":
        encoder.truncation = "warn"  # once for each of several calls of encode
    scores = evaluator(encoder)
    print(f"{options.model}, pooling {encoder.pooling.extra_repr()}, {options.kind} on {options.file.name}")
    print(table([(name, f"{100 * value:.2f}") for name, value in scores.items()]))


def make_evaluator(
    kind: str, path: Path, texts: Any, label: Any, form: str | None, classes: Any = None, classifier: Any = None
) -> Evaluator:
    """Return the evaluator of that kind on a file; kind "nli" needs a classifier and its classes.

    Raises:
        ValueError: The columns or the classifier are not given; or as `read_examples`.
    """
    from ..training import evaluate
    from ..training.reading import STS_BENCHMARK, read_examples

    if kind == "nli" and classifier is None:
        raise ValueError("an evaluation as nli needs the classifier that --objective softmax trains")
    if kind == "sts" and texts is None and label is None:
        return evaluate.STSEvaluator(read_examples(path, **STS_BENCHMARK | ({"form": form} if form else {})))
    labelled = kind in ("sts", "nli")
    if texts is None or (labelled and label is None):
        raise ValueError(f"{path}: say which columns hold the texts{' and the label' if labelled else ''}")
    columns = {"label": label if labelled else None, "classes": classes if kind == "nli" else None}
    examples = read_examples(path, texts=texts, form=form, **columns)
    if kind == "nli":
        return evaluate.NLIEvaluator(examples, classifier)
    if kind == "retrieval":
        return evaluate.RetrievalEvaluator.from_pairs(examples)
    return evaluate.STSEvaluator(examples) if kind == "sts" else evaluate.TripletEvaluator(examples)
