"""Train a SparseEncoder: SPLADE's objective, which pays for every word that texts have in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..config import check_count
from ..retrieval.sparse_encoder import SparseEncoder
from ..tokenizer import Tokens
from .objectives import InBatchNegatives, Objective, check, loss
from .task import SentenceTask, padded

SCHEDULES = {"linear": 1, "quadratic": 2}  # powers of the share of the warm-up


def flops(vectors: Tensor, threshold: int | None = None) -> Tensor:
    """Return the sum over words of the squared mean weight (arXiv 2004.05665, equation 4). (B, V) -> scalar

    With a threshold, texts of at most so many words count as if they had none (arXiv 2504.14839, section 3.3).
    """
    if threshold is not None:
        vectors = vectors * ((vectors != 0).sum(1, keepdim=True) > threshold)
    return vectors.mean(0).square().sum()


class Splade(Objective):
    """Any objective, and the FLOPS of the first column (queries) and of the others (documents), weighted.

    The loss of SPLADE (arXiv 2109.10086, section 3.2), as sentence-transformers' SpladeLoss: its argument names, and
    the warm-up of its weights. In training they rise from 0 in the first ``warmup`` of the steps, to let the model
    learn before it forgets words. Outside of the loop the weights are full.

    Args:
        objective: None: `InBatchNegatives(1.0, "dot")`.
        query_regularizer_weight: None: queries are free, as those of static weights.
        document_regularizer_threshold, query_regularizer_threshold: See `flops`.
        use_document_regularizer_only: All columns are documents, together.
        warmup: A share of the steps, 0 to 1.
        schedule: "quadratic" or "linear".

    Raises:
        ValueError: a value is out of range, or the schedule is unknown.
    """

    def __init__(
        self,
        objective: nn.Module | None = None,
        *,
        document_regularizer_weight: float = 3e-5,
        query_regularizer_weight: float | None = 5e-5,
        document_regularizer_threshold: int | None = None,
        query_regularizer_threshold: int | None = None,
        use_document_regularizer_only: bool = False,
        warmup: float = 1 / 3,
        schedule: str = "quadratic",
    ) -> None:
        super().__init__()
        self.objective = InBatchNegatives(1.0, "dot") if objective is None else objective
        self.document_regularizer_weight = document_regularizer_weight
        self.query_regularizer_weight = query_regularizer_weight
        self.document_regularizer_threshold = document_regularizer_threshold
        self.query_regularizer_threshold = query_regularizer_threshold
        self.use_document_regularizer_only = use_document_regularizer_only
        self.warmup, self.schedule = warmup, schedule
        self._share = 1.0  # of the weights, now
        for name in ("document_regularizer_weight", "query_regularizer_weight"):
            if (weight := getattr(self, name)) is not None and not weight >= 0:
                raise ValueError(f"{name} must be at least 0, not {weight}")
        for name in ("document_regularizer_threshold", "query_regularizer_threshold"):
            check_count(name, getattr(self, name), optional=True)
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup must be from 0 to 1, not {warmup}")
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule must be {' or '.join(SCHEDULES)}, not {schedule!r:.80}")

    def check(self, columns: int, labels: Tensor | None) -> None:
        """Require queries and documents, and what the inner objective requires."""
        self._want_columns(columns, 2, or_more=True)
        check(self.objective, columns, labels)

    def begin_step(self, step: int, total: int) -> None:
        """Set the weights for this step."""
        steps = int(self.warmup * total)
        self._share = min(1.0, step / max(1, steps)) ** SCHEDULES[self.schedule] if self.warmup else 1.0

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None, texts: Tensor | None = None) -> Tensor:
        """Two or more of (B, V) -> scalar"""
        documents = vectors if self.use_document_regularizer_only else vectors[1:]
        cost = self.document_regularizer_weight * flops(torch.cat([*documents]), self.document_regularizer_threshold)
        if self.query_regularizer_weight is not None and not self.use_document_regularizer_only:
            cost = cost + self.query_regularizer_weight * flops(vectors[0], self.query_regularizer_threshold)
        return loss(self.objective, vectors, labels, texts) + self._share * cost


class SparseTask(SentenceTask):
    """Weights of words that minimise an objective: `SentenceTask` for a SparseEncoder, with the same arguments.

    Where the encoder has static weights for queries, the first column is looked up in them. They are trained too,
    unless they are frozen.
    """

    model: SparseEncoder

    def tokenize(self, number: int, column: Sequence[str]) -> Tokens:
        """Tokenise a column: for the static weights, or for the model."""
        static = self.model.static
        if number == 0 and static is not None and "query" in static.tasks:
            return static.tokenize(column)
        return super().tokenize(number, column)

    def _embed(self, tokens: Tokens, rows: np.ndarray) -> Tensor:
        static = self.model.static
        if tokens is self.tokens[0] and static is not None and "query" in static.tasks:
            batch = self.model._pad(tokens, rows)
            return static(batch["input_ids"], batch["attention_mask"])
        return self.model(**padded(self.model, tokens, rows))
