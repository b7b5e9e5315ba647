"""Train the student to return the teacher's vectors, and the teacher's similarities within a batch."""

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
    """Read the STS Benchmark as published: score and sentences are the 5th, 6th and 7th column, tab separated."""
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
    """Train in place, from the folder's checkpoint if there is one. Return the log's records.

    The last step's weights are kept. The scores on the way are only reported.
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
