"""What can be chosen for a corpus, and what is reported of it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ..config import check_count
from ..tables import Column

FORMATS = "npy", "parquet", "safetensors", "jsonl"
PRECISIONS = "float32", "float16", "int8", "ubinary"
ENGINES = "local", "ray"


@dataclass(frozen=True)
class CorpusOptions:
    """The options that make a corpus's vectors what they are. All are in the manifest.

    Args:
        column: Of the texts, in tables: a name, or a number from 1 in a TSV or CSV file without a first line of names.
        id_column: Of the ids. None: the file's name and the row's line (in Parquet: its number), as ``a.txt:1``.
        input_format: "text", "tsv", "csv", "jsonl" or "parquet". None: by each file's name.
        output_format: "npy", "parquet", "safetensors" or "jsonl".
        precision: "float32", "float16", "int8" (ranges are of the first shard), or "ubinary" (bits, in numpy's order).
        copy: "float32" or "float16": such vectors too, for a search in int8 or bits to rescore by. For "npy" only.
        keep_texts: Write the texts beside the ids, for a search to show.
        shard_rows: Vectors of a shard. What a crash costs is the time of one.
        truncate_dim, normalize_embeddings, prompt, prompt_name, batch_size: As in `encode_document`.
        processes: That encode side by side on this machine, each on its share of the cores, or on a GPU.
        engine: "local", or "ray": Ray Data on many machines, for Parquet. ``processes`` are then the most actors, each
            on a core or a GPU; 1 means as many as there is room for.

    Raises:
        ValueError: a value is wrong.
    """

    column: Column | None = None
    id_column: Column | None = None
    input_format: str | None = None
    output_format: str = "npy"
    precision: str = "float32"
    copy: str | None = None
    keep_texts: bool = False
    shard_rows: int = 16384
    truncate_dim: int | None = None
    normalize_embeddings: bool = False
    prompt: str | None = None
    prompt_name: str | None = None
    batch_size: int | None = None
    processes: int = 1
    engine: str = "local"

    def __post_init__(self) -> None:
        check_count("shard_rows", self.shard_rows)
        check_count("processes", self.processes)
        choices = {"output_format": FORMATS, "precision": PRECISIONS, "copy": (None, "float32", "float16")}
        choices["engine"] = ENGINES
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, not {getattr(self, name)!r}")
        if self.copy and self.output_format != "npy":
            raise ValueError(f"a copy is for output_format='npy', not {self.output_format!r}")
        if self.engine == "ray":
            if self.output_format != "parquet":
                raise ValueError(f"engine='ray' writes output_format='parquet', not {self.output_format!r}")
            if self.precision == "int8":
                raise ValueError("engine='ray' has no int8, whose ranges are of the first shard: take float16")
            if not find_spec("ray"):
                raise ValueError("engine='ray' needs Ray: pip install \"minibert-encoder[ray]\"")

    @property
    def columns(self) -> list[Column]:
        """The columns to read."""
        return [column for column in (self.column, self.id_column) if column is not None]

    @property
    def encoding(self) -> dict[str, Any]:
        """The keywords for the encoder."""
        names = ("normalize_embeddings", "truncate_dim", "prompt", "prompt_name", "batch_size")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class CorpusReport:
    """What was done. The counts are of all runs, ``seconds`` and ``texts_per_second`` of the last one."""

    texts: int
    tokens: int
    truncated: int  # texts
    rejected: int  # rows
    shards: int
    resumed: int  # texts of earlier runs
    seconds: float
    texts_per_second: float
