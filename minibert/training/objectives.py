"""What is to be learned: from the vectors of a batch to one number that training makes small.

The first three are Sentence-BERT's (arXiv 1908.10084, section 3). u and v are the vectors of a row's first and second
text, a third column is w. Each is the loss of the class of that name in sentence-transformers; docs/training.md has
the formulas side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..vectors import cosine


class Objective(nn.Module):
    """Vectors, one (B, D) per text column, and labels -> the mean loss of the batch, a scalar.

    A class of your own needs `forward`, and `check` where it wants to be asked about all data before the first step.
    """

    def check(self, columns: int, labels: Tensor | None) -> None:
        """Raise ValueError where such data, of a batch or of the whole training, can't be learned from."""

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """The loss."""
        raise NotImplementedError


# The parts of the paper's Table 6, by the names it gives them.
TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "u": lambda u, v: u,
    "v": lambda u, v: v,
    "|u-v|": lambda u, v: (u - v).abs(),
    "u*v": lambda u, v: u * v,
}


class Softmax(Objective):
    """Which class a pair is of: cross-entropy of softmax(W [u, v, |u-v|] + b). Labels (B,): classes from 0 on.

    The paper's equation has no b, its code has. Vectors narrower than ``width`` (under `Matryoshka`) use the first
    columns of each term's part of W (MRL-E: arXiv 2205.13147, section 3).

    Args:
        width: D, the width of the vectors.
        num_labels: Classes.
        terms: What is put side by side, of u, v, |u-v|, u*v: one row of the paper's Table 6.

    Raises:
        ValueError: a term is unknown, or there are fewer than two classes.
    """

    def __init__(self, width: int, num_labels: int = 3, terms: Sequence[str] = ("u", "v", "|u-v|")) -> None:
        super().__init__()
        if isinstance(terms, str) or not terms or not set(terms) <= set(TERMS):
            raise ValueError(f"terms must be a list of some of {', '.join(TERMS)}, not {terms!r}")
        if num_labels < 2:
            raise ValueError(f"num_labels must be at least 2, not {num_labels}")
        self.width = width
        self.num_labels = num_labels
        self.terms = tuple(terms)
        self.classifier = nn.Linear(len(self.terms) * width, num_labels)

    def check(self, columns: int, labels: Tensor | None) -> None:
        """Pairs, and a class from 0 to ``num_labels - 1`` each."""
        want_columns(self, columns, 2)
        labels = want_labels(self, labels, "a class per pair", ndim=1)
        if labels.is_floating_point() or labels.dtype is torch.bool:
            raise ValueError(f"Softmax takes whole numbers as classes, not {labels.dtype}")
        want_range(self, labels, 0, self.num_labels - 1)

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Two of (B, D), classes (B,) -> scalar"""
        self.check(len(vectors), labels)
        assert labels is not None
        return functional.cross_entropy(self.logits(*vectors), labels.long())

    def logits(self, u: Tensor, v: Tensor) -> Tensor:
        """What the classifier says of each pair. (B, D), (B, D) -> (B, num_labels)"""
        if u.shape[-1] > self.width:
            raise ValueError(f"Softmax was made for vectors of width {self.width}, these have {u.shape[-1]}")
        weight = self.classifier.weight.view(self.num_labels, len(self.terms), self.width)[..., : u.shape[-1]]
        terms = torch.cat([TERMS[term](u, v) for term in self.terms], dim=-1)
        return functional.linear(terms.to(weight.dtype), weight.flatten(1), self.classifier.bias)

    def extra_repr(self) -> str:
        """What print shows."""
        return f"terms={','.join(self.terms)}"


class CosineRegression(Objective):
    """How alike a pair is: the mean of (cos(u, v) - score)². Labels (B,): scores from -1 to 1, floating point."""

    def check(self, columns: int, labels: Tensor | None) -> None:
        """Pairs, and a score each."""
        want_columns(self, columns, 2)
        labels = want_labels(self, labels, "a score per pair", ndim=1)
        if not labels.is_floating_point():
            raise ValueError(f"CosineRegression takes floating-point scores, not {labels.dtype}")
        want_range(self, labels, -1, 1, "; divide them by the highest that there is")

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Two of (B, D), scores (B,) -> scalar"""
        self.check(len(vectors), labels)
        assert labels is not None
        u, v = vectors
        return functional.mse_loss(functional.cosine_similarity(u, v), labels.to(u.dtype))


class Triplet(Objective):
    """The anchor u nearer to v than to w: the mean of max(‖u - v‖ - ‖u - w‖ + margin, 0). No labels.

    Args:
        margin: By how much nearer, in Euclidean distance; the paper's is 1.
    """

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def check(self, columns: int, labels: Tensor | None) -> None:
        """Anchor, positive, negative."""
        want_columns(self, columns, 3)
        want_no_labels(self, labels)

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Three of (B, D) -> scalar"""
        self.check(len(vectors), labels)
        u, v, w = vectors
        nearer = torch.linalg.vector_norm(u - v, dim=-1) - torch.linalg.vector_norm(u - w, dim=-1)
        return functional.relu(nearer + self.margin).mean()

    def extra_repr(self) -> str:
        """What print shows."""
        return f"margin={self.margin}"


class InBatchNegatives(Objective):
    """Which of all the batch's texts belongs to u: cross-entropy of softmax(scale * cos(u, every v)). No labels.

    Multiple negatives ranking (arXiv 1705.00652, section 4.4), with cosines as InfoNCE has them. Columns from the third
    on are hard negatives: each row's are candidates for all rows, and right for none. More rows, harder task: see
    `SentenceTask`'s ``chunk_size`` for batches that memory does not hold.

    Args:
        scale: The inverse of the temperature.
    """

    def __init__(self, scale: float = 20.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale must be above 0, not {scale}")
        self.scale = scale

    def check(self, columns: int, labels: Tensor | None) -> None:
        """Pairs, with hard negatives or without."""
        want_columns(self, columns, 2, or_more=True)
        want_no_labels(self, labels)

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Two or more of (B, D) -> scalar"""
        self.check(len(vectors), labels)
        scores = self.scale * cosine(vectors[0], torch.cat(list(vectors[1:])))  # (B, candidates)
        return functional.cross_entropy(scores, torch.arange(len(scores), device=scores.device))

    def extra_repr(self) -> str:
        """What print shows."""
        return f"scale={self.scale}"


class Matryoshka(Objective):
    """Any objective, on the first d numbers of the vectors for several d, summed (arXiv 2205.13147, equation 1).

    What is left of a vector is scaled to length 1, as in sentence-transformers, and as `encode` does on request.

    Args:
        objective: Computed once for each width.
        widths: The d; the full width is one of them only if you say so.
        weights: One factor for each; None: 1.

    Raises:
        ValueError: a width is not positive, or there are more or fewer weights than widths.
    """

    def __init__(self, objective: nn.Module, widths: Sequence[int], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.objective = objective
        self.widths = tuple(widths)
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(self.widths)
        if not self.widths or min(self.widths) < 1 or len(self.weights) != len(self.widths):
            raise ValueError(f"widths must be positive, with a weight each, not {self.widths} with {self.weights}")

    def check(self, columns: int, labels: Tensor | None) -> None:
        """As the objective inside."""
        if isinstance(self.objective, Objective):
            self.objective.check(columns, labels)

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """As the objective inside; ValueError if a width is above D."""
        if max(self.widths) > vectors[0].shape[-1]:
            raise ValueError(f"Matryoshka asks for {max(self.widths)} of {vectors[0].shape[-1]} dimensions")
        loss = vectors[0].new_zeros(())
        for width, weight in zip(self.widths, self.weights, strict=True):
            cut = [functional.normalize(x[:, :width], dim=-1) for x in vectors]
            loss = loss + weight * self.objective(cut, labels)
        return loss

    def extra_repr(self) -> str:
        """What print shows."""
        return f"widths={self.widths}, weights={self.weights}"


class Combined(Objective):
    """Several objectives on the same vectors and labels, each with a factor: a teacher's vectors and similarities.

    Raises:
        ValueError: there are more or fewer weights than objectives.
    """

    def __init__(self, objectives: Sequence[nn.Module], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.objectives = nn.ModuleList(objectives)
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(self.objectives)
        if len(self.weights) != len(self.objectives):
            raise ValueError(f"{len(self.objectives)} objectives, but {len(self.weights)} weights")

    def check(self, columns: int, labels: Tensor | None) -> None:
        """As each of them."""
        for objective in self.objectives:
            if isinstance(objective, Objective):
                objective.check(columns, labels)

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """As each of them, summed."""
        loss = vectors[0].new_zeros(())
        for objective, weight in zip(self.objectives, self.weights, strict=True):
            loss = loss + weight * objective(vectors, labels)
        return loss

    def extra_repr(self) -> str:
        """What print shows."""
        return f"weights={self.weights}"


def want_columns(objective: nn.Module, columns: int, wanted: int, *, or_more: bool = False) -> None:
    """Raise ValueError where there is another number of text columns."""
    if columns < wanted or (columns > wanted and not or_more):
        raise ValueError(
            f"{type(objective).__name__} takes {wanted} columns of texts{' or more' * or_more}, not {columns}"
        )


def want_labels(objective: nn.Module, labels: Tensor | None, what: str, *, ndim: int) -> Tensor:
    """The labels. Raises ValueError where there are none, or they have another form."""
    if labels is None:
        raise ValueError(f"{type(objective).__name__} needs labels: {what}")
    if labels.ndim != ndim:
        raise ValueError(f"{type(objective).__name__} needs {what}, not labels of shape {tuple(labels.shape)}")
    return labels


def want_no_labels(objective: nn.Module, labels: Tensor | None) -> None:
    """Raise ValueError where there are labels that would not be looked at."""
    if labels is not None:
        raise ValueError(f"{type(objective).__name__} looks at no labels, so leave them out")


def want_range(objective: nn.Module, labels: Tensor, low: float, high: float, advice: str = "") -> None:
    """Raise ValueError for the first label outside; on a GPU, which would have to be waited for, don't look."""
    if not labels.is_cpu or not len(labels):
        return
    outside = ~((labels >= low) & (labels <= high))
    if bool(outside.any()):
        row = int(outside.int().argmax())
        raise ValueError(
            f"{type(objective).__name__} takes labels from {low} to {high}, but row {row} has {labels[row].item()}"
            f"{advice}"
        )
