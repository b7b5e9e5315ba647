"""Learn from a teacher: its vectors, how alike it finds texts, or what its layers compute.

A teacher's vectors are labels, (N, T), computed once with its `encode`; only `LayerTask` runs the teacher itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..encoder import SentenceEncoder
from ..research.hooks import capture
from ..vectors import cosine
from . import parallel
from .examples import Examples
from .objectives import Combined, Objective, want_labels
from .task import SentenceTask, padded


class TeacherVectors(Objective):
    """The student's vector where the teacher's is. Vectors (B, D) per column, labels (B, T) -> scalar

    Every column's vectors are to be the row's label (a text and its translation: arXiv 2004.09813); the mean over all.

    Args:
        metric: "mse": the mean square of all differences; "cosine": 1 - cos.
        widths: (D, T): put a learned linear layer from D to T after the student, for training only. None: D = T.
    """

    def __init__(self, metric: str = "mse", widths: tuple[int, int] | None = None) -> None:
        super().__init__()
        if metric not in ("mse", "cosine"):
            raise ValueError(f"metric must be mse or cosine, not {metric!r}")
        self.metric = metric
        self.projection = None if widths is None else nn.Linear(*widths)

    def check(self, columns: int, labels: Tensor | None) -> None:
        """A teacher's vector per row."""
        labels = want_labels(self, labels, "a teacher's vector (N, T)", ndim=2)
        if not labels.is_floating_point():
            raise ValueError(f"a teacher's vectors are floating-point numbers, not {labels.dtype}")

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Vectors (B, D) per column, labels (B, T) -> scalar; ValueError where the widths do not fit."""
        self.check(len(vectors), labels)
        assert labels is not None
        x = project(torch.cat(list(vectors)), self.projection, labels.shape[-1])
        target = labels.to(x.dtype).repeat(len(vectors), 1)
        if self.metric == "mse":
            return functional.mse_loss(x, target)
        return (1 - functional.cosine_similarity(x, target)).mean()

    def extra_repr(self) -> str:
        """What print shows."""
        return f"metric={self.metric}"


class SimilarityMatrix(TeacherVectors):
    """Find texts as alike as the teacher does: the mean square difference of all cosines within the batch, (B, B).

    As the similarity-preserving loss (arXiv 1907.09682, equation 4), with cosines in place of rescaled dot products.
    The widths may differ: only similarities are compared. Each column has a matrix of its own; labels (B, T) -> scalar
    """

    def __init__(self) -> None:
        super().__init__("cosine")

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Vectors (B, D) per column, labels (B, T) -> scalar"""
        self.check(len(vectors), labels)
        assert labels is not None
        target = cosine(labels, labels).to(vectors[0].dtype)
        return torch.stack([functional.mse_loss(cosine(x, x), target) for x in vectors]).mean()


def project(x: Tensor, projection: nn.Linear | None, width: int) -> Tensor:
    """Through the projection if there is one. (..., D) -> (..., T)

    Vectors that `Matryoshka` cut use the first columns of the weights.

    Raises:
        ValueError: the result does not have that width.
    """
    if projection is not None:
        x = functional.linear(x.to(projection.weight.dtype), projection.weight[:, : x.shape[-1]], projection.bias)
    if x.shape[-1] != width:
        raise ValueError(
            f"the student's width is {x.shape[-1]}, the teacher's {width}: give the objective widths=(student's, "
            "teacher's), so that it learns a projection, or compare similarities (SimilarityMatrix)"
        )
    return x


class LayerTask(SentenceTask):
    """Layers of the student imitate layers of the teacher: the mean square difference of their token vectors.

    As TinyBERT's hidden states (arXiv 1909.10351, equation 8). Padding does not count; where the widths differ, each
    student's layer has a learned projection, for training only.

    Args:
        encoder: The student.
        teacher: Only watched; it must cut the same texts into as many tokens.
        layers: {student's layer: teacher's layer}, from 0.
        examples: Texts; and labels, if the ``objective`` wants them.
        objective: Of the sentence vectors, added to the layers' loss. None: only the layers.
        weight: A factor of the layers' loss.

    Raises:
        ValueError: a layer does not exist, or the tokens differ in number.
    """

    def __init__(
        self,
        encoder: SentenceEncoder,
        teacher: SentenceEncoder,
        layers: Mapping[int, int],
        examples: Examples,
        objective: nn.Module | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(encoder, Combined([objective] if objective else []), examples)
        self.names = {layer_name(encoder, own): layer_name(teacher, other) for own, other in layers.items()}
        if not self.names:
            raise ValueError("say which layers imitate which: {student's layer: teacher's layer}")
        width, wanted = encoder.model.config.hidden_size, teacher.model.config.hidden_size
        projections = [nn.Identity() if width == wanted else nn.Linear(width, wanted) for _ in self.names]
        self.projections = nn.ModuleList(projections).to(encoder.device, next(encoder.parameters()).dtype)
        self.weight = weight
        self.teacher = (teacher.eval(),)  # in a tuple, so that it is no part of what is trained and saved
        limit = encoder.max_seq_length
        self.teacher_tokens = [teacher.tokenizer.encode(column, limit=limit) for column in examples.columns]
        for own, other in zip(self.tokens, self.teacher_tokens, strict=True):
            differing = np.flatnonzero(own.lengths != other.lengths)
            if len(differing):
                row = int(differing[0])
                raise ValueError(
                    f"row {row} has {own.lengths[row]} tokens for the student and {other.lengths[row]} for the "
                    "teacher: layers are compared token by token, so the tokenizers must agree"
                )

    def loss(self, rows: np.ndarray) -> Tensor:
        """The layers' loss of this process's share, and the objective's of all rows."""
        own = parallel.share(rows)
        layers, vectors = [], []
        for tokens, teacher_tokens in zip(self.tokens, self.teacher_tokens, strict=True):
            with capture(self.model, *self.names) as states:
                vectors.append(parallel.gather(self.embed(tokens, own), len(rows)))
            with torch.no_grad(), capture(self.teacher[0], *self.names.values()) as targets:
                self.teacher[0](**padded(self.teacher[0], teacher_tokens, own))
            # Divided by all processes' tokens, not by one's: see `Task.loss`.
            whole = float(tokens.lengths[rows].sum()) / parallel.world()
            real = torch.arange(int(tokens.lengths[own].max())) < torch.from_numpy(tokens.lengths[own])[:, None]
            for projection, (name, target) in zip(self.projections, self.names.items(), strict=True):
                squares = (projection(states[name]) - targets[target]).square().mean(-1)  # (B, S)
                layers.append(squares.masked_fill(~real.to(squares.device), 0).sum() / whole)
        return self.weight * torch.stack(layers).mean() + self.of_vectors(vectors, rows)

    def identity(self) -> dict[str, Any]:
        """As any task, with the layers."""
        return {**super().identity(), "layers": self.names, "layers_weight": self.weight}


def layer_name(encoder: SentenceEncoder, layer: int) -> str:
    """What `research.hooks` calls it. Raises ValueError where there is no such layer."""
    layers = len(encoder.model.layers)
    if not 0 <= layer < layers:
        raise ValueError(f"there are layers from 0 to {layers - 1}, and so not {layer}")
    return f"layers.{layer}"
