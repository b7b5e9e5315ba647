"""Compute the teacher's vectors once, in pieces, so that an interrupted run can continue."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minibert import SentenceEncoder
from minibert.checkpoint.atomic import replacing

PIECE = 16_384  # texts a file


def teacher_vectors(teacher: SentenceEncoder, texts: Sequence[str], folder: Path) -> np.ndarray:
    """Return the vectors that the student learns, float16 (texts, D). ``folder`` keeps them, also for other lists."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = _digests(texts)
    known, vectors = _read(folder)
    missing = np.flatnonzero(~np.isin(asked, known))
    for start in range(0, len(missing), PIECE):
        piece = missing[start : start + PIECE]
        made = teacher.encode([texts[i] for i in piece]).astype(np.float16)
        with replacing(folder / f"{len(known) + start:07d}.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, digests=asked[piece], vectors=made)
        print(f"teacher: {start + len(piece)} of {len(missing)} texts", flush=True)
    if len(missing):
        known, vectors = _read(folder)
    order = np.argsort(known)
    return vectors[order[np.searchsorted(known, asked, sorter=order)]]


def _read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the digests of all texts whose vectors the folder keeps, uint64 (n,), and the vectors, (n, D)."""
    digests, vectors = [np.zeros(0, dtype=np.uint64)], list[np.ndarray]()
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as piece:
            digests.append(piece["digests"])
            vectors.append(piece["vectors"])
    return np.concatenate(digests), np.concatenate(vectors) if vectors else np.zeros((0, 0), dtype=np.float16)


def _digests(texts: Sequence[str]) -> np.ndarray:
    joined = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(joined, dtype=np.uint64)
