"""The functions of `sentence_transformers.util` that work on vectors, by their names there."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from .bulk.mining import community_detection, paraphrase_mining, paraphrase_mining_embeddings
from .bulk.search import semantic_search
from .config import check_count
from .pooling import normalize
from .vectors import Vectors, as_matrix, find_ranges, similarity, similarity_pairwise
from .vectors import quantize_embeddings as quantize

__all__ = [
    "SimilarityFunction",
    "batch_to_device",
    "community_detection",
    "cos_sim",
    "dot_score",
    "euclidean_sim",
    "manhattan_sim",
    "normalize_embeddings",
    "pairwise_angle_sim",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
    "paraphrase_mining",
    "paraphrase_mining_embeddings",
    "pytorch_cos_sim",
    "quantize_embeddings",
    "semantic_search",
    "truncate_embeddings",
]


def cos_sim(a: Vectors, b: Vectors) -> Tensor:
    """Return all cosines. a (n, D), b (m, D) -> (n, m)"""
    return similarity(a, b)


pytorch_cos_sim = cos_sim


def dot_score(a: Vectors, b: Vectors) -> Tensor:
    """Return all dot products. a (n, D), b (m, D) -> (n, m)"""
    return similarity(a, b, "dot")


def euclidean_sim(a: Vectors, b: Vectors) -> Tensor:
    """Return all Euclidean distances, negative. a (n, D), b (m, D) -> (n, m)"""
    return similarity(a, b, "euclidean")


def manhattan_sim(a: Vectors, b: Vectors) -> Tensor:
    """Return all Manhattan distances, negative. a (n, D), b (m, D) -> (n, m)"""
    return similarity(a, b, "manhattan")


def pairwise_cos_sim(a: Vectors, b: Vectors) -> Tensor:
    """Return the cosine of each pair. (n, D) both -> (n,)"""
    return similarity_pairwise(a, b)


def pairwise_dot_score(a: Vectors, b: Vectors) -> Tensor:
    """Return the dot product of each pair. (n, D) both -> (n,)"""
    return similarity_pairwise(a, b, "dot")


def pairwise_euclidean_sim(a: Vectors, b: Vectors) -> Tensor:
    """Return the Euclidean distance of each pair, negative. (n, D) both -> (n,)"""
    return similarity_pairwise(a, b, "euclidean")


def pairwise_manhattan_sim(a: Vectors, b: Vectors) -> Tensor:
    """Return the Manhattan distance of each pair, negative. (n, D) both -> (n,)"""
    return similarity_pairwise(a, b, "manhattan")


def pairwise_angle_sim(a: Vectors, b: Vectors) -> Tensor:
    """Return the sum of cosine and sine of each pair, without its sign (AnglE, arXiv 2309.12871). (n, D) both -> (n,)

    Dimensions i and i + D / 2 are the parts of a complex number. An odd D gets a 0 at the end.
    """
    cosines = similarity_pairwise(a, b)  # raises where they don't fit
    x, y = (normalize(pad(rows, (0, rows.shape[1] % 2))) for rows in map(as_matrix, (a, b)))
    (real_x, imaginary_x), (real_y, imaginary_y) = x.chunk(2, -1), y.to(x).chunk(2, -1)
    return (cosines + (imaginary_x * real_y - real_x * imaginary_y).sum(-1)).abs()


class SimilarityFunction(Enum):
    """The measures by name: SimilarityFunction.COSINE, ... stand for "cosine", ... wherever a measure is set."""

    COSINE = "cosine"
    DOT_PRODUCT = DOT = "dot"
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"

    @staticmethod
    def possible_values() -> list[str]:
        """Return the names."""
        return [measure.value for measure in SimilarityFunction]

    @staticmethod
    def to_similarity_fn(measure: str | SimilarityFunction) -> Callable[[Vectors, Vectors], Tensor]:
        """Return the function that compares all with all. Raise ValueError for an unknown measure."""
        return partial(similarity, measure=SimilarityFunction(measure).value)

    @staticmethod
    def to_similarity_pairwise_fn(measure: str | SimilarityFunction) -> Callable[[Vectors, Vectors], Tensor]:
        """Return the function that compares pair by pair. Raise ValueError for an unknown measure."""
        return partial(similarity_pairwise, measure=SimilarityFunction(measure).value)


def batch_to_device(batch: dict[str, Any], target_device: str | torch.device) -> dict[str, Any]:
    """Move the tensors of a batch to a device, in this very dict, and return it."""
    batch.update({name: x.to(target_device) for name, x in batch.items() if isinstance(x, Tensor)})
    return batch


def normalize_embeddings(embeddings: Tensor) -> Tensor:
    """Scale vectors to length 1. (..., D) -> (..., D)"""
    return normalize(embeddings)


def truncate_embeddings(embeddings: Any, truncate_dim: int | None) -> Any:
    """Keep the first dimensions of a tensor or an array. (..., D) -> (..., truncate_dim)

    Raises ValueError unless ``truncate_dim`` is a whole number from 1 on, or None for all.
    """
    check_count("truncate_dim", truncate_dim, optional=True)
    return embeddings[..., :truncate_dim]


def quantize_embeddings(
    embeddings: Vectors, precision: str, ranges: np.ndarray | None = None, calibration_embeddings: Any = None
) -> np.ndarray:
    """Store vectors in fewer bytes; see `minibert.quantize_embeddings`.

    ``calibration_embeddings`` are vectors (n, D) whose ranges count for int8 and uint8, where ``ranges`` are not given.
    """
    single = getattr(embeddings, "ndim", 2) == 1
    vectors = as_matrix(embeddings).detach().cpu()
    vectors = vectors.float() if vectors.dtype is torch.bfloat16 else vectors
    if ranges is None and calibration_embeddings is not None and precision in ("int8", "uint8"):
        ranges = find_ranges(as_matrix(calibration_embeddings).detach().float().cpu().numpy(), precision)
    return quantize(vectors[0] if single else vectors, precision, ranges)
