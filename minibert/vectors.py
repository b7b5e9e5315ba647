"""Work with finished vectors: compare them, or store them in fewer bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from .display import warn
from .pooling import normalize
from .settings import one_of

Vectors: TypeAlias = "Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray] | Sequence[Sequence[float]]"

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
FEW = 100  # vectors: ranges of fewer say little about other vectors


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of the angle, from -1 to 1. a (n, D), b (m, D) -> (n, m)"""
    return normalize(a) @ normalize(b).T


# a (n, D), b (m, D) -> (n, m). A distance is negative, so that a higher number means more similar.
SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": cosine,
    "dot": lambda a, b: a @ b.T,
    "euclidean": lambda a, b: -torch.cdist(a, b, p=2, compute_mode="donot_use_mm_for_euclid_dist"),
    "manhattan": lambda a, b: -torch.cdist(a, b, p=1),
}


def known_measure(measure: Any) -> str:
    """Return the name of a measure, given by it or by a member of an enumeration. Raise ConfigError for another."""
    return one_of(SIMILARITIES)("similarity", measure)


def similarity(a: Vectors, b: Vectors, measure: str = "cosine") -> Tensor:
    """Compare every vector of a with every vector of b. a (n, D), b (m, D) -> (n, m)

    Raises ValueError if the measure is unknown, the widths differ, or an argument is not one vector or a set of them.
    """
    measure = known_measure(measure)
    a, b = _matrices(a, b)
    return SIMILARITIES[measure](a, b)


def similarity_pairwise(a: Vectors, b: Vectors, measure: str = "cosine") -> Tensor:
    """Compare the first of a with the first of b, the second with the second, and so on. (n, D) both -> (n,)

    Raises ValueError as ``similarity``, and if the numbers of vectors differ.
    """
    measure = known_measure(measure)
    a, b = _matrices(a, b)
    if len(a) != len(b):
        raise ValueError(f"pairs need as many vectors on both sides, not {len(a)} and {len(b)}")
    if measure in ("cosine", "dot"):
        return ((normalize(a) * normalize(b)) if measure == "cosine" else a * b).sum(-1)
    return -torch.linalg.vector_norm(a - b, ord=2 if measure == "euclidean" else 1, dim=-1)


def _matrices(a: Vectors, b: Vectors) -> tuple[Tensor, Tensor]:
    """Check both, and return them in one dtype, of 32 bits at least, and on one device. (n, D), (m, D)

    16 bits have too few digits to rank by, and products leave float16's range.
    """
    first, second = as_matrix(a), as_matrix(b)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"the vectors are of different widths: {first.shape[1]} and {second.shape[1]}")
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    return first.to(dtype), second.to(device=first.device, dtype=dtype)


def as_matrix(vectors: Vectors) -> Tensor:
    """Return vectors of any usual form as a floating-point tensor (n, D); a single vector becomes (1, D)."""
    if not hasattr(vectors, "dtype") and not isinstance(vectors, Sequence):
        raise ValueError(f"expected vectors of numbers, of one width, not {type(vectors).__name__}")
    codes = getattr(vectors if hasattr(vectors, "dtype") else next(iter(vectors), None), "dtype", None)
    if str(codes).removeprefix("torch.") in ("int8", "uint8"):
        raise ValueError(
            f"these vectors are {codes}, codes of quantize_embeddings, whose similarity would be wrong: compare "
            "vectors in float32, or count the bits that differ, by 'manhattan': "
            "np.unpackbits(codes.view(np.uint8), axis=-1).astype(np.float32)"
        )
    if getattr(vectors, "layout", torch.strided) is not torch.strided or hasattr(vectors, "tocoo"):
        raise ValueError("these vectors are sparse: compare them by SparseEncoder.similarity")
    try:
        if isinstance(vectors, np.ndarray):
            # torch takes neither negative strides nor read-only memory, as of np.load(..., mmap_mode="r").
            vectors = torch.from_numpy(np.require(vectors, requirements=["C", "W"]))
        elif not isinstance(vectors, Tensor):
            vectors = torch.stack([x if isinstance(x, Tensor) else torch.from_numpy(np.array(x)) for x in vectors])
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"expected vectors of numbers, of one width ({error})") from None
    if vectors.is_complex():
        raise ValueError("these vectors are complex: compare real ones")
    if vectors.ndim not in (1, 2):
        raise ValueError(f"expected vectors, (n, D) or (D,), not {tuple(vectors.shape)}")
    return torch.atleast_2d(vectors if vectors.is_floating_point() else vectors.float())


def quantize_embeddings(
    embeddings: np.ndarray | Tensor, precision: str, ranges: np.ndarray | None = None
) -> np.ndarray:
    """Store vectors in fewer bytes, as quantize_embeddings in sentence-transformers.

    Args:
        embeddings: (n, D), or (D,), floating-point.
        precision: "int8" and "uint8" cut each dimension's range into 256 steps. "binary" and "ubinary" keep one bit a
            dimension, set if the value is above 0. Eight bits make a byte: int8 after subtracting 128, or uint8.
            So D becomes ceil(D / 8).
        ranges: (2, D), for int8 and uint8: the lowest and the highest value of each dimension, from many vectors. None:
            of these vectors, with a warning if they are fewer than 100.

    Raises:
        ValueError: the precision is unknown; a vector is not of finite floats; ranges do not fit; or int8 and uint8
            lack ``ranges`` for a single vector, which has none.
    """
    check_precision(precision)
    if isinstance(embeddings, Tensor):
        embeddings = embeddings.detach().cpu()
        embeddings = (embeddings.float() if embeddings.dtype is torch.bfloat16 else embeddings).numpy()
    embeddings = np.asarray(embeddings)
    if precision == "float32":
        return embeddings.astype(np.float32)
    if embeddings.dtype.kind != "f" or embeddings.ndim not in (1, 2):
        raise ValueError(f"{precision} is for floats, (n, D) or (D,), not {embeddings.dtype} {embeddings.shape}")
    if odd := np.flatnonzero(~np.isfinite(np.atleast_2d(embeddings)).all(-1)).tolist():
        raise ValueError(f"vector {odd[0]} has a NaN or infinity, which {precision} would lose")
    if precision in ("binary", "ubinary"):
        bits = np.packbits(embeddings > 0, axis=-1)
        return bits if precision == "ubinary" else (bits - 128).astype(np.int8)
    if embeddings.ndim == 2 and len(embeddings) == 0:
        return embeddings.astype(precision)
    ranges = (find_ranges(embeddings, precision) if ranges is None else np.asarray(ranges)).astype(np.float32)
    if ranges.shape != (shape := (2, embeddings.shape[-1])) or not (ranges[0] <= ranges[1]).all():
        raise ValueError(f"ranges must be {shape}, the lowest and the highest values, not {ranges.shape} or reversed")
    low, high = ranges
    steps = (high - low) / 255
    steps[steps == 0] = 1
    levels = np.clip(np.floor((embeddings - low) / steps), 0, 255)
    return (levels + np.iinfo(precision).min).astype(precision)


def find_ranges(embeddings: np.ndarray, precision: str) -> np.ndarray:
    """Return the lowest and the highest value of each dimension. (n, D) -> (2, D)

    Warns of few vectors. Raises ValueError for a single one.
    """
    count = 1 if embeddings.ndim == 1 else len(embeddings)
    advice = "give encode, or minibert.quantize_embeddings, ranges=np.stack([x.min(0), x.max(0)]) of many vectors x"
    if count == 1:
        raise ValueError(f"{precision} needs the range of each dimension, and one vector has none: {advice}")
    if count < FEW:
        warn(
            f"{precision} cuts each dimension's range into 256 steps, and these ranges are of {count} vectors only, so "
            f"the codes are far off and fit no others: {advice}"
        )
    return np.stack([embeddings.min(axis=0), embeddings.max(axis=0)])


def write_npy(file: Any, array: np.ndarray) -> None:
    """Write an array to an open file, whatever that is. numpy's own writing hides a real file's errors."""
    np.save(cast(Any, SimpleNamespace(write=file.write)), array)


def numbers(vector: np.ndarray) -> list[float] | list[int]:
    """Return a vector's numbers for JSON: floats by as few digits as tell them from their neighbours."""
    return [float(str(number)) if vector.dtype.kind == "f" else int(number) for number in vector]


def check_precision(precision: str, ranges: np.ndarray | None = None) -> None:
    """Raise ValueError for an unknown precision, or ranges that it does not use."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    if ranges is not None and precision not in ("int8", "uint8"):
        raise ValueError(f"ranges are for precision='int8' and 'uint8', not {precision!r}")


def deliver(
    result: Tensor, precision: str, ranges: np.ndarray | None, as_numpy: bool, as_tensor: bool, *, single: bool = False
) -> Any:
    """Convert results to the form that was asked for; a single text's without the first axis."""
    vectors: Any = result
    if precision != "float32":
        vectors = quantize_embeddings(result.cpu().numpy(), precision, ranges)
        vectors = vectors if as_numpy and not as_tensor else torch.from_numpy(vectors).to(result.device)
    elif as_numpy and not as_tensor:
        vectors = result.numpy()
    if not as_numpy and not as_tensor:
        vectors = list(vectors)
    return vectors[0] if single else vectors
