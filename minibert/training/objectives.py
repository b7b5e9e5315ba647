"""Objectives: from the vectors of a batch to the loss that training minimises.

The first three are Sentence-BERT's (arXiv 1908.10084, section 3). u, v and w are the vectors of a row's first, second
and third text. docs/training.md has all formulas side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..config import check_count
from ..pooling import normalize
from ..vectors import SIMILARITIES, known_measure


class Objective(nn.Module):
    """Vectors, one (B, D) per text column, and labels -> the mean loss of the batch, a scalar.

    A subclass needs `forward`. Its `check` can refuse data before the first step. Its `begin_step(step, total)`, if
    there is one, is called before each step, counted from 0. If its `forward` has an argument
    ``texts``, that is a number for each text, (B, columns): equal numbers are equal texts.
    """

    def check(self, columns: int, labels: Tensor | None) -> Tensor | None:
        """Return the labels. Raises ValueError if the objective can't learn from such data, of one batch or of all."""
        return labels

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Return the loss."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Return the plain attributes, so that print and `identity` of a task have them."""
        plain = {name: value for name, value in vars(self).items() if isinstance(value, (int, float, str, tuple))}
        return ", ".join(f"{name}={value}" for name, value in plain.items() if name != "training" and name[0] != "_")

    def _want_columns(self, columns: int, wanted: int, *, or_more: bool = False) -> None:
        if columns < wanted or (columns > wanted and not or_more):
            more = " or more" if or_more else ""
            raise ValueError(f"{type(self).__name__} takes {wanted} columns of texts{more}, not {columns}")

    def _want_labels(self, labels: Tensor | None, what: str, *, ndim: int = 1, floating: bool = True) -> Tensor:
        if labels is None:
            raise ValueError(f"{type(self).__name__} needs labels: {what}")
        if labels.ndim != ndim or labels.is_floating_point() != floating or labels.dtype is torch.bool:
            found = f"labels of shape {tuple(labels.shape)} and {labels.dtype}"
            raise ValueError(f"{type(self).__name__} needs {what}, not {found}")
        return labels

    def _want_no_labels(self, labels: Tensor | None) -> None:
        if labels is not None:
            raise ValueError(f"{type(self).__name__} doesn't use labels, so leave them out")

    def _want_range(self, labels: Tensor, low: float, high: float, advice: str = "") -> Tensor:
        outside = ~((labels >= low) & (labels <= high))
        if labels.is_cpu and bool(outside.any()):  # a GPU would stall
            row = int(outside.int().argmax())
            value = labels[row].item()
            found = f"row {row} has {value:g}" if labels.is_floating_point() else f"row {row} has {value}"
            raise ValueError(f"{type(self).__name__} takes labels from {low} to {high}, but {found}{advice}")
        return labels


# The parts of the paper's Table 6, by its names.
TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "u": lambda u, v: u,
    "v": lambda u, v: v,
    "|u-v|": lambda u, v: (u - v).abs(),
    "u*v": lambda u, v: u * v,
}


class Softmax(Objective):
    """The class of a pair: cross-entropy of ``softmax(W [u, v, |u-v|] + b)``. Labels (B,): classes from 0.

    The paper's code has a b, its equation has not. ``terms`` are some of ``u, v, |u-v|, u*v``: one row of the paper's
    Table 6. Vectors narrower than ``width``, D, (under `Matryoshka`) use the first columns of each term's part of W
    (MRL-E: arXiv 2205.13147, section 3). Raises ValueError for an unknown term, or fewer than two classes.
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

    def check(self, columns: int, labels: Tensor | None) -> Tensor:
        """Require pairs, with a class from 0 to ``num_labels - 1`` each."""
        self._want_columns(columns, 2)
        labels = self._want_labels(labels, "whole numbers as classes (N,)", floating=False)
        return self._want_range(labels, 0, self.num_labels - 1)

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Two of (B, D), classes (B,) -> scalar"""
        labels = self.check(len(vectors), labels)
        return functional.cross_entropy(self.logits(*vectors), labels.long())

    def logits(self, u: Tensor, v: Tensor) -> Tensor:
        """Classify pairs. (B, D), (B, D) -> (B, num_labels)"""
        if u.shape[-1] > self.width:
            raise ValueError(f"Softmax was made for vectors of width {self.width}, these have {u.shape[-1]}")
        weight = self.classifier.weight.view(self.num_labels, len(self.terms), self.width)[..., : u.shape[-1]]
        terms = torch.cat([TERMS[term](u, v) for term in self.terms], dim=-1)
        return functional.linear(terms.to(weight.dtype), weight.flatten(1), self.classifier.bias)


class CosineRegression(Objective):
    """The similarity of a pair: the mean of (cos(u, v) - score)². Labels (B,): scores from -1 to 1, floating point."""

    def check(self, columns: int, labels: Tensor | None) -> Tensor:
        """Require pairs, with a score each."""
        self._want_columns(columns, 2)
        labels = self._want_labels(labels, "floating-point scores (N,)")
        return self._want_range(labels, -1, 1, "; divide them by the highest possible one")

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Two of (B, D), scores (B,) -> scalar"""
        labels = self.check(len(vectors), labels)
        u, v = vectors
        return functional.mse_loss(functional.cosine_similarity(u, v), labels.to(u.dtype))


class Triplet(Objective):
    """The anchor u closer to v than to w by a margin: the mean of max(‖u - v‖ - ‖u - w‖ + margin, 0). No labels."""

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def check(self, columns: int, labels: Tensor | None) -> None:
        """Require triplets: anchor, positive, negative."""
        self._want_columns(columns, 3)
        self._want_no_labels(labels)

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
        """Three of (B, D) -> scalar"""
        self.check(len(vectors), labels)
        u, v, w = vectors
        closer = torch.linalg.vector_norm(u - v, dim=-1) - torch.linalg.vector_norm(u - w, dim=-1)
        return functional.relu(closer + self.margin).mean()


class InBatchNegatives(Objective):
    """The partner of u among the batch's texts: cross-entropy of softmax(scale * cos(u, every v)). No labels.

    ``similarity`` is "cosine", or another of `vectors.SIMILARITIES`: sparse vectors have "dot", with a scale of 1.

    Multiple negatives ranking (arXiv 1705.00652, section 4.4), with InfoNCE's cosines. Columns from the third on are
    hard negatives: every row's are candidates for all rows. A larger batch makes the task harder; `SentenceTask`'s
    ``chunk_size`` makes room for it. ``scale`` is the inverse of the temperature.

    Texts may repeat: u itself, its partner, and other partners of the same u are not wrong answers, so they are left
    out of the candidates. (sentence-transformers keeps such rows apart by a sampler, if it is told to.)
    """

    def __init__(self, scale: float = 20.0, similarity: str = "cosine") -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale must be above 0, not {scale}")
        self.scale, self.similarity = scale, known_measure(similarity)

    def check(self, columns: int, labels: Tensor | None) -> None:
        """Require pairs, with hard negatives or without."""
        self._want_columns(columns, 2, or_more=True)
        self._want_no_labels(labels)

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None, texts: Tensor | None = None) -> Tensor:
        """Two or more of (B, D) -> scalar. Without ``texts`` all are taken to differ."""
        self.check(len(vectors), labels)
        scores = self.scale * self.scores(vectors)
        own = torch.arange(len(scores), device=scores.device)
        if texts is not None:
            u, v, candidates = texts[:, :1], texts[:, 1:2], texts[:, 1:].T.reshape(1, -1)
            partners = (u == u.T).float() @ (v == candidates).float()  # of an equal u, (B, candidates)
            right = (candidates == u) | (partners > 0)
            right[own, own] = False  # the one that is asked for
            scores = scores.masked_fill(right, -torch.inf)
        return functional.cross_entropy(scores, own)

    def scores(self, vectors: Sequence[Tensor]) -> Tensor:
        """Compare every u with every other text. -> (B, candidates)"""
        return SIMILARITIES[self.similarity](vectors[0], torch.cat(list(vectors[1:])))


class Matryoshka(Objective):
    """Any objective, summed over the first d numbers of the vectors for several d (arXiv 2205.13147, equation 1).

    Vectors are normalised for every width, the full one too, as in sentence-transformers. So an objective of lengths
    does not fit inside, such as `Triplet` with a margin above 2. The full width counts only if ``widths``, every d, has
    it. Raises ValueError without widths, for one below 1, and if the numbers of weights and widths differ.
    """

    def __init__(self, objective: nn.Module, widths: Sequence[int], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.objective = objective
        self.widths = tuple(widths)
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(self.widths)
        if not self.widths or len(self.weights) != len(self.widths):
            raise ValueError(f"there must be widths, with a weight each, not {self.widths} with {self.weights}")
        for width in self.widths:
            check_count("a width", width)

    def check(self, columns: int, labels: Tensor | None) -> None:
        """Let the inner objective check."""
        check(self.objective, columns, labels)

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None, texts: Tensor | None = None) -> Tensor:
        """Take the inner objective's arguments. Raises ValueError if a width is above D."""
        if max(self.widths) > vectors[0].shape[-1]:
            raise ValueError(f"Matryoshka asks for {max(self.widths)} of {vectors[0].shape[-1]} dimensions")
        cuts = [[normalize(x[:, :width]) for x in vectors] for width in self.widths]
        pairs = zip(self.weights, cuts, strict=True)
        return sum(
            (weight * loss(self.objective, cut, labels, texts) for weight, cut in pairs), vectors[0].new_zeros(())
        )


class Combined(Objective):
    """A weighted sum of objectives of the same vectors and labels. Raises ValueError for another number of weights."""

    def __init__(self, objectives: Sequence[nn.Module], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.objectives = nn.ModuleList(objectives)
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(self.objectives)
        if len(self.weights) != len(self.objectives):
            raise ValueError(f"{len(self.objectives)} objectives, but {len(self.weights)} weights")

    def check(self, columns: int, labels: Tensor | None) -> None:
        """Let each of them check."""
        for objective in self.objectives:
            check(objective, columns, labels)

    def forward(self, vectors: Sequence[Tensor], labels: Tensor | None = None, texts: Tensor | None = None) -> Tensor:
        """Take each one's arguments."""
        pairs = zip(self.weights, self.objectives, strict=True)
        return sum((weight * loss(one, vectors, labels, texts) for weight, one in pairs), vectors[0].new_zeros(()))


def check(objective: nn.Module, columns: int, labels: Tensor | None) -> None:
    """Let an objective refuse data. A module that is not an `Objective` takes any."""
    if isinstance(objective, Objective):
        objective.check(columns, labels)


def loss(objective: nn.Module, vectors: Sequence[Tensor], labels: Tensor | None, texts: Tensor | None) -> Tensor:
    """Call an objective, with ``texts`` if its `forward` has that argument."""
    takes_texts = "texts" in signature(objective.forward).parameters
    result: Tensor = objective(vectors, labels, texts) if takes_texts else objective(vectors, labels)
    return result
