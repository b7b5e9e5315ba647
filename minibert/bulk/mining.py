"""Mine vectors in blocks: the most similar pairs, and communities, as the functions of sentence-transformers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..config import check_count
from ..display import progress_bar
from ..pooling import normalize
from ..vectors import Vectors, cosine
from .search import ROWS, Index, best_of, check_score_function, chunks, merge

if TYPE_CHECKING:
    from ..encoder import SentenceEncoder

SCORES = 2**24  # in memory at once


def paraphrase_mining(
    model: SentenceEncoder,
    sentences: Sequence[str],
    show_progress_bar: bool = False,
    batch_size: int | None = None,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = ROWS,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: Callable[[Tensor, Tensor], Tensor] = cosine,
    **options: Any,
) -> list[list[float | int]]:
    """Find the most similar pairs of sentences (Sentence-BERT, arXiv 1908.10084, section 1).

    ``show_progress_bar``, ``batch_size`` and ``options`` are of `encode`, the rest of `paraphrase_mining_embeddings`.
    Raise TypeError where the first is no model or the second no list of texts, and as `encode`.
    """
    first: object = model
    if isinstance(first, str) or not hasattr(first, "encode") or isinstance(sentences, (str, bytes)):
        given = f"{type(model).__name__} and {type(sentences).__name__}"
        raise TypeError(f"paraphrase_mining needs a model and a list of texts, in this order, not {given}")
    check_score_function(score_function)
    options |= {"show_progress_bar": show_progress_bar, "batch_size": batch_size, "convert_to_tensor": True}
    vectors = model.encode(sentences, **options)
    return paraphrase_mining_embeddings(
        vectors, query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function=score_function
    )


def paraphrase_mining_embeddings(
    embeddings: Vectors | Index,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = ROWS,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: Callable[[Tensor, Tensor], Tensor] = cosine,
) -> list[list[float | int]]:
    """Find the most similar pairs of vectors.

    Args:
        embeddings: (n, D); also an `Index`, or a memory-mapped array.
        query_chunk_size, corpus_chunk_size: Vectors that are compared at once, at most. The pairs do not depend on it.
        max_pairs: Pairs in the result, at most.
        top_k: Others that each vector is paired with, at most. With ``max_pairs`` or more no pair is missed.
        score_function: (q, D), (n, D) -> (q, n), symmetric. Higher is more similar.

    Returns:
        [score, i, j] with i < j, the best first.
    """
    names = ("query_chunk_size", "corpus_chunk_size", "max_pairs", "top_k")
    for name, count in zip(names, (query_chunk_size, corpus_chunk_size, max_pairs, top_k), strict=True):
        check_count(name, count)
    check_score_function(score_function)
    n = len(embeddings)
    # Nearly square blocks: a score function reads, and scales, both sides of a block again.
    height = min(query_chunk_size, max(1, n))
    width = min(corpus_chunk_size, max(1, n), max(height, SCORES // height))
    height = min(height, max(1, SCORES // width))
    scores, pairs = np.empty(0), np.empty((0, 2), dtype=np.int64)
    for first, some in chunks(embeddings, height):
        parts = (
            best_of(_others(score_function(some, rows), first, start), start, top_k)
            for start, rows in chunks(embeddings, width)
        )
        values, places = merge(parts, some, top_k)
        rows = torch.arange(first, first + len(some), device=places.device)[:, None].expand_as(places)
        good = values > (scores[-1] if len(scores) == max_pairs else -torch.inf)
        new = torch.stack([torch.minimum(rows, places), torch.maximum(rows, places)], -1)[good]
        scores = np.concatenate([scores, values[good].double().cpu().numpy()])
        pairs = np.concatenate([pairs, new.cpu().numpy()])
        _, once = np.unique(pairs[:, 0] * n + pairs[:, 1], return_index=True)
        order = once[np.argsort(-scores[once], kind="stable")][:max_pairs]
        scores, pairs = scores[order], pairs[order]
    return [[score, i, j] for score, (i, j) in zip(scores.tolist(), pairs.tolist(), strict=True)]


def _others(scores: Tensor, first: int, start: int) -> Tensor:
    """Give a vector's score with itself, where ``first`` and ``start`` are the first ones of the block, the least."""
    rows = torch.arange(len(scores), device=scores.device)
    places = rows + first - start
    inside = (places >= 0) & (places < scores.shape[1])
    scores[rows[inside], places[inside]] = -torch.inf
    return scores


def community_detection(
    embeddings: Vectors | Index,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Find groups of vectors that are near a central one, as community_detection in sentence-transformers.

    Args:
        embeddings: (n, D); also an `Index`, or a memory-mapped array.
        threshold: The cosine with the central vector, at least.
        min_community_size: Vectors of a community, at least.
        batch_size: Central vectors that are tried at once, at most. The communities do not depend on it.
        show_progress_bar: On stderr.

    Returns:
        Places of the vectors of each community: the central one, then the nearest first. The largest one first. No
        vector is in two.
    """
    check_count("min_community_size", min_community_size)
    check_count("batch_size", batch_size)
    if not isinstance(threshold, (int, float, np.number)) or math.isnan(threshold):
        raise ValueError(f"threshold must be a number, not {threshold!r:.80}")
    found: list[tuple[int, np.ndarray]] = []
    n = len(embeddings)
    with progress_bar(n, "vectors", show_progress_bar) as bar:
        for first, some in chunks(embeddings, min(batch_size, max(1, SCORES // ROWS))):
            groups = enumerate(_near(some, embeddings, threshold), first)
            found += [(center, near) for center, near in groups if len(near) >= min_community_size]
            bar.update(len(some))
    taken, communities = np.zeros(n, dtype=bool), []
    for center, near in sorted(found, key=lambda each: len(each[1]), reverse=True):
        if taken[center]:
            continue
        free = near[~taken[near]]
        if len(free) >= min_community_size:
            communities.append([center, *free[free != center].tolist()])
            taken[communities[-1]] = True
    return sorted(communities, key=len, reverse=True)


def _near(centers: Tensor, vectors: Any, threshold: float) -> list[np.ndarray]:
    """Return for each center the places of the vectors near it, the nearest first."""
    centers, found = normalize(centers), []
    for start, rows in chunks(vectors, ROWS):
        scores = centers @ normalize(rows).T
        each, places = (scores >= threshold).nonzero(as_tuple=True)
        found.append(torch.stack([each.double(), (places + start).double(), scores[each, places].double()]).cpu())
    row, place, score = torch.cat(found, 1).numpy()
    order = np.lexsort((-score, row))
    ends = np.cumsum(np.bincount(row.astype(np.int64), minlength=len(centers)))
    return np.split(place[order].astype(np.uint32), ends[:-1])
