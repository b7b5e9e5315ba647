"""Vectors in fewer bytes: int8, uint8, and one bit per dimension, as sentence-transformers defines them."""

from __future__ import annotations

import numpy as np

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
                "call, or use minibert.precision.quantize_embeddings(vectors, precision, ranges=...)"
            )
        ranges = np.stack([embeddings.min(axis=0), embeddings.max(axis=0)])
    low, high = ranges.astype(np.float32)
    steps = (high - low) / 255
    steps[steps == 0] = 1
    levels = np.clip(np.floor((embeddings - low) / steps), 0, 255)
    return (levels - 128).astype(kind) if precision == "int8" else levels.astype(kind)
