"""Compute the teacher's vectors once, in pieces, so that an interrupted run can continue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minibert import SentenceEncoder
from minibert.checkpoint.atomic import replacing

PIECE = 16_384  # sentences a file


def teacher_vectors(teacher: SentenceEncoder, sentences: Sequence[str], folder: Path) -> np.ndarray:
    """Return the vectors that the student learns, float16 (sentences, D); ``folder`` keeps them."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = []
    for start in range(0, len(sentences), PIECE):
        path = folder / f"{start:07d}.npy"
        if not path.exists():
            vectors = teacher.encode(sentences[start : start + PIECE]).astype(np.float16)
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, vectors)
            print(f"teacher: {start + len(vectors)} of {len(sentences)} sentences", flush=True)
        pieces.append(np.load(path))
    return np.concatenate(pieces)
