"""Write a trained student as it is published: float16 on disk, float32 wherever it is loaded."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from minibert import SentenceEncoder
from minibert.checkpoint.save import write_tensors
from minibert.checkpoint.weights import SAFETENSORS

TABLE = "embeddings.word_embeddings.weight"
STORED = torch.float8_e4m3fn  # of the table: a byte a number, and transformers reads it as it reads float16


def write_folder(student: SentenceEncoder, folder: Path) -> None:
    """Write all but the model card.

    config.json says float32, so transformers and sentence-transformers load as minibert does. Only the numbers in the
    file are float16, and those of the table of word pieces have 8 bits.
    """
    student.save_pretrained(folder)
    path, dtypes = folder / SAFETENSORS, {TABLE: STORED}
    write_tensors({name: x.to(dtypes.get(name, torch.float16)) for name, x in load_file(path).items()}, path)


def size(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
