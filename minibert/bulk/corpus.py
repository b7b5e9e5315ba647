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
from ..checkpoint.atomic import naming, replacing, replacing_all
from ..display import ProgressBar, progress_bar
from ..vectors import find_ranges, write_npy
from .job import Rejects, State, describe_model, finish, open_job, save_state
from .settings import CorpusOptions, CorpusReport
from .shards import RANGES, store, write_shard
from .sources import Reader, Source, find_sources

if TYPE_CHECKING:
    from ..encoder import SentenceEncoder

WINDOW = 8192  # texts that are encoded together, at most
# A call of few texts may be one batch, which takes one core or all, as the others are busy: with other last bits.
FEW = 256


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
        if not state.complete:
            _go_on(encoder, found, chosen, place, state, on_error, show_progress_bar)
            finish(place, state)
    seconds = perf_counter() - start
    return CorpusReport(
        texts=state.rows,
        **{name: getattr(state, name) for name in ("tokens", "truncated", "shards")},
        rejected=state.position.rejected,
        resumed=before,
        seconds=seconds,
        texts_per_second=(state.rows - before) / seconds,
    )


def _go_on(
    encoder: SentenceEncoder,
    sources: list[Source],
    chosen: CorpusOptions,
    folder: Path,
    state: State,
    on_error: str,
    shown: bool,
) -> None:
    with (
        Rejects(folder, state, skip=on_error == "skip") as rejects,
        closing(Reader(sources, chosen.columns, state.position, rejects)) as reader,
        progress_bar(reader.total >> 10, "kB", shown) as bar,
    ):
        run = _Run(encoder, reader, chosen, folder, state, bar)
        while run.add_shard():
            state.rejects = rejects.flush()
            save_state(folder, state)
        rejects.flush()


def _describe(encoder: SentenceEncoder, chosen: CorpusOptions, sources: list[Source]) -> dict[str, Any]:
    """Return the manifest. A wrong option of `encode` is refused here."""
    return {
        "format": 1,
        "minibert": __version__,
        "model": describe_model(encoder),
        "width": _encode(encoder, [], chosen).shape[1],
        "options": asdict(chosen),
        "sources": {source.path: source.fingerprint() for source in sources},
    }


def _encode(encoder: SentenceEncoder, texts: list[str], chosen: CorpusOptions) -> np.ndarray:
    """Return the vectors of a window, (n, D) in float32."""
    vectors: np.ndarray = encoder.encode_document(texts, batch_invariant=len(texts) < FEW, **chosen.encoding)
    return vectors.astype(np.float32, copy=False)


class _Run:
    """The work of one run: texts are read, encoded in windows, and written a shard at a time."""

    def __init__(
        self,
        encoder: SentenceEncoder,
        reader: Reader,
        chosen: CorpusOptions,
        folder: Path,
        state: State,
        bar: ProgressBar,
    ) -> None:
        self.encoder, self.reader, self.chosen, self.folder, self.state = encoder, reader, chosen, folder, state
        self.bar, self.shown, self.first, self.start = bar, 0, state.rows, perf_counter()

    def add_shard(self) -> bool:
        """Write the next shard. Return False if nothing is left for one."""
        ids: list[str] = []
        texts: list[str] = []
        parts: list[np.ndarray] = []
        while len(ids) < self.chosen.shard_rows:
            names, window = self.reader.take(min(WINDOW, self.chosen.shard_rows - len(ids)))
            if not names:
                break
            try:
                parts.append(_encode(self.encoder, window, self.chosen))
            except ValueError as error:
                raise ValueError(f"among {names[0]} to {names[-1]}: {error}") from error
            ids += names
            texts += window if self.chosen.keep_texts else []
            self._count(len(names))
        if not ids:
            return False
        vectors = np.concatenate(parts)
        stored = {"embedding": store(vectors, self.chosen.precision, self._ranges(vectors))}
        if self.chosen.copy:
            stored[self.chosen.copy] = vectors.astype(self.chosen.copy)
        with naming(self.folder), replacing_all(self.folder) as new:
            kept = texts if self.chosen.keep_texts else None
            write_shard(new, self.state.shards, self.chosen.output_format, stored, ids, kept)
        self.state.shards += 1
        return True

    def _count(self, rows: int) -> None:
        report, state = self.encoder.truncation_report, self.state
        state.rows += rows
        state.tokens += report.kept
        state.truncated += report.texts
        state.cut += report.tokens
        done = self.reader.done >> 10
        self.bar.update(done - self.shown)
        self.shown = done
        rate = (state.rows - self.first) / (perf_counter() - self.start)
        counts = {"truncated": state.truncated, "rejected": state.position.rejected}
        self.bar.set_postfix(**{"texts": state.rows, "texts/s": round(rate), **counts})

    def _ranges(self, vectors: np.ndarray) -> np.ndarray | None:
        """Return the ranges of int8: those of the first shard, for all."""
        if self.chosen.precision != "int8":
            return None
        path = self.folder / RANGES
        if not self.state.shards:
            with replacing(path) as temporary, temporary.open("wb") as file:
                write_npy(file, find_ranges(vectors, "int8"))
        return np.load(path)
