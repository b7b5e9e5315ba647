"""Learn from a teacher: its vectors, its similarities, or its layers' states.

A teacher's vectors are labels, (N, T), computed once with its `encode`. Only `LayerTask` runs the teacher.
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
from .objectives import Combined, Objective
from .task import SentenceTask, padded


class TeacherVectors(Objective):
    """The distance of the student's vectors from the teacher's. Vectors (B, D) per column, labels (B, T) -> scalar

    Every column is compared with the row's label (a text and its translation: arXiv 2004.09813), and the mean taken.

    Args:
        metric: "mse", the mean square of all differences; or "cosine", 1 - cos. ValueError for another.
        widths: (D, T): learn a linear layer from D to T after the student, for training only. None: D = T.

    Raises ValueError for vectors or labels of other widths.
    """

    def __init__(self, metric: str = "mse", widths: tuple[int, int] | None = None) -> None:
        super().__init__()
        if metric not in ("mse", "cosine"):
            raise ValueError(f"metric must be mse or cosine, not {metric!r}")
        self.metric = metric
        self.projection = None if widths is None else nn.Linear(*widths)

    def check(self, columns: int, labels: Tensor | None) -> Tensor:
        """Require a teacher's vector per row."""
        labels = self._want_labels(labels, "a teacher's vector per row, floating-point (N, T)", ndim=2)
        if self.projection is not None and labels.shape[1] != self.projection.out_features:
            raise ValueError(f"{self._made_for()}, but the labels' width is {labels.shape[1]}")
        return labels

    def _made_for(self) -> str:
        assert self.projection is not None
        widths = self.projection.in_features, self.projection.out_features
        return f"{type(self).__name__} was made for widths={widths}, the student's and the teacher's"

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Vectors (B, D) per column, labels (B, T) -> scalar. Raises ValueError if the widths do not fit."""
        labels = self.check(len(vectors), labels)
        x = torch.cat(list(vectors))
        if self.projection is not None:
            if x.shape[-1] > self.projection.in_features:
                raise ValueError(f"{self._made_for()}, but the student's width is {x.shape[-1]}")
            weight = self.projection.weight[:, : x.shape[-1]]  # shorter ones are `Matryoshka`'s
            x = functional.linear(x.to(weight.dtype), weight, self.projection.bias)
        if x.shape[-1] != labels.shape[-1]:
            advice = "give the objective widths=(student's, teacher's) to learn a projection, or use SimilarityMatrix"
            raise ValueError(f"the student's width is {x.shape[-1]}, the teacher's {labels.shape[-1]}: {advice}")
        target = labels.to(x.dtype).repeat(len(vectors), 1)
        if self.metric == "mse":
            return functional.mse_loss(x, target)
        return (1 - functional.cosine_similarity(x, target)).mean()


class SimilarityMatrix(TeacherVectors):
    """The mean square difference between the student's and the teacher's cosines of all pairs of the batch, (B, B).

    This is the similarity-preserving loss (arXiv 1907.09682, equation 4), with cosines in place of rescaled dot
    products. The widths may differ. Each column has its own matrix; vectors (B, D) each, labels (B, T) -> scalar
    """

    def __init__(self) -> None:
        super().__init__("cosine")

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Vectors (B, D) per column, labels (B, T) -> scalar"""
        labels = self.check(len(vectors), labels)
        target = cosine(labels, labels).to(vectors[0].dtype)
        return torch.stack([functional.mse_loss(cosine(x, x), target) for x in vectors]).mean()


class SimilarityRanking(TeacherVectors):
    """The divergence of the student's ranking of the batch from the teacher's. Vectors (B, D), labels (B, T) -> scalar

    For each text, the cosines with all others over a temperature are the logits of a softmax. The loss is the mean
    Kullback-Leibler divergence of the student's from the teacher's (as RankDistil's and ListNet's: who is first counts
    most). The widths may differ. Raises ValueError for a temperature that is not above 0.
    """

    def __init__(self, temperature: float = 0.05) -> None:
        super().__init__("cosine")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        self.temperature = temperature

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Vectors (B, D) per column, labels (B, T) -> scalar; 0 for a single row."""
        target = self._log_shares(self.check(len(vectors), labels))
        own = [self._log_shares(x) for x in vectors]
        return torch.stack(
            [functional.kl_div(x, target.to(x), reduction="batchmean", log_target=True) for x in own]
        ).mean()

    def _log_shares(self, x: Tensor) -> Tensor:
        """Return the logarithm of each other text's share, (B, D) -> (B, B). A text is not compared with itself."""
        logits = cosine(x, x) / self.temperature
        return logits.fill_diagonal_(-1e4).log_softmax(-1)  # finite, so that nothing minus nothing is nothing


class LayerTask(SentenceTask):
    """Layers of the student imitate layers of the teacher: the mean square difference of their token vectors.

    These are TinyBERT's hidden states (arXiv 1909.10351, equation 8). Padding does not count. If the widths differ,
    each student's layer has a learned projection, for training only.

    Args:
        encoder, teacher: The student; and the model that is not trained, but must split texts into as many tokens.
        layers: {student's layer: teacher's layer}, from 0.
        objective: Of the sentence vectors, added to the layers' loss. None: only the layers.
        weight: A factor of the layers' loss.

    Raises:
        ValueError: A layer does not exist, or the numbers of tokens differ.
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
            raise ValueError("say which layers imitate which: layers={student's layer: teacher's layer}")
        width, teacher_width = encoder.model.config.hidden_size, teacher.model.config.hidden_size
        projections = [nn.Identity() if width == teacher_width else nn.Linear(width, teacher_width) for _ in self.names]
        self.projections = nn.ModuleList(projections).to(encoder.device, next(encoder.parameters()).dtype)
        self.weight = weight
        self.teacher = (teacher.eval(),)  # in a tuple, so that it is not a submodule: neither trained nor saved
        limit = encoder.max_seq_length
        self.teacher_tokens = [teacher.tokenizer.encode(column, limit=limit) for column in examples.columns]
        for own, other in zip(self.tokens, self.teacher_tokens, strict=True):
            for row in np.flatnonzero(own.lengths != other.lengths):
                counts = f"{own.lengths[row]} tokens for the student and {other.lengths[row]} for the teacher"
                raise ValueError(f"row {row} has {counts}: tokens are compared one by one, so tokenizers must agree")

    def loss(self, rows: np.ndarray) -> Tensor:
        """Return the layers' loss of this process's share, plus the objective of all rows."""
        own = parallel.share(rows)
        layers, vectors = [], []
        for tokens, teacher_tokens in zip(self.tokens, self.teacher_tokens, strict=True):
            with capture(self.model, *self.names) as states:
                vectors.append(parallel.gather(self.embed(tokens, own), len(rows)))
            with torch.no_grad(), capture(self.teacher[0], *self.names.values()) as targets:
                self.teacher[0](**padded(self.teacher[0], teacher_tokens, own))
            # Divided by all processes' tokens, not by one's: see `Task.loss`.
            whole = float(tokens.lengths[rows].sum()) / parallel.world()
            lengths = torch.from_numpy(tokens.lengths[own])[:, None]
            padding = torch.arange(int(lengths.max())) >= lengths  # (B, S)
            for projection, (name, target) in zip(self.projections, self.names.items(), strict=True):
                squares = (projection(states[name]) - targets[target]).square().mean(-1)  # (B, S)
                layers.append(squares.masked_fill(padding.to(squares.device), 0).sum() / whole)
        return self.weight * torch.stack(layers).mean() + self.of_vectors(vectors, rows)

    def identity(self) -> dict[str, Any]:
        """Return data, model, objective, layers and their weight."""
        return {**super().identity(), "layers": self.names, "layers_weight": self.weight}


def layer_name(encoder: SentenceEncoder, layer: int) -> str:
    """Return its name in `research.hooks`. Raises ValueError if there is no such layer."""
    layers = len(encoder.model.layers)
    if not 0 <= layer < layers:
        raise ValueError(f"there are layers from 0 to {layers - 1}, but no layer {layer}")
    return f"layers.{layer}"
