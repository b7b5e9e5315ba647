"""Shards: files of a fixed number of vectors with their ids, in one of four formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoint.save import write_tensors
from ..vectors import numbers, quantize_embeddings, write_npy

RANGES = "ranges.npy"  # of int8


def name_of(shard: int, ending: str) -> str:
    """Return the name of a shard's file."""
    return f"shard-{shard:06}.{ending}"


def store(vectors: np.ndarray, precision: str, ranges: np.ndarray | None) -> np.ndarray:
    """Convert vectors to what is stored: (n, D) float -> (n, D), or for "ubinary" (n, ceil(D / 8)) bytes."""
    if precision == "float16":
        return vectors.astype(np.float16)
    return quantize_embeddings(vectors, precision, ranges)


def restore(codes: np.ndarray, precision: str, width: int, ranges: np.ndarray | None) -> torch.Tensor:
    """Convert what was stored to vectors (n, D) in float32: bits to -1 and 1, int8 to the middle of its step."""
    if precision == "ubinary":
        bits = np.unpackbits(np.ascontiguousarray(codes), axis=-1, count=width)
        return torch.from_numpy(bits).float() * 2 - 1
    vectors = torch.from_numpy(codes)
    if precision != "int8":
        return vectors.float()
    assert ranges is not None
    low, high = torch.from_numpy(ranges)
    return (vectors.float() + 128.5) * ((high - low) / 255) + low


def write_shard(
    folder: Path, shard: int, form: str, vectors: dict[str, np.ndarray], columns: dict[str, list[str]]
) -> None:
    """Write the files of a shard.

    Args:
        folder: The folder.
        shard: Its number, from 0.
        form: One of `settings.FORMATS`.
        vectors: "embedding": the vectors as they are stored; and for "npy" a copy by its precision.
        columns: "id", and "text" if texts are kept.
    """
    array = vectors["embedding"]
    if form in ("npy", "safetensors"):
        (folder / name_of(shard, "json")).write_text(json.dumps(columns), encoding="utf-8")
    if form == "npy":
        for name, values in vectors.items():
            with (folder / name_of(shard, "npy" if name == "embedding" else f"{name}.npy")).open("wb") as file:
                write_npy(file, values)
    elif form == "safetensors":
        write_tensors({"embedding": torch.from_numpy(array)}, folder / name_of(shard, form))
    elif form == "jsonl":
        path = folder / name_of(shard, form)
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as lines:  # JSON's own escapes
            for *row, vector in zip(*columns.values(), array, strict=True):
                line = {**dict(zip(columns, row, strict=True)), "embedding": numbers(vector)}
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    else:
        import pyarrow
        from pyarrow import parquet

        with (folder / name_of(shard, form)).open("wb") as file:
            parquet.write_table(pyarrow.table({**columns, "embedding": as_lists(array)}), file)


def as_lists(array: np.ndarray) -> Any:
    """Convert an array (n, D) to pyarrow's lists of a fixed size."""
    import pyarrow

    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(array.reshape(-1)), array.shape[1])
