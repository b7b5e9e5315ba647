"""Make the model that ships inside the package: a small BERT with CLS pooling that gives a teacher's vectors.

    python tools/make_builtin DATA --work WORK               the recipe: hours
    python tools/make_builtin DATA --work WORK --search      short trainings of other sizes, for the card's table

DATA has the folders corpora (with the files that `corpora.CORPORA` lists), sts and nli, as for tools/quality; the
teacher is all-MiniLM-L6-v2. The phases are texts, the student's word pieces, the teacher's vectors, groups, training,
the folder, the suite of tools/quality and the model card. Each leaves its result in WORK, and an interrupted run
continues there. Seeds are fixed. What the suite scores is not trained on. It served to choose the kinds of texts and
pairs, `Kind.times` and `Stage.answers`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from minibert.checkpoint import builtin

from ..quality.command import run as run_suite
from . import card, publish
from .phases import Lessons, kept, make_trained
from .recipe import RECIPE
from .search import search
from .texts import count

TEACHER = "sentence-transformers/all-MiniLM-L6-v2"
ROUNDS = 9  # of the suite's rates


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all phases; those that are done are read from their files."""
    options = parse(arguments)
    torch.manual_seed(RECIPE.seed)
    lessons = Lessons(options.data, options.teacher, options.work, RECIPE.seed)
    if options.search:
        search(lessons)
        return 0
    student = make_trained(RECIPE, lessons, options.work, lessons.seconds)
    publish.write_folder(student, options.output)
    models = [options.teacher, str(options.output)]
    asked = argparse.Namespace(data=options.data, only=["*"], models=models, dims=RECIPE.widths[:-1], rounds=ROUNDS)
    suite = kept(options.work / "suite.json", lambda: run_suite(asked), lessons.seconds)
    counts = count(options.data / "corpora", lessons.drawn)
    card.write_card(options.output, suite, counts, lessons.seconds.spent)
    print(f"{options.output}: {publish.size(options.output) / 1e6:.2f} MB")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; the defaults make the model that is in the package."""
    parser = argparse.ArgumentParser(
        prog="python tools/make_builtin", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="the folder with corpora, sts and nli")
    parser.add_argument("--work", type=Path, required=True, help="where the phases leave their results")
    parser.add_argument("--teacher", default=TEACHER, help="a folder or a hub id (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=builtin.FOLDER, help="default: in the package")
    parser.add_argument("--search", action="store_true", help="train and score `search.VARIANTS`, and make no model")
    return parser.parse_args(arguments)
