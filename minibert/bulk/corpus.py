"""Embed whole files into a folder of shards, in memory that does not grow, and go on after a crash."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..call import trim_memory
from ..checkpoint.atomic import flush, replacing, replacing_all
from ..display import progress_bar
from ..truncation import TruncationReport
from ..vectors import find_ranges, write_npy
from .job import JobError, Rejects, State, describe_model, finish, open_job, save_state
from .ray import embed_on_ray
from .settings import CorpusOptions, CorpusReport
from .shards import RANGES, store, write_shard
from .sources import Position, Reader, Source, Window, find_sources
from .windows import encode_window, encoded

if TYPE_CHECKING:
    from ..encoder import SentenceEncoder


def embed_corpus(
    encoder: SentenceEncoder,
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    on_error: str = "stop",
    show_progress_bar: bool = False,
    **options: Any,
) -> CorpusReport:
    """Embed the texts of files into a folder of shards. A call that was killed goes on where it was.

    The result has the same bytes as without the interruption, on one machine with one number of threads.

    Args:
        encoder: The encoder.
        sources: Paths and glob patterns; "-" is stdin.
        folder: Where the shards are, manifest.json, and rejects.jsonl.
        on_error: For a row that is not a text: "stop" raises BadRow, "skip" adds it to rejects.jsonl.
        show_progress_bar: On stderr.
        options: See ``CorpusOptions``.

    Raises:
        BadRow (a ValueError): its file and line are named. JobError (a ValueError): the folder holds the vectors of
            another model, other options or other sources. OSError: a file can't be read or written.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f"on_error must be stop or skip, not {on_error!r}")
    chosen, place, start = CorpusOptions(**options), Path(folder), perf_counter()
    found = find_sources(sources, chosen.column, chosen.input_format, chosen.id_column)
    with open_job(place, _describe(encoder, chosen, found)) as state:
        before = state.rows
        if not state.complete and chosen.engine == "ray":
            state, before = embed_on_ray(encoder, chosen, found, place, on_error == "skip", show_progress_bar)
        elif not state.complete:
            _Run(chosen, place, state)(encoder, found, on_error, show_progress_bar)
            finish(place, state)
        elif any(source.size is None for source in found):  # what has no fingerprint is compared row by row
            with closing(Reader(found, chosen.columns, state.position, lambda bad: 0).windows(1)) as rest:
                if next(rest).ids:
                    raise JobError(f"{folder}: complete, and the input now has more rows: give another folder")
    seconds = perf_counter() - start
    return CorpusReport(
        texts=state.rows,
        **{name: getattr(state, name) for name in ("tokens", "truncated", "shards")},
        rejected=state.position.rejected,
        resumed=before,
        seconds=seconds,
        texts_per_second=(state.rows - before) / seconds,
    )


def _describe(encoder: SentenceEncoder, chosen: CorpusOptions, sources: list[Source]) -> dict[str, Any]:
    """Return the manifest. A wrong option of `encode` is refused here, and a source that no other machine can read."""
    if chosen.engine == "ray" and (unread := [source.name for source in sources if source.size is None]):
        raise ValueError(f"{unread[0]}: other machines can't read it: engine='ray' needs files")
    vectors, _ = encode_window(encoder, Window([], [], Position()), chosen.encoding)
    return {
        "format": 1,
        "minibert": __version__,
        "model": describe_model(encoder),
        "width": vectors.shape[1],
        "options": asdict(chosen),
        "sources": {source.path: source.fingerprint() for source in sources},
    }


class _Run:
    """The work that is left of a job: its texts are read, encoded in windows, and written a shard at a time."""

    def __init__(self, chosen: CorpusOptions, folder: Path, state: State) -> None:
        self.chosen, self.folder, self.state = chosen, folder, state
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.vectors: list[np.ndarray] = []

    def __call__(self, encoder: SentenceEncoder, sources: list[Source], on_error: str, shown: bool) -> None:
        state, first, start = self.state, self.state.rows, perf_counter()
        with closing(Rejects(self.folder, state, skip=on_error == "skip")) as rejects:
            reader = Reader(sources, self.chosen.columns, state.position, rejects)
            windows = reader.windows(self.chosen.shard_rows)
            with progress_bar(reader.total >> 10, "kB", shown) as bar, closing(windows):
                done = 0
                for window, (vectors, report) in encoded(encoder, windows, self.chosen.encoding, self.chosen.processes):
                    self.add(window, vectors, report)
                    trim_memory()
                    bar.update((reader.done >> 10) - done)
                    done = reader.done >> 10
                    rate = round((state.rows - first) / (perf_counter() - start))
                    counts = {"truncated": state.truncated, "rejected": window.position.rejected}
                    bar.set_postfix(**{"texts": state.rows, "texts/s": rate, **counts})

    def add(self, window: Window, vectors: np.ndarray, report: TruncationReport) -> None:
        """Add a window to the shard. If it is full, or the window is the last one, which is empty, write the shard."""
        state = self.state
        self.ids += window.ids
        self.texts += window.texts if self.chosen.keep_texts else []
        self.vectors.append(vectors)
        state.rows += len(window.ids)
        state.tokens += report.kept
        state.truncated += report.texts
        state.cut += report.tokens
        state.position = window.position
        if len(self.ids) == self.chosen.shard_rows or (self.ids and not window.ids):
            self.write()
            state.shards += 1
            save_state(self.folder, state)
            self.ids, self.texts, self.vectors = [], [], []

    def write(self) -> None:
        """Write the shard, all of its files or none."""
        vectors, columns = np.concatenate(self.vectors), {"id": self.ids}
        if self.chosen.keep_texts:
            columns["text"] = self.texts
        stored = {"embedding": store(vectors, self.chosen.precision, self.ranges(vectors))}
        if self.chosen.copy:
            stored[self.chosen.copy] = vectors.astype(self.chosen.copy)
        with replacing_all(self.folder) as new:
            write_shard(new, self.state.shards, self.chosen.output_format, stored, columns)
            flush(*new.iterdir())

    def ranges(self, vectors: np.ndarray) -> np.ndarray | None:
        """Return the ranges of int8: those of the first shard, for all."""
        if self.chosen.precision != "int8":
            return None
        path = self.folder / RANGES
        if not self.state.shards:
            with replacing(path) as temporary:
                with temporary.open("wb") as file:
                    write_npy(file, find_ranges(vectors, "int8"))
                flush(temporary)
        return np.load(path)
