"""Train a MultiVectorEncoder: ColBERT's contrastive objective, and two that learn from a teacher's scores.

They are those of sentence-transformers 6: MultiVectorMultipleNegativesRankingLoss, MultiVectorDistillKLDivLoss and
MultiVectorMarginMSELoss. The first column has queries, the others documents. ``mean`` divides by the query's tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ..retrieval.late import EMPTY
from ..retrieval.multi_vector_encoder import SETTINGS, MultiVectorEncoder
from ..text_model import DOCUMENT, QUERY
from ..tokenizer import Tokens
from . import parallel
from .examples import Examples
from .objectives import InBatchNegatives, Objective
from .task import SentenceTask, padded


class TokenColumn(NamedTuple):
    """The token vectors of a column of texts, and which of them count."""

    vectors: Tensor  # (B, S, D)
    mask: Tensor  # bool (B, S)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.vectors.device


def token_scores(queries: TokenColumn, documents: TokenColumn, *, mean: bool, pairs: bool = False) -> Tensor:
    """Compute MaxSim with gradients, of all queries and documents (B, M), or of ``pairs`` (B,)."""
    product = "bsd,btd->bst" if pairs else "bsd,mtd->bmst"
    similarities = torch.einsum(product, queries.vectors, documents.vectors)
    real = documents.mask[:, None]  # (M, 1, S)
    best = similarities.masked_fill(~real, torch.finfo(similarities.dtype).min).max(-1).values
    asked = queries.mask if pairs else queries.mask[:, None]
    scores = (best * asked).sum(-1).masked_fill(~documents.mask.any(-1), EMPTY)
    return scores / asked.sum(-1).clamp(min=1) if mean else scores


class LateInBatchNegatives(InBatchNegatives):
    """`InBatchNegatives` of MaxSim: cross-entropy of softmax(scale * score). ColBERT's."""

    def __init__(self, scale: float = 1.0, *, mean: bool = False) -> None:
        super().__init__(scale)
        self.similarity, self.mean = "maxsim", mean

    def scores(self, vectors: Sequence[Any]) -> Tensor:
        """Score every query against every document. -> (B, candidates)"""
        return torch.cat([token_scores(vectors[0], documents, mean=self.mean) for documents in vectors[1:]], 1)


class LateDistillation(Objective):
    """Softmax over a query's own documents as the teacher's: KL divergence (arXiv 2112.01488, section 3.1).

    Labels (B, documents): the teacher's scores. Both are divided by a temperature, and the loss is multiplied by the
    square of the student's. Raises ValueError for a temperature that is not above 0 and finite.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        student_temperature: float | None = None,
        teacher_temperature: float | None = None,
        mean: bool = False,
    ) -> None:
        super().__init__()
        self.student_temperature = temperature if student_temperature is None else student_temperature
        self.teacher_temperature = temperature if teacher_temperature is None else teacher_temperature
        self.mean = mean
        for name in ("student_temperature", "teacher_temperature"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, not {value}")

    def check(self, columns: int, labels: Tensor | None) -> Tensor:
        """Require a query, two documents or more, and a score of each document."""
        self._want_columns(columns, 3, or_more=True)
        labels = self._want_labels(labels, "a teacher's scores, floating-point (N, documents)", ndim=2)
        if labels.shape[1] != columns - 1:
            raise ValueError(f"{type(self).__name__} needs a score per document, {columns - 1}, not {labels.shape[1]}")
        return labels

    def forward(self, vectors: Sequence[Any], labels: Tensor | None = None) -> Tensor:
        """A `TokenColumn` per column, scores (B, documents) -> scalar"""
        labels = self.check(len(vectors), labels)
        query, *documents = vectors
        scores = torch.stack([token_scores(query, one, mean=self.mean, pairs=True) for one in documents], 1)
        student = (scores / self.student_temperature).log_softmax(-1)
        teacher = (labels.to(scores.dtype) / self.teacher_temperature).log_softmax(-1)
        loss = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return loss * self.student_temperature**2


class LateMarginMSE(Objective):
    """How much better the first document is than each other: the mean square distance from the teacher's margins.

    (arXiv 2010.02666, equation 7.) Labels: margins (B,) or (B, others), or scores of all documents (B, 1 + others).
    """

    def __init__(self, *, mean: bool = False) -> None:
        super().__init__()
        self.mean = mean

    def check(self, columns: int, labels: Tensor | None) -> Tensor:
        """Require a query, a positive, one or more others, and their margins or scores."""
        self._want_columns(columns, 3, or_more=True)
        ndim = 2 if labels is None or columns > 3 else min(labels.ndim, 2)
        labels = self._want_labels(labels, "margins or scores, floating-point (N, documents)", ndim=max(ndim, 1))
        labels = labels[:, None] if labels.ndim == 1 else labels
        if labels.shape[1] not in (columns - 2, columns - 1):
            wanted = f"{columns - 2} margins or {columns - 1} scores"
            raise ValueError(f"{type(self).__name__} needs {wanted} per row, not {labels.shape[1]}")
        return labels if labels.shape[1] == columns - 2 else labels[:, :1] - labels[:, 1:]

    def forward(self, vectors: Sequence[Any], labels: Tensor | None = None) -> Tensor:
        """A `TokenColumn` per column, labels -> scalar"""
        margins = self.check(len(vectors), labels)
        first, *others = (token_scores(vectors[0], one, mean=self.mean, pairs=True) for one in vectors[1:])
        own = torch.stack([first - other for other in others], 1)
        return functional.mse_loss(own, margins.to(own.dtype))


class LateTask(SentenceTask):
    """Token vectors that minimise an objective of this file: `SentenceTask` for a MultiVectorEncoder, same arguments.

    The first column is tokenised as `encode_query` does, with its prompt and expansion, the others as documents.
    Raises ValueError as that, and for an encoder with a token pooling, through which nothing is learned here.
    """

    model: MultiVectorEncoder

    def __init__(self, encoder: MultiVectorEncoder, objective: Objective, examples: Examples, **options: Any) -> None:
        super().__init__(encoder, objective, examples, **options)
        if encoder.token_pooling is not None:
            raise ValueError("train without token pooling: set encoder.token_pooling = None, and back afterwards")
        tasks = ["query", *["document"] * len(self.tokens)]
        self.counts = [encoder.counts(tokens, task) for tokens, task in zip(self.tokens, tasks, strict=False)]

    def tokenize(self, number: int, column: Sequence[str]) -> Tokens:
        """Tokenise a column, with its prompt."""
        task, names = ("document", DOCUMENT) if number else ("query", QUERY)
        words = self.model._prompt_for(names, {})["prompt"]
        return self.model._tokenize([words + text for text in column], None, {"task": task})

    def loss(self, rows: np.ndarray) -> Tensor:
        """Return the loss of the whole batch, on every process; each embeds its share of the rows."""
        own, columns = parallel.share(rows), []
        for tokens, counts in zip(self.tokens, self.counts, strict=True):
            lengths = tokens.lengths[rows, None]
            places = np.arange(lengths.max())
            mask = (places < lengths) & counts[np.minimum(tokens.starts[rows, None] + places, len(counts) - 1)]
            x = _widened(self.embed(tokens, own), len(places))
            vectors = parallel.gather(x.flatten(1), len(rows)).unflatten(1, x.shape[1:])
            columns.append(TokenColumn(vectors, torch.from_numpy(mask).to(x.device)))
        return self.of_vectors(columns, rows)  # type: ignore[arg-type]

    def embed(self, tokens: Tokens, rows: np.ndarray) -> Tensor:
        """Return the token vectors of one column, (B, S, D); in chunks as `SentenceTask` does."""
        size = self.chunk_size or len(rows)
        if len(rows) <= size:
            return self._embed(tokens, rows)
        chunks = np.split(rows, range(size, len(rows), size))
        parts = [checkpoint(self._embed, tokens, chunk, use_reentrant=False) for chunk in chunks]
        return torch.cat([_widened(x, max(part.shape[1] for part in parts)) for x in parts])

    def _embed(self, tokens: Tokens, rows: np.ndarray) -> Tensor:
        vectors: Tensor = self.model(**padded(self.model, tokens, rows))
        return vectors

    def identity(self) -> dict[str, Any]:
        """Return data, model, objective, and what decides on tokens."""
        return {**super().identity(), "settings": [str(getattr(self.model, name)) for name in SETTINGS]}


def _widened(x: Tensor, width: int) -> Tensor:
    """Add padding. (B, S, D) -> (B, width, D)"""
    return functional.pad(x, (0, 0, 0, width - x.shape[1]))
