"""How alike two sets of vectors are; in all four measures more alike is higher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

Vectors: TypeAlias = "Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray]"


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of the angle, from -1 to 1. a (n, D), b (m, D) -> (n, m)"""
    return normalize(a, dim=-1) @ normalize(b, dim=-1).T


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The dot product. a (n, D), b (m, D) -> (n, m)"""
    return a @ b.T


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """The straight distance, negative. a (n, D), b (m, D) -> (n, m)"""
    return -torch.cdist(a, b, p=2, compute_mode="donot_use_mm_for_euclid_dist")


def manhattan(a: Tensor, b: Tensor) -> Tensor:
    """The sum of the differences' sizes, negative. a (n, D), b (m, D) -> (n, m)"""
    return -torch.cdist(a, b, p=1)


SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine,
    "dot": dot,
    "euclidean": euclidean,
    "manhattan": manhattan,
}


def as_matrix(vectors: Vectors) -> Tensor:
    """Vectors in any of the usual forms -> a floating-point tensor (n, D); a single one becomes (1, D).

    Raises:
        ValueError: they are no vectors. TypeError: they are no numbers.
    """
    if isinstance(vectors, Tensor):
        matrix = vectors
    elif isinstance(vectors, np.ndarray):
        matrix = torch.from_numpy(np.require(vectors, requirements=["C", "W"]))  # torch takes no other, as of np.load
    else:
        matrix = torch.stack([torch.as_tensor(vector) for vector in vectors])
    matrix = matrix if matrix.is_floating_point() else matrix.float()
    matrix = matrix.unsqueeze(0) if matrix.ndim == 1 else matrix
    if matrix.ndim != 2:
        raise ValueError(f"expected vectors, (n, D) or (D,), not {tuple(matrix.shape)}")
    return matrix


def similarity(a: Vectors, b: Vectors, measure: str = "cosine") -> Tensor:
    """Every vector of one set with every vector of the other. a (n, D), b (m, D) -> (n, m)

    Raises:
        ValueError: the measure is unknown, or the widths differ.
    """
    first, second = _two(a, b, measure)
    return SIMILARITIES[measure](first, second)


def similarity_pairwise(a: Vectors, b: Vectors, measure: str = "cosine") -> Tensor:
    """The first with the first, the second with the second, and so on. a (n, D), b (n, D) -> (n,)

    Raises:
        ValueError: the measure is unknown, or the shapes differ.
    """
    first, second = _two(a, b, measure)
    if first.shape != second.shape:
        raise ValueError(f"pairs need as many vectors on both sides, not {len(first)} and {len(second)}")
    if measure == "cosine":
        first, second = normalize(first, dim=-1), normalize(second, dim=-1)
    if measure in ("cosine", "dot"):
        return (first * second).sum(-1)
    return -torch.linalg.vector_norm(first - second, ord=2 if measure == "euclidean" else 1, dim=-1)


def _two(a: Vectors, b: Vectors, measure: str) -> tuple[Tensor, Tensor]:
    if measure not in SIMILARITIES:
        raise ValueError(f"similarity must be one of {', '.join(SIMILARITIES)}, not {measure!r}")
    first, second = as_matrix(a), as_matrix(b)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"the vectors are of different widths: {first.shape[1]} and {second.shape[1]}")
    dtype = torch.promote_types(first.dtype, second.dtype)
    return first.to(dtype), second.to(device=first.device, dtype=dtype)
