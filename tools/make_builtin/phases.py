"""The phases of the recipe. Each leaves its result in a folder, and an interrupted run goes on from there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from minibert import SentenceEncoder
from minibert.checkpoint.save import write_json

from .groups import list_texts, make_groups
from .recipe import Recipe
from .student import cut_neurons, make_student
from .teacher import teacher_vectors
from .texts import Texts, take_texts
from .training import train_student
from .vocabulary import choose_pieces, cut_tokenizer

Result = TypeVar("Result")


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


@dataclass
class Lessons:
    """What every student of a seed learns from: texts, the teacher's vectors for them, and groups of texts.

    Attributes:
        data: The folder with corpora, sts and nli.
        name: The teacher's, or its folder.
        work: Where the results are left.
    """

    data: Path
    name: str
    work: Path
    seed: int

    @cached_property
    def seconds(self) -> Seconds:
        """Those that the phases take."""
        self.work.mkdir(parents=True, exist_ok=True)
        return Seconds(self.work / "seconds.json")

    @cached_property
    def drawn(self) -> Texts:
        """The texts by what they are."""
        corpora = self.data / "corpora"
        return Texts.of(kept(self.work / "texts.json", lambda: take_texts(corpora, self.seed), self.seconds))

    @cached_property
    def texts(self) -> list[str]:
        """All of them, none twice."""
        return list_texts(self.drawn)

    @cached_property
    def fast(self) -> SentenceEncoder:
        """The teacher. Products in bfloat16 move its vectors by about 1e-3, far less than a student's own error."""
        return SentenceEncoder.from_pretrained(self.name, dtype="bfloat16", truncation="silent")

    @cached_property
    def vectors(self) -> np.ndarray:
        """The teacher's, float16 (texts, D)."""
        with self.seconds("teacher"):
            return teacher_vectors(self.fast, self.texts, self.work / "teacher")

    @cached_property
    def groups(self) -> np.ndarray:
        """Indices of texts and the number of a kind, (R, 4), as `make_groups` returns them."""
        given = self.drawn, self.texts, self.vectors, self.seed
        return np.array(kept(self.work / "groups.json", lambda: make_groups(*given), self.seconds))


def make_trained(recipe: Recipe, lessons: Lessons, folder: Path, seconds: Seconds) -> SentenceEncoder:
    """Return a student that has gone through all stages of a recipe; ``folder`` keeps each stage's end."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pieces.json"
    pieces = kept(path, lambda: choose_pieces(lessons.fast, lessons.texts, recipe.pieces), seconds)
    data = lessons.texts, lessons.vectors, lessons.groups
    teacher = SentenceEncoder.from_pretrained(lessons.name, truncation="silent")
    student = make_student(teacher, cut_tokenizer(teacher, pieces, folder / "tokenizer"), pieces, recipe.layers)
    stages = list(enumerate(recipe.stages, 1))
    first = max((place for place, (number, _) in enumerate(stages) if _end(folder, number).exists()), default=0)
    for number, stage in stages[first:]:
        student = cut_neurons(student, stage.intermediate, lessons.drawn.sentences[: recipe.sample])
        if not _end(folder, number).exists():
            with seconds(f"stage {number}"):
                sts = lessons.data / "sts" / "sts-dev.csv"
                train_student(student, *data, recipe, stage, folder / f"training-{number}", sts)
            torch.save(student.state_dict(), _end(folder, number))
        student.load_state_dict(torch.load(_end(folder, number), weights_only=True))
    return student


def _end(folder: Path, number: int) -> Path:
    """Return the file of the weights at the end of a stage."""
    return folder / f"student-{number}.pt"
