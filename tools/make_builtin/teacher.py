"""Sentences -> the teacher's vectors, once, in pieces that a broken-off run goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minibert import SentenceEncoder
from minibert.atomic import replacing

PIECE = 16_384  # sentences a file


def teacher_vectors(teacher: str, sentences: Sequence[str], folder: Path) -> np.ndarray:
    """The vectors that the student is to give, as float16 (sentences, D); ``folder`` keeps them.

    Products are in bfloat16, which moves the vectors by about 1e-3, far less than the student will miss them by.
    """
    folder.mkdir(parents=True, exist_ok=True)
    encoder: SentenceEncoder | None = None
    pieces = []
    for start in range(0, len(sentences), PIECE):
        path = folder / f"{start:07d}.npy"
        if not path.exists():
            encoder = encoder or SentenceEncoder.from_pretrained(teacher, dtype="bfloat16", truncation="silent")
            vectors = encoder.encode(sentences[start : start + PIECE]).astype(np.float16)
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, vectors)
            print(f"teacher: {start + len(vectors)} of {len(sentences)} sentences", flush=True)
        pieces.append(np.load(path))
    return np.concatenate(pieces)
