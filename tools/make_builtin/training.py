"""Train the student to return the teacher's vectors, and the teacher's similarities and rankings within a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minibert import SentenceEncoder
from minibert.batches import plan_batches
from minibert.training import (
    Combined,
    Examples,
    InBatchNegatives,
    Matryoshka,
    SentenceTask,
    Settings,
    SimilarityMatrix,
    SimilarityRanking,
    TeacherVectors,
    train,
)
from minibert.training.evaluate import STSEvaluator
from minibert.training.objectives import loss
from minibert.training.reading import read_examples

from .recipe import Recipe, Stage

EVERY = 250  # steps between looks at the STS Benchmark, and between checkpoints
TOGETHER = 8192, 1024  # tokens that are embedded at a time; tokens of padding that a batch more may save


class GroupTask(SentenceTask):
    """A SentenceTask whose rows are groups of texts. A batch holds the different texts of its groups.

    ``groups`` (R, 4) are as `make_groups` returns them. A batch has pairs of one kind, or none, and of like lengths:
    among passages of its own kind, that of a query is harder to find.

    The mean of the weights of the latest steps is kept too: an exponential average, as of ``average`` steps.
    ``answers`` is added to the loss: an objective of the groups of three, a query, its passage, and a hard negative.
    """

    def __init__(
        self,
        encoder: SentenceEncoder,
        objective: nn.Module,
        examples: Examples,
        groups: np.ndarray,
        average: int,
        answers: nn.Module | None = None,
    ) -> None:
        super().__init__(encoder, objective, examples)
        self.answers = answers
        self.groups, self.kinds, self.each = groups[:, :3], groups[:, 3], self.lengths  # tokens of each text
        self.lengths = np.where(self.groups < 0, 0, self.each[self.groups]).sum(1)  # of each group
        self.keep = 1 - 1 / average
        self.mean = nn.Module()
        for name, value in encoder.named_parameters():
            self.mean.register_buffer(name.replace(".", "/"), value.detach().clone())

    @property
    def sort_key(self) -> np.ndarray:
        """Sort by kind, then by length."""
        return self.kinds * (1 + self.lengths.max()) + self.lengths

    def begin_step(self, step: int, total: int) -> None:
        """Add the weights to their mean."""
        super().begin_step(step, total)
        keep = min(self.keep, step / (step + 10))
        for name, value in self.model.named_parameters():
            self.mean.get_buffer(name.replace(".", "/")).lerp_(value.detach(), 1 - keep)

    def take_mean(self) -> None:
        """Set the weights to their mean."""
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                value.copy_(self.mean.get_buffer(name.replace(".", "/")))

    def loss(self, rows: np.ndarray) -> Tensor:
        """Return the loss of all different texts of these groups; texts of near-equal length are embedded together."""
        groups = self.groups[rows]
        texts = np.unique(groups[groups >= 0])
        parts = [texts[part] for part in plan_batches(self.each[texts], max_tokens=TOGETHER[0], overhead=TOGETHER[1])]
        vectors, texts = torch.cat([self.embed(self.tokens[0], part) for part in parts]), np.concatenate(parts)
        found = self.of_vectors([vectors], texts)
        threes = groups[groups[:, 2] >= 0]
        if self.answers is None or not len(threes):
            return found
        order = np.argsort(texts)
        places = torch.from_numpy(order[np.searchsorted(texts, threes, sorter=order)])
        with torch.autocast(vectors.device.type, enabled=False):
            columns = list(vectors[places].unbind(1))
            return found + loss(self.answers, columns, None, torch.from_numpy(threes))

    def identity(self) -> dict[str, Any]:
        """Return the groups too."""
        digest = hashlib.sha256(np.column_stack([self.groups, self.kinds]).data).hexdigest()[:16]
        return {**super().identity(), "groups": digest, "keep": self.keep, "answers": repr(self.answers)}


def read_sts(path: Path) -> STSEvaluator:
    """Read the STS Benchmark as published: score and sentences are the 5th, 6th and 7th column, tab separated."""
    return STSEvaluator(read_examples(path, texts=[6, 7], label=5, form="tsv"))


def train_student(
    student: SentenceEncoder,
    texts: Sequence[str],
    vectors: np.ndarray,
    groups: np.ndarray,
    recipe: Recipe,
    stage: Stage,
    folder: Path,
    sts: Path,
) -> list[dict[str, Any]]:
    """Train in place, from the folder's checkpoint if there is one. Return the log's records.

    The mean of the last steps' weights is kept. The scores on the way are only reported.
    """
    similarities = [
        Matryoshka(own, recipe.widths) for own in (SimilarityMatrix(), SimilarityRanking(recipe.temperature))
    ]
    objective = Combined([TeacherVectors("cosine"), *similarities], recipe.weights)
    answers = None
    if stage.answers:
        answers = Combined([Matryoshka(InBatchNegatives(1 / recipe.temperature), recipe.widths)], [stage.answers])
        groups = np.concatenate([groups, groups[groups[:, 2] >= 0]])  # pairs come twice as often
    task = GroupTask(student, objective, Examples([texts], torch.from_numpy(vectors)), groups, recipe.average, answers)
    settings = Settings(
        steps=stage.steps,
        batch_size=recipe.batch_size,
        learning_rate=stage.learning_rate,
        warmup=recipe.warmup,
        weight_decay=0.0,
        autocast="bfloat16",
        seed=recipe.seed,
    )
    records = train(
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
    task.take_mean()
    return records
