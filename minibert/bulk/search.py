"""Exact search in the vectors of a corpus: in blocks over memory-mapped shards, or over any arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..batches import MOST_WORKERS, side_by_side
from ..config import FileError, check_count, read_json
from ..pooling import normalize
from ..vectors import SIMILARITIES, Vectors, as_matrix, cosine, quantize_embeddings
from .job import MANIFEST, JobError, read_manifest
from .settings import PRECISIONS
from .shards import RANGES, name_of, restore

ROWS = 2**16  # in a block
Hits: TypeAlias = "list[list[dict[str, Any]]]"
Best: TypeAlias = "tuple[Tensor, Tensor]"  # scores and places


def semantic_search(
    query_embeddings: Vectors,
    corpus_embeddings: Vectors | Index,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = ROWS,
    top_k: int = 10,
    score_function: Callable[[Tensor, Tensor], Tensor] = cosine,
) -> Hits:
    """Find the corpus's vectors of the highest scores for each query, as semantic_search in sentence-transformers.

    Args:
        query_embeddings: (q, D), or (D,).
        corpus_embeddings: (n, D); also an `Index`, or a memory-mapped array.
        query_chunk_size, corpus_chunk_size: Vectors that are compared at once; the results depend on them at most in
            the order of equal scores, and in a last digit.
        top_k: Vectors a query.
        score_function: (q, D), (n, D) -> (q, n). Higher is more similar.

    Returns:
        For each query a list of {"corpus_id": place, "score": score}, the best first. A score of NaN comes last.

    Raises:
        ValueError: the widths differ, or an argument is not vectors. TypeError: the score is not a function.
    """
    queries, found = as_matrix(query_embeddings), []
    for name, count in (("query_chunk_size", query_chunk_size), ("corpus_chunk_size", corpus_chunk_size)):
        check_count(name, count)
    check_count("top_k", top_k)
    check_score_function(score_function)
    for some in queries.split(query_chunk_size):
        blocks = _alike(some, chunks(corpus_embeddings, corpus_chunk_size))
        parts = (best_of(score_function(own, rows), start, top_k) for start, own, rows in blocks)
        found += _hits(*merge(parts, some, top_k))
    return found


def check_score_function(function: object) -> None:
    """Raise TypeError unless it can be called."""
    if not callable(function):
        raise TypeError(f"score_function must be a function, as minibert.util.cos_sim, not {function!r:.80}")


def chunks(vectors: Any, size: int) -> Iterator[tuple[int, Tensor]]:
    """Yield vectors (n, D), or one (D,), a block at a time, (rows, D), each with the place of its first."""
    vectors = vectors[None] if getattr(vectors, "ndim", 2) == 1 else vectors
    for start in range(0, len(vectors), size):
        yield start, as_matrix(vectors[start : start + size]).detach()


def _alike(queries: Tensor, blocks: Iterable[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield blocks, and before each the queries, in the wider dtype. Raise ValueError if the widths differ."""
    for start, rows in blocks:
        if rows.shape[1] != queries.shape[1]:
            raise ValueError(f"the queries are of width {queries.shape[1]}, and the corpus is of width {rows.shape[1]}")
        dtype = torch.promote_types(queries.dtype, rows.dtype)
        yield start, queries.to(dtype), rows.to(dtype)


def best_of(scores: Tensor, start: int, top_k: int) -> Best:
    """Return the best scores of a block that starts at a place. (q, rows) -> (q, k) and places (q, k)"""
    values, places = _highest(scores, top_k)
    return values, places + start


def _highest(scores: Tensor, most: int) -> Best:
    """Return the highest scores and their places, at most so many, the best first. NaN comes last, not first."""
    values, places = scores.topk(min(most, scores.shape[1]), dim=1)
    if values[:, :1].isnan().any():
        places = scores.masked_fill(scores.isnan(), -torch.inf).topk(values.shape[1], dim=1).indices
        values = scores.gather(1, places)
    return values, places


def merge(parts: Iterable[Best], queries: Tensor, top_k: int) -> Best:
    """Return the best of all blocks, (q, k) both, the best first."""
    values, places = queries.new_empty(len(queries), 0), queries.new_empty(len(queries), 0, dtype=torch.long)
    for more, where in parts:
        values, where = torch.cat([values, more], 1), torch.cat([places, where], 1)
        values, order = _highest(values, top_k)
        places = where.gather(1, order)
    return values, places


def _hits(values: Tensor, places: Tensor) -> Hits:
    rows = zip(values.tolist(), places.tolist(), strict=True)
    return [[{"corpus_id": j, "score": score} for score, j in zip(*row, strict=True)] for row in rows]


class Index:
    """A corpus's vectors in memory-mapped shards, which `embed_corpus` has written in the format "npy".

    ``index[start:stop]`` are vectors (rows, D) in float32. Functions that take vectors block by block take an index.

    Raises:
        JobError: the corpus is not complete, or has another format. FileError: a file is damaged.
        OSError: a file is missing, or this is no index.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder, self.manifest = Path(folder), read_manifest(folder)
        try:
            options = self.manifest["options"]
            form, copy = str(options["output_format"]), options["copy"]
            self.precision, self.width = str(options["precision"]), int(self.manifest["width"])
            self.measure = str(self.manifest["model"]["similarity"])
            self._shard_rows = int(options["shard_rows"])
            known = self.precision in PRECISIONS and self.measure in SIMILARITIES and self._shard_rows > 0
            if self.manifest["complete"]:
                known = known and int(self.manifest["rows"]) >= 0 and int(self.manifest["shards"]) >= 0
        except (KeyError, TypeError, ValueError):
            known = False
        if not known:
            raise FileError(f"{folder}/{MANIFEST}: damaged, or of another version of minibert")
        if not self.manifest["complete"]:
            raise JobError(f"{folder}: not all is embedded yet: run the same embed-corpus again")
        if form != "npy":
            raise JobError(f"{folder}: the format is {form}, and a search needs npy")
        self._ranges = np.load(self._file(RANGES)) if self.precision == "int8" else None
        self._columns = lru_cache(64)(lambda shard: read_json(self._file(name_of(shard, "json"))))
        self._codes = self._open("npy")
        self._copy = self._open(f"{copy}.npy") if copy else None

    def __len__(self) -> int:
        return int(self.manifest["rows"])

    def __getitem__(self, rows: slice) -> Tensor:
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise TypeError("an index gives its vectors as index[start:stop]")
        start, stop, _ = rows.indices(len(self))
        parts = [torch.empty(0, self.width)]
        while start < stop:
            shard, i = divmod(start, self._shard_rows)
            parts.append(self._restore(self._codes[shard][i : i + stop - start]))
            start += len(parts[-1])
        return torch.cat(parts)

    def shards(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield each shard's ids, and its vectors as they are stored: (rows, D), or bits (rows, ceil(D / 8))."""
        for shard, codes in enumerate(self._codes):
            start = shard * self._shard_rows
            yield [self.row(place)["id"] for place in range(start, start + len(codes))], np.asarray(codes)

    def search(self, queries: Vectors, top_k: int = 10, *, rescore_multiplier: int = 4) -> Hits:
        """Find the vectors that are most similar to each query, by the model's measure.

        float32 and float16 are compared exactly, and so are int8 codes, restored to floats. Bits are compared by the
        number that differ. Of int8 with a copy, and of bits, the best top_k x rescore_multiplier are scored again: by
        the copy, or without one by the bits as -1 and 1.

        Args:
            queries: (q, D), or (D,), from `encode_query`.
            top_k: Vectors a query.
            rescore_multiplier: See above.

        Returns:
            As `semantic_search`, and in each dict the "id", and the "text" if texts were kept.

        Raises:
            ValueError: the width is not that of the corpus.
        """
        check_count("top_k", top_k)
        check_count("rescore_multiplier", rescore_multiplier)
        vectors = as_matrix(queries).float().cpu()
        if vectors.shape[1] != self.width:
            raise ValueError(f"the queries are of width {vectors.shape[1]}, and the corpus is of width {self.width}")
        if not len(vectors):
            return []
        rescored = self.precision == "ubinary" or (self.precision == "int8" and self._copy is not None)
        most = top_k * rescore_multiplier if rescored else top_k
        parts = self._compare_bits(vectors, most) if self.precision == "ubinary" else self._compare(vectors, most)
        values, places = merge(parts, vectors, most)
        if rescored and len(self):
            values = torch.stack([self._rescore(*each) for each in zip(vectors, places, strict=True)])
            values, order = _highest(values, top_k)
            places = places.gather(1, order)
        return [[{**hit, **self.row(hit["corpus_id"])} for hit in found] for found in _hits(values, places)]

    def row(self, place: int) -> dict[str, str]:
        """Return the id of the vector at a place, and its text if texts were kept."""
        if not 0 <= place < len(self):
            raise IndexError(f"{self.folder} has {len(self)} vectors, and no place {place}")
        shard, i = divmod(place, self._shard_rows)
        try:
            return {name: values[i] for name, values in self._columns(shard).items()}
        except (IndexError, KeyError, TypeError):
            path = self.folder / name_of(shard, "json")
            raise FileError(f"{path}: damaged: the vectors of the shard have no such ids") from None

    def _compare(self, queries: Tensor, top_k: int) -> Iterator[Best]:
        if self.measure == "cosine":
            queries = normalize(queries)
        for start, codes in self._blocks():
            rows = self._restore(codes)
            if self.measure == "cosine":
                scores = queries @ rows.T / self._lengths[start : start + len(rows)]
            else:
                scores = SIMILARITIES[self.measure](queries, rows)
            yield best_of(scores, start, top_k)

    def _compare_bits(self, queries: Tensor, top_k: int) -> Iterator[Best]:
        wanted = quantize_embeddings(queries.numpy(), "ubinary")

        def compare(block: tuple[int, np.ndarray]) -> Best:
            start, codes = block
            return best_of(-torch.stack([differing_bits(codes, query) for query in wanted]), start, top_k)

        workers = min(torch.get_num_threads(), MOST_WORKERS)
        return (best for _, best in side_by_side(compare, list(self._blocks()), workers))

    def _rescore(self, query: Tensor, places: Tensor) -> Tensor:
        """Return the scores of some vectors, from the copy if there is one. (D,), (k,) -> (k,)"""
        shards, precision = (self._codes, self.precision) if self._copy is None else (self._copy, "float32")
        rows = np.stack([shards[place // self._shard_rows][place % self._shard_rows] for place in places.tolist()])
        return SIMILARITIES[self.measure](query[None], restore(rows, precision, self.width, self._ranges))[0]

    @cached_property
    def _lengths(self) -> Tensor:
        """The lengths of all vectors, (n,); found once."""
        parts = [torch.linalg.vector_norm(self._restore(codes), dim=1) for _, codes in self._blocks()]
        return torch.cat([torch.empty(0), *parts]).clamp_min(1e-12)

    def _restore(self, codes: np.ndarray) -> Tensor:
        return restore(codes, self.precision, self.width, self._ranges)

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        for shard, codes in enumerate(self._codes):
            for start in range(0, len(codes), ROWS):
                yield shard * self._shard_rows + start, codes[start : start + ROWS]

    def _open(self, ending: str) -> list[np.ndarray]:
        shards: list[np.ndarray] = []
        for shard in range(self.manifest["shards"]):
            rows = min(len(self) - shard * self._shard_rows, self._shard_rows)
            shards.append(open_array(self._file(name_of(shard, ending)), (rows,)))
        return shards

    def _file(self, name: str) -> Path:
        """Return the path of a file of the index. Raise FileNotFoundError if it is missing."""
        if not (path := self.folder / name).is_file():
            advice = "embed the corpus into another folder, as embed-corpus makes no single file anew"
            raise FileNotFoundError(f"{path} is missing from a complete index: {advice}")
        return path


def open_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Map a matrix into memory. Raises FileError if the file is damaged, or the shape does not begin as given."""
    try:  # copy-on-write: torch takes no array that can't be written
        codes: np.ndarray = np.load(path, mmap_mode="c")
    except (ValueError, EOFError, OverflowError) as error:
        raise FileError(f"{path}: not an array of numpy, or damaged ({error})") from None
    if codes.ndim != 2 or codes.shape[: len(shape)] != shape:
        raise FileError(f"{path}: {codes.shape}, and the manifest says {shape[0]} vectors")
    return codes


def differing_bits(codes: np.ndarray, query: np.ndarray) -> Tensor:
    """Count the bits in which each row differs from a query. (n, bytes), (bytes,) -> (n,) in float32"""
    unit = next(size for size in (8, 4, 2, 1) if codes.shape[1] % size == 0)
    words, wanted = codes.view(f"u{unit}"), np.ascontiguousarray(query).view(f"u{unit}")
    counts = np.zeros(len(codes), np.float32)
    for i, word in enumerate(wanted):
        counts += np.bitwise_count(words[:, i] ^ word)
    return torch.from_numpy(counts)
