"""Finished vectors: how similar they are, and how to store them in fewer bytes.

In all four measures more similar is higher. int8, uint8 and bits are defined as in sentence-transformers.
"""

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


PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


def quantize_embeddings(embeddings: np.ndarray, precision: str, ranges: np.ndarray | None = None) -> np.ndarray:
    """Store vectors in fewer bytes.

    Args:
        embeddings: (n, D), or (D,), floating-point.
        precision: "int8" and "uint8": each dimension's range cut into 256 steps. "binary" and "ubinary": one bit a
            dimension, set where it is above 0, eight to a byte (int8 with 128 taken off, or uint8).
        ranges: (2, D), the lowest and the highest value of each dimension, from many vectors. None: of these ones.

    Returns:
        (n, D) for int8 and uint8, (n, ceil(D / 8)) for the binary ones.

    Raises:
        ValueError: the precision is unknown; or int8 ranges would have to come from a single vector, all of whose
            dimensions would come out the same.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if precision == "float32":
        return embeddings.astype(np.float32)
    if precision == "binary":
        return (np.packbits(embeddings > 0, axis=-1) - 128).astype(np.int8)
    if precision == "ubinary":
        return np.packbits(embeddings > 0, axis=-1)
    kind = np.int8 if precision == "int8" else np.uint8
    if embeddings.ndim == 2 and len(embeddings) == 0:
        return embeddings.astype(kind)
    if ranges is None:
        if embeddings.ndim == 1 or len(embeddings) == 1:
            raise ValueError(
                f"{precision} needs the range of each dimension, which one vector can't tell: encode many texts in one "
                "call, or use minibert.vectors.quantize_embeddings(vectors, precision, ranges=...)"
            )
        ranges = np.stack([embeddings.min(axis=0), embeddings.max(axis=0)])
    low, high = ranges.astype(np.float32)
    steps = (high - low) / 255
    steps[steps == 0] = 1
    levels = np.clip(np.floor((embeddings - low) / steps), 0, 255)
    return (levels - 128).astype(kind) if precision == "int8" else levels.astype(kind)
