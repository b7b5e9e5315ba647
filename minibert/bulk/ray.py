"""The same job on Ray Data, on many machines: tasks read files, actors encode windows of them and write the shards.

Ray chooses the machines, restarts what was lost with one, and does its work again. A window has one place in the
folder, which is written whole or not at all, so a window that was done twice is there once.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checkpoint.atomic import replacing, replacing_all, write_text
from ..config import read_json
from ..display import progress_bar
from ..portable import Whole
from ..tables import BadRow
from .job import MANIFEST, REJECTS, JobError, State, finish, reject_line
from .settings import CorpusOptions
from .shards import as_lists, name_of, store, write_shard
from .sources import ROWS, Position, Reader, Source, Window
from .windows import encode_window

if TYPE_CHECKING:
    import pyarrow

    from ..encoder import SentenceEncoder

PARTS, COUNTS = "parts", "counts.json"  # until the job is complete: a folder for each window
READERS = 16  # files that are read at once; one feeds a hundred actors


class Embedder:
    """Add a column of vectors to batches, for ``map_batches`` of Ray Data. Each actor loads the encoder once.

    ``dataset.map_batches(Embedder, fn_constructor_kwargs={"model": ...}, batch_format="pyarrow", batch_size=4096)``
    adds "embedding": lists of a fixed size, which Parquet keeps. Of numpy's arrays Ray makes a type of its own.

    Args:
        model: A folder or a hub id, for `from_pretrained`; or an encoder, which is sent to each actor.
        column: Of the texts.
        precision: "float32", "float16", "int8" or "ubinary".
        ranges: (2, D) of int8, from `vectors.find_ranges`: without them each batch would have its own.
        options: The keywords of `encode_document`.

    Raises:
        ValueError: int8 without ranges. KeyError: there is no such column. TypeError: a cell is not a text.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | SentenceEncoder,
        column: str = "text",
        *,
        precision: str = "float32",
        ranges: np.ndarray | None = None,
        **options: Any,
    ) -> None:
        from ..encoder import SentenceEncoder

        if precision == "int8" and ranges is None:
            raise ValueError("int8 needs ranges here, the same for all batches")
        self._encoder = model if isinstance(model, SentenceEncoder) else SentenceEncoder.from_pretrained(model)
        self._column, self._precision, self._ranges, self._options = column, precision, ranges, options

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Return the batch with its vectors."""
        window = Window([], batch[self._column].to_pylist(), Position())
        vectors, _ = encode_window(self._encoder, window, self._options)
        return batch.append_column("embedding", as_lists(store(vectors, self._precision, self._ranges)))


class Part(NamedTuple):
    """A window of a file: with its texts from the reader to a writer, with counts from there to the driver."""

    source: int
    number: int  # in the source
    window: Window
    rejects: list[bytes]  # lines of rows since the last window
    read: int  # bytes of the file since the last window
    counts: dict[str, int]

    @property
    def name(self) -> str:
        """The name of its folder in PARTS."""
        return f"{self.source}-{self.number}"


def embed_on_ray(
    encoder: SentenceEncoder, chosen: CorpusOptions, sources: list[Source], folder: Path, skip: bool, shown: bool
) -> tuple[State, int]:
    """Embed what no earlier run has. Return the counts of all, and the number of texts that earlier runs have done.

    Raises:
        JobError: the machines don't share the folder's disk. As `embed_corpus`; and Ray's own errors, if it gives up.
    """
    from ray import put
    from ray.data import ActorPoolStrategy, TaskPoolStrategy, from_items

    # Readers take no core: with one, Ray would fuse them with the writers, and a file would be a single actor's.
    rooted = [replace(source, root=os.getcwd()) for source in sources]
    reference = put(Whole(encoder))  # that has a name here stays in Ray's store
    rows = (
        from_items(list(range(len(sources))), override_num_blocks=len(sources))
        .flat_map(
            _read, fn_args=(rooted, chosen, skip), num_cpus=0, compute=TaskPoolStrategy(min(READERS, len(sources)))
        )
        .map(
            _Writer,
            fn_constructor_args=(reference, folder.absolute(), chosen),
            compute=ActorPoolStrategy(max_size=chosen.processes if chosen.processes > 1 else None),
            **{"num_gpus" if encoder.device.type == "cuda" else "num_cpus": 1},
        )
    )
    rows.context.target_max_block_size = 1  # a window is a block, so any actor may take it
    rows.context.enable_progress_bars = False
    before = {path.parent.name for path in (folder / PARTS).glob(f"*/{COUNTS}")}
    found: dict[tuple[int, int], Part] = {}  # by source and number: what Ray does twice is counted once
    with progress_bar(sum(source.size or 0 for source in sources) >> 10, "kB", shown) as bar:
        for row in rows.iter_rows():
            part = pickle.loads(row["part"])
            if isinstance(part, Exception):
                raise part
            found[part.source, part.number] = part
            bar.update(part.read >> 10)
    parts = [found[place] for place in sorted(found)]
    state = _gather(folder, parts, len(sources), skip)
    return state, sum(part.counts["rows"] for part in parts if part.name in before)


def _gather(folder: Path, parts: list[Part], sources: int, skip: bool) -> State:
    """Number the shards in the order of the sources, and end the job."""
    state = State()
    ends = {part.source: part.number for part in parts if not part.counts}
    if len(ends) != sources or len(parts) != sources + sum(ends.values()):
        raise JobError(f"{folder}: Ray has lost a part of the corpus: run the same again, which adds what is missing")
    for part in parts:
        if part.counts:
            if (shard := folder / PARTS / part.name / name_of(0, "parquet")).exists():
                os.replace(shard, folder / name_of(state.shards, "parquet"))
            state.shards += 1
        for name in ("rows", "tokens", "truncated", "cut"):
            setattr(state, name, getattr(state, name) + part.counts.get(name, 0))
    lines = [line for part in parts for line in part.rejects]
    if skip:
        with replacing(folder / REJECTS) as path:
            path.write_bytes(b"".join(lines))
    state.position = Position(sources - 1, rejected=len(lines), rejects=sum(map(len, lines)))
    finish(folder, state)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    return state


def _read(row: dict[str, int], sources: list[Source], chosen: CorpusOptions, skip: bool) -> Iterator[dict[str, bytes]]:
    """Yield the windows of a source. An error is a row too: what Ray raises for it is of another type."""
    number, rejects, before = row["item"], list[bytes](), 0

    def on_bad(bad: BadRow) -> int:
        if not skip:
            raise bad
        rejects.append(reject_line(bad))
        return 0

    try:
        reader = Reader([sources[number]], chosen.columns, Position(), on_bad)
        for i, window in enumerate(reader.windows(min(chosen.shard_rows, ROWS))):
            yield {"part": pickle.dumps(Part(number, i, window, rejects, reader.done - before, {}))}
            before = reader.done
            rejects.clear()
    except (ValueError, OSError) as error:
        yield {"part": pickle.dumps(error)}


class _Writer:
    """An actor, which loads the encoder once, encodes windows, and writes each as a shard."""

    def __init__(self, reference: Any, folder: Path, chosen: CorpusOptions) -> None:
        from ray import get

        self._encoder, self._folder, self._chosen = get(reference), folder, chosen

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        part = pickle.loads(row["part"])
        if isinstance(part, Part):
            try:
                part = part._replace(counts=self._write(part), window=Window([], [], part.window.position))
            except (ValueError, OSError) as error:
                part = error
        return {"part": pickle.dumps(part)}

    def _write(self, part: Part) -> dict[str, int]:
        """Write the shard, then its counts. Where an earlier run has written them, only read them."""
        if not (self._folder / MANIFEST).exists():
            raise JobError(f"{self._folder}: another machine doesn't see it: give a folder on a disk that all share")
        folder = self._folder / PARTS / part.name
        if (folder / COUNTS).exists():
            return read_json(folder / COUNTS)
        ids, texts, _ = part.window
        if not ids:
            return {}  # the end of the source
        folder.mkdir(parents=True, exist_ok=True)
        vectors, report = encode_window(self._encoder, part.window, self._chosen.encoding)
        columns = {"id": ids, "text": texts} if self._chosen.keep_texts else {"id": ids}
        with replacing_all(folder) as new:
            write_shard(new, 0, "parquet", {"embedding": store(vectors, self._chosen.precision, None)}, columns)
        counts = {"rows": len(ids), "tokens": report.kept, "truncated": report.texts, "cut": report.tokens}
        write_text(folder / COUNTS, json.dumps(counts))
        return counts
