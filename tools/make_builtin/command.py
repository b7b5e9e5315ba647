"""Make the model that ships inside the package: a small BERT with CLS pooling that gives a teacher's vectors.

    python tools/make_builtin DATA --work WORK

DATA has the folders corpora (with the files that `corpora.CORPORA` lists), sts and nli, as for tools/quality; the
teacher is all-MiniLM-L6-v2. The phases are texts, the student's word pieces, the teacher's vectors, groups, training,
the folder, the suite of tools/quality and the model card. Each leaves its result in WORK, and an interrupted run
continues there. Seeds are fixed. What the suite scores is neither trained on nor used to choose among weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from minibert import SentenceEncoder
from minibert.checkpoint import builtin
from minibert.checkpoint.save import write_json

from ..quality.command import run as run_suite
from . import card, publish
from .groups import list_texts, make_groups
from .recipe import RECIPE
from .student import cut_neurons, make_student
from .teacher import teacher_vectors
from .texts import Texts, count, take_texts
from .training import train_student
from .vocabulary import choose_pieces, cut_tokenizer

TEACHER = "sentence-transformers/all-MiniLM-L6-v2"
Result = TypeVar("Result")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all phases; those that are done are read from their files."""
    options = parse(arguments)
    torch.manual_seed(RECIPE.seed)
    work: Path = options.work
    corpora, sts = options.data / "corpora", options.data / "sts" / "sts-dev.csv"
    work.mkdir(parents=True, exist_ok=True)
    seconds = Seconds(work / "seconds.json")
    drawn = Texts.of(kept(work / "texts.json", lambda: take_texts(corpora, RECIPE.seed), seconds))
    texts = list_texts(drawn)
    # Products in bfloat16 move the teacher's vectors by about 1e-3, far less than the student's own error.
    fast = SentenceEncoder.from_pretrained(options.teacher, dtype="bfloat16", truncation="silent")
    pieces = kept(work / "pieces.json", lambda: choose_pieces(fast, texts, RECIPE.pieces), seconds)
    with seconds("teacher"):
        vectors = teacher_vectors(fast, texts, work / "teacher")
    groups = np.array(kept(work / "groups.json", lambda: make_groups(drawn, texts, vectors, RECIPE.seed), seconds))
    teacher = SentenceEncoder.from_pretrained(options.teacher, truncation="silent")
    tokenizer = cut_tokenizer(teacher, pieces, work / "tokenizer")
    student = make_student(teacher, tokenizer, pieces, RECIPE.layers)
    for stage in RECIPE.stages:
        student = cut_neurons(student, stage.intermediate, drawn.sentences[: RECIPE.sample])
        done = work / f"student-{stage.name}.pt"
        if not done.exists():
            with seconds(f"training {stage.name}"):
                data = texts, vectors, groups
                train_student(student, *data, RECIPE, stage, work / f"training-{stage.name}", sts)
            torch.save(student.state_dict(), done)
        student.load_state_dict(torch.load(done, weights_only=True))
    publish.write_folder(student, options.output)
    models = [options.teacher, str(options.output)]
    asked = argparse.Namespace(data=options.data, only=["*"], models=models, dims=RECIPE.widths[:-1], rounds=9)
    suite = kept(work / "suite.json", lambda: run_suite(asked), seconds)
    card.write_card(options.output, suite, count(corpora, drawn), seconds.spent)
    print(f"{options.output}: {publish.size(options.output) / 1e6:.2f} MB")
    return 0


class Seconds:
    """The seconds of each phase, summed over interrupted runs: ``with seconds("training"): ...``"""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spent: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time spent inside, also where it is interrupted."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.spent[phase] = self.spent.get(phase, 0) + time.perf_counter() - started
            write_json(self.spent, self.path)


def kept(path: Path, make: Callable[[], Result], seconds: Seconds) -> Result:
    """Return the content of a JSON file, which is made first where it is missing."""
    if not path.exists():
        with seconds(path.stem):
            write_json(make(), path)
    result: Result = json.loads(path.read_text(encoding="utf-8"))
    return result


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; the defaults make the model that is in the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with corpora, sts and nli")
    parser.add_argument("--work", type=Path, required=True, help="where the phases leave their results")
    parser.add_argument("--teacher", default=TEACHER, help="a folder or a hub id (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=builtin.FOLDER, help="default: in the package")
    return parser.parse_args(arguments)
