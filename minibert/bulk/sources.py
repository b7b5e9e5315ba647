"""The texts of many files, one after another: which files, what is wrong with a row, and how far reading has come."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..tables import FORMS, LONGEST, BadRow, Column, form_of, read_rows

ROWS, LETTERS = 8192, 2**23  # of a window, at most: what is encoded together
WHOLE = 2**26  # bytes of a file that is hashed as a whole; of a longer one, SAMPLES parts of PART bytes
SAMPLES, PART = 64, 2**20


@dataclass(frozen=True)
class Source:
    """A file of texts by its path as given, "-" for stdin, and its form: "text" or one of `tables.FORMS`."""

    path: str
    form: str
    root: str = ""  # that a relative path is below, on another machine

    @property
    def name(self) -> str:
        """The name in messages and ids."""
        return "stdin" if self.path == "-" else self.path

    @property
    def size(self) -> int | None:
        """In bytes; None for stdin and pipes, which can be read only once."""
        place = os.path.join(self.root, self.path)
        return os.path.getsize(place) if self.path != "-" and os.path.isfile(place) else None

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Open the file, compressed as it may be."""
        return nullcontext(sys.stdin.buffer) if self.path == "-" else open(os.path.join(self.root, self.path), "rb")

    def fingerprint(self) -> dict[str, Any]:
        """Return form, size and a hash of the content: of all up to 64 MiB, else of 64 parts of 1 MiB."""
        size = self.size
        if size is None:
            return {"form": self.form}
        digest = hashlib.sha256()
        with self.open() as file:
            for i in range(SAMPLES):
                file.seek(i * (size - PART) // (SAMPLES - 1) if size > WHOLE else i * PART)
                digest.update(file.read(PART))
        return {"form": self.form, "size": size, "sha256": digest.hexdigest()}


def find_sources(
    patterns: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    column: Column | None = None,
    input_format: str | None = None,
    id_column: Column | None = None,
) -> list[Source]:
    """Return the files that paths and glob patterns name, those of a pattern in alphabetical order.

    Raises:
        OSError: There is no such file. ValueError: a file is named twice, is a folder, or is a table and ``column`` is
            not given, or the other way round.
    """
    found: dict[str, Source] = {}
    for pattern in [patterns] if isinstance(patterns, (str, os.PathLike)) else patterns:
        text = os.fspath(pattern)
        paths = [text] if text == "-" or os.path.exists(text) else sorted(glob.glob(text, recursive=True))
        paths = [path for path in paths if path == text or not os.path.isdir(path)]
        if not paths:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
        for path in paths:
            if path in found:
                raise ValueError(f"{path}: this file is given twice")
            found[path] = Source(path, _form(path, column, input_format, id_column))
    if not found:
        raise ValueError("no files are given")
    return list(found.values())


def _form(path: str, column: Column | None, form: str | None, id_column: Column | None) -> str:
    if os.path.isdir(path):
        raise ValueError(f"{path}: this is a folder: give its files, as {path}/*.txt")
    known = form_of(Path(path))
    form = form or (known if known in FORMS or known == "json" else "text")
    if form == "json":
        raise ValueError(f"{path}: JSON lines are read from .jsonl: give the format (--input-format jsonl)")
    if form == "text" and (column is not None or id_column is not None):
        raise ValueError(f"{path}: a file of lines has no columns: give the format of the table (--input-format)")
    if form != "text" and column is None:
        raise ValueError(f"{path} is a table: give the column that holds the texts (--column NAME)")
    if form == "parquet" and path == "-":
        raise ValueError("Parquet can't be read from stdin")
    return form


@dataclass
class Position:
    """How far reading has come."""

    source: int = 0  # that is being read
    row: int = 0  # rows of it that were read, rejected ones too
    digest: str = ""  # of these rows, where the source can't be read twice
    rejected: int = 0  # rows of all sources
    rejects: int = 0  # bytes of the file of rejects


class Window(NamedTuple):
    """Texts to encode together, and the position after them."""

    ids: list[str]
    texts: list[str]
    position: Position


class Reader:
    """The rows of all sources from a position on.

    ``on_bad`` is called with each bad row. It raises, or returns the bytes of the file that it has added the row to.
    """

    def __init__(
        self, sources: Sequence[Source], columns: Sequence[Column], position: Position, on_bad: Callable[[BadRow], int]
    ) -> None:
        self._at = replace(position)
        self._sources, self._columns, self._on_bad = sources, columns, on_bad
        self._sizes = [source.size or 0 for source in sources]
        self._file: Any = None

    def windows(self, shard_rows: int) -> Generator[Window, None, None]:
        """Yield windows of at most ROWS texts and LETTERS, none of which is in two shards. The last one is empty.

        Raises:
            BadRow: what ``on_bad`` raises. ValueError: a file is damaged, or stdin is not what it was at first.
        """
        rows = 0
        with closing(self._read()) as texts:
            while True:
                window, letters = Window([], [], self._at), 0
                for name, text in islice(texts, min(ROWS, shard_rows - rows % shard_rows)):
                    window.ids.append(name)
                    window.texts.append(text)
                    letters += len(text)
                    if letters >= LETTERS:
                        break
                yield window._replace(position=replace(self._at))
                rows += len(window.ids)
                if not window.ids:
                    return

    @property
    def total(self) -> int:
        """Bytes of all sources."""
        return sum(self._sizes)

    @property
    def done(self) -> int:
        """Bytes that were read, roughly."""
        before, file = sum(self._sizes[: self._at.source]), self._file
        if file is None or (not file.closed and not file.seekable()):
            return before
        return before + (self._sizes[self._at.source] if file.closed else file.tell())

    def _read(self) -> Generator[tuple[str, str], None, None]:
        first, before, expected = self._at.source, self._at.row, self._at.digest
        for index in range(first, len(self._sources)):
            source, row, digest = self._sources[index], 0, hashlib.sha256()
            hashed = source.size is None
            with source.open() as self._file:
                for row, (line, cells) in enumerate(read_rows(self._file, source.name, source.form, self._columns), 1):
                    found = _checked(source, line, cells, self._columns)
                    if hashed:
                        digest.update(repr(found).encode())
                    if index == first and row <= before:
                        if row == before and hashed and digest.hexdigest() != expected:
                            raise ValueError(f"{source.name}: the first {row} rows are not those of the last run")
                        continue
                    self._at.source, self._at.row = index, row
                    self._at.digest = digest.hexdigest() if hashed else ""
                    if isinstance(found, BadRow):
                        self._at.rejects = self._on_bad(found)
                        self._at.rejected += 1
                    else:
                        yield found
            if index == first and row < before:
                raise ValueError(f"{source.name}: {row} rows, where the last run has read {before}")


def _checked(source: Source, line: int, cells: list[Any] | BadRow, columns: Sequence[Column]) -> Any:
    """Return a row's id and text, or the BadRow that says what is wrong."""
    if isinstance(cells, BadRow):
        return cells
    for i, cell in enumerate(cells):
        if fault := _fault(cell, is_text=i == 0):
            return BadRow(source.name, line, f"column {columns[i]!r} {fault}" if columns else fault, source.form)
    return (str(cells[1]) if len(cells) > 1 else f"{source.name}:{line}"), cells[0]


def _fault(cell: Any, *, is_text: bool) -> str | None:
    if not isinstance(cell, str):
        if not is_text and isinstance(cell, int) and not isinstance(cell, bool):
            return None
        return f"must hold {'a text' if is_text else 'a text or a whole number'}, not {cell!r:.80}"
    if "\0" in cell:
        return "has a NUL character"
    if len(cell) > LONGEST:
        return f"is longer than {LONGEST} letters"
    if not cell.isascii():
        try:
            cell.encode()
        except UnicodeEncodeError as error:
            return f"is not valid Unicode: {error.reason} at character {error.start}"
    return None
