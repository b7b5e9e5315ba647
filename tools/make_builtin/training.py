"""The student learns to give the teacher's vectors, and to find texts as alike as the teacher does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minibert import SentenceEncoder
from minibert.training import Combined, Examples, SentenceTask, Settings, SimilarityMatrix, TeacherVectors, train
from minibert.training.evaluate import STSEvaluator
from minibert.training.reading import read_examples

from .recipe import Recipe, Stage

EVERY = 250  # steps between looks at the STS Benchmark, and between checkpoints


def read_sts(path: Path) -> STSEvaluator:
    """The STS Benchmark's own form: tab separated; score and sentences are the 5th, 6th and 7th column."""
    return STSEvaluator(read_examples(path, texts=[6, 7], label=5, form="tsv"))


def train_student(
    student: SentenceEncoder,
    sentences: Sequence[str],
    vectors: np.ndarray,
    recipe: Recipe,
    stage: Stage,
    folder: Path,
    sts: Path,
) -> list[dict[str, Any]]:
    """Train in place, going on from a checkpoint in the folder; the log's records.

    What counts are the last step's weights: the scores on the way are for the reader.
    """
    objective = Combined([TeacherVectors("cosine"), SimilarityMatrix()])
    task = SentenceTask(student, objective, Examples([sentences], torch.from_numpy(vectors)))
    settings = Settings(
        steps=stage.steps,
        batch_size=recipe.batch_size,
        learning_rate=stage.learning_rate,
        warmup=recipe.warmup,
        weight_decay=0.0,
        autocast="bfloat16",
        seed=recipe.seed,
    )
    return train(
        task,
        settings,
        folder=folder,
        evaluate=read_sts(sts),
        score="spearman",
        evaluate_every=EVERY,
        save_every=EVERY,
        resume=(folder / "checkpoint.pt").exists(),
        show_progress_bar=True,
    )
