"""The functions of `sentence_transformers.util` that work on vectors, by their names there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .bulk.mining import community_detection, paraphrase_mining, paraphrase_mining_embeddings
from .bulk.search import semantic_search
from .vectors import Vectors, as_matrix, find_ranges, similarity, similarity_pairwise
from .vectors import quantize_embeddings as quantize

__all__ = [
    "community_detection",
    "cos_sim",
    "dot_score",
    "euclidean_sim",
    "manhattan_sim",
    "normalize_embeddings",
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


def normalize_embeddings(embeddings: Tensor) -> Tensor:
    """Scale vectors to length 1. (..., D) -> (..., D)"""
    return torch.nn.functional.normalize(embeddings, dim=-1)


def truncate_embeddings(embeddings: Any, truncate_dim: int | None) -> Any:
    """Keep the first dimensions of a tensor or an array. (..., D) -> (..., truncate_dim)"""
    return embeddings[..., :truncate_dim]


def quantize_embeddings(
    embeddings: Vectors, precision: str, ranges: np.ndarray | None = None, calibration_embeddings: Any = None
) -> np.ndarray:
    """Store vectors in fewer bytes; see `minibert.quantize_embeddings`.

    ``calibration_embeddings`` are vectors (n, D) whose ranges count for int8 and uint8, where ``ranges`` are not given.
    """
    single = getattr(embeddings, "ndim", 2) == 1
    vectors = as_matrix(embeddings).detach().cpu().numpy()
    if ranges is None and calibration_embeddings is not None and precision in ("int8", "uint8"):
        ranges = find_ranges(as_matrix(calibration_embeddings).cpu().numpy(), precision)
    return quantize(vectors[0] if single else vectors, precision, ranges)
