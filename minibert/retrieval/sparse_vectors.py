"""Work with finished sparse vectors: put them in a form, compare them, count and name their words."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .. import vectors

Row: TypeAlias = "tuple[np.ndarray, np.ndarray]"  # of one text: the ids of its words, rising, and their weights

LAYOUTS = ("coo", "csr", "scipy", "words")
BLOCK = 128  # rows that are dense at a time, where a measure needs that


def deliver(
    rows: Sequence[Row],
    width: int,
    dtype: torch.dtype,
    name: Callable[[int], str],
    *,
    device: torch.device | str,
    layout: str,
    as_matrix: bool,
    as_sparse: bool,
    single: bool,
) -> Any:
    """Convert rows to the form that was asked for; see `SparseEncoder.encode`. Raises ValueError without scipy."""
    if layout == "words":
        words = [dict(in_words(row, name)) for row in rows]
        return words[0] if single else words
    starts = np.cumsum([0, *(len(ids) for ids, _ in rows)])
    ids = np.concatenate([np.empty(0, np.int32), *(ids for ids, _ in rows)])
    weights = np.concatenate([torch.empty(0, dtype=dtype).numpy(), *(weights for _, weights in rows)])
    shape = len(rows), width
    if layout == "scipy":
        try:
            from scipy.sparse import csr_matrix
        except ImportError:
            raise ValueError("layout='scipy' needs scipy: pip install scipy") from None
        return csr_matrix((weights, ids, starts), shape)
    columns, values = torch.from_numpy(ids).long(), torch.from_numpy(weights)
    if layout == "csr":
        _hear_that_csr_is_beta()
        crow = torch.from_numpy(starts)
        return torch.sparse_csr_tensor(crow, columns, values, shape, check_invariants=False).to(device)
    numbers = torch.from_numpy(np.repeat(np.arange(len(rows)), np.diff(starts)))
    matrix = _coo(torch.stack([numbers, columns]), values, shape).to(device)
    matrix = matrix if as_sparse else matrix.to_dense()
    return matrix[0] if single else matrix if as_matrix else list(matrix)


def in_words(row: Row, name: Callable[[int], str], top_k: int | None = None) -> list[tuple[str, float]]:
    """Return a text's words by name, with their weights, the highest first; all, or the first ``top_k``."""
    ids, weights = row
    order = np.argsort(-weights, kind="stable")[:top_k]
    return list(zip(map(name, ids[order].tolist()), weights[order].tolist(), strict=True))


def as_coo(embeddings: Any) -> Tensor:
    """Return vectors of any usual form as a coalesced matrix (n, V) of floats; a single vector becomes (1, V).

    Raises ValueError for what is none: torch's sparse or dense tensors, one matrix or a list, scipy's, numpy's.
    """
    if isinstance(embeddings, (list, tuple)) and embeddings and isinstance(embeddings[0], Tensor):
        embeddings = torch.stack([one.to_sparse() if one.layout is torch.strided else one for one in embeddings])
    if hasattr(embeddings, "tocoo"):  # scipy's
        found = embeddings.tocoo()
        places = torch.from_numpy(np.stack([np.asarray(found.row), np.asarray(found.col)]).astype(np.int64))
        shape = tuple(found.shape)
        embeddings = torch.sparse_coo_tensor(places, torch.from_numpy(found.data), shape, check_invariants=False)
    elif not isinstance(embeddings, Tensor) or embeddings.layout is torch.strided:
        embeddings = vectors.as_matrix(embeddings).to_sparse()
    embeddings = embeddings.to_sparse_coo()
    embeddings = embeddings.unsqueeze(0) if embeddings.ndim == 1 else embeddings
    if embeddings.ndim != 2:
        raise ValueError(f"expected vectors, (n, V) or (V,), not {tuple(embeddings.shape)}")
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)).coalesce()


def similarity(a: Any, b: Any, measure: str = "dot") -> Tensor:
    """Compare every vector of a with every vector of b: "dot", "cosine", "euclidean" or "manhattan". -> dense (n, m)

    Products are sparse. The distances, which sparse products lose digits of, take some rows at a time.
    Raises ValueError if the measure is unknown, the widths differ, or an argument is not one vector or a set of them.
    """
    measure = vectors.known_measure(measure)
    a, b = _pair(a, b, measure)
    if measure in ("dot", "cosine"):
        _hear_that_csr_is_beta()
        return torch.sparse.mm(a, b.t()).to_dense()
    compare = vectors.SIMILARITIES[measure]
    return torch.cat([torch.cat([compare(x, y) for y in _dense(b)], 1) for x in _dense(a)])


def similarity_pairwise(a: Any, b: Any, measure: str = "dot") -> Tensor:
    """Compare the first of a with the first of b, and so on. -> (n,). Raises ValueError as ``similarity``."""
    measure = vectors.known_measure(measure)
    a, b = _pair(a, b, measure)
    if len(a) != len(b):
        raise ValueError(f"pairs need as many vectors on both sides, not {len(a)} and {len(b)}")
    pairs = zip(_dense(a), _dense(b), strict=True)
    return torch.cat([vectors.similarity_pairwise(x, y, "dot" if measure == "cosine" else measure) for x, y in pairs])


def sparsity(embeddings: Any) -> dict[str, float]:
    """Return "active_dims", the mean number of weights that are not 0, and "sparsity_ratio", the share that are 0."""
    matrix = as_coo(embeddings)
    n, width = matrix.shape
    active = int(matrix.values().count_nonzero()) / n if n else 0.0
    return {"active_dims": active, "sparsity_ratio": 1 - active / width if width else 1.0}


def rows_of(embeddings: Any) -> Iterator[Row]:
    """Yield the ids and weights of each vector."""
    matrix = as_coo(embeddings)
    numbers, ids = matrix.indices().cpu().numpy()
    cuts = np.searchsorted(numbers, np.arange(len(matrix)))  # the first part is empty
    yield from zip(np.split(ids, cuts)[1:], np.split(matrix.values().cpu().numpy(), cuts)[1:], strict=True)


def _pair(a: Any, b: Any, measure: str) -> tuple[Tensor, Tensor]:
    """Return both as matrices of one dtype, on one device; of length 1 for cosines."""
    first, second = as_coo(a), as_coo(b)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"the vectors are of different widths: {first.shape[1]} and {second.shape[1]}")
    dtype = torch.promote_types(first.dtype, second.dtype)
    pair = first.to(dtype), second.to(device=first.device, dtype=dtype)
    first, second = map(_unit, pair) if measure == "cosine" else pair
    return first, second


def _unit(matrix: Tensor) -> Tensor:
    """Scale each row to length 1; a row of zeros stays."""
    places, values = matrix.indices(), matrix.values()
    wide = values.to(torch.promote_types(values.dtype, torch.float32))  # squares leave the range of 16 bits
    squares = wide.new_zeros(len(matrix)).index_add_(0, places[0], wide.square())
    values = wide / squares.sqrt().clamp_min(1e-12)[places[0]]
    return _coo(places, values.to(matrix.dtype), matrix.shape)


def _coo(places: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.sparse_coo_tensor(places, values, shape, check_invariants=False, is_coalesced=True)


def _dense(matrix: Tensor) -> Iterator[Tensor]:
    """Yield BLOCK rows at a time, dense."""
    for start in range(0, max(1, len(matrix)), BLOCK):
        rows = torch.arange(start, min(start + BLOCK, len(matrix)), device=matrix.device)
        yield matrix.index_select(0, rows).to_dense()


@cache
def _hear_that_csr_is_beta() -> None:
    """Let torch warn of its CSR tensors, which sparse products use too. It does so once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.zeros(1, 1).to_sparse_csr()
