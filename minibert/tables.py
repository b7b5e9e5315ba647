"""Rows of text files: plain lines, TSV, CSV, JSON lines (each also compressed) and Parquet. A bad row stops nothing."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from .config import in_short

Column: TypeAlias = "str | int"
FORMS = "tsv", "csv", "jsonl", "parquet"  # of tables; the form "text" has one text a line
LONGEST = 2**22  # bytes of a line
ROWS = 1024  # of Parquet, in memory at once


class BadRow(ValueError):
    """A row that can't be used: its file, the number of its first line (Parquet: of the row), and the reason."""

    def __init__(self, file: str, line: int, reason: str, form: str = "text") -> None:
        self.file, self.line, self.reason, self.form = file, line, in_short(reason), form
        super().__init__(f"{place_of(file, line, form)}: {self.reason}")

    def __reduce__(self) -> tuple[type[BadRow], tuple[str, int, str, str]]:
        return BadRow, (self.file, self.line, self.reason, self.form)  # for pickling, from another process


def place_of(file: str, line: int, form: str) -> str:
    """Name a row, for messages."""
    return f"{file}, {'row' if form == 'parquet' else 'line'} {line}"


Row: TypeAlias = "tuple[int, list[Any] | BadRow]"  # the number of its first line, and its cells


def form_of(path: Path) -> str:
    """Return the form that a file's name says it has: one of FORMS, or else its ending, without .gz or .zst."""
    ending = Path(path.name.lower().removesuffix(".gz").removesuffix(".zst")).suffix.removeprefix(".")
    return {"ndjson": "jsonl", "pq": "parquet"}.get(ending, ending)


def read_rows(file: BinaryIO, name: str, form: str, columns: Sequence[Column] = ()) -> Iterator[Row]:
    """Yield the cells of some columns row by row, or what is wrong with the row.

    Args:
        file: Opened to read bytes. It is decompressed if its ``name`` ends in .gz or .zst.
        form: "text" (a line is one cell), or one of FORMS.
        columns: Names from the first line, or numbers from 1 for a file without such a line; names only in JSON lines
            and Parquet.

    Raises:
        ValueError: The file is damaged, or lacks a column, or pyarrow is needed and missing.
    """
    if form == "parquet":
        yield from _parquet(file, name, columns)
        return
    with _decompressed(file, name) as plain:
        lines = Lines(_bounded(plain))
        cells: Iterator[Any] = iter(lines)
        if form == "jsonl":
            cells = map(partial(_fields, columns=columns), lines)
        elif form == "text":
            cells = map(_alone, lines)
        else:
            cells = csv.reader(map("{}\n".format, lines), strict=True) if form == "csv" else map(_tabbed, lines)
            places = [column - 1 for column in columns if isinstance(column, int)]
            if len(places) < len(columns):
                header = next(_each(cells, lines, name), (1, None))[1]
                if header is None:
                    return  # an empty file
                if isinstance(header, BadRow):
                    raise header
                places = [column - 1 if isinstance(column, int) else _find(column, header, name) for column in columns]
            cells = map(partial(_picked, places=places), cells)
        yield from _each(cells, lines, name)


class Lines:
    """The lines of UTF-8 text, without their ends or a byte order mark. After a line that raises comes the next one."""

    def __init__(self, file: Iterable[bytes], *, start: int = 1) -> None:
        self._lines = iter(file)
        self._row: list[bytes] = []  # lines of the row that is being read
        self._again: deque[bytes] = deque()
        self.number = start - 1  # of the latest line

    def begin_row(self) -> int:
        """Return the number of the next line, which begins a row."""
        self._row.clear()
        return self.number + 1

    def give_back(self) -> None:
        """Let all lines of the row but its first come again."""
        self.number -= len(self._row) - 1
        self._again.extendleft(self._row[:0:-1])

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self._row.append(line)
        self.number += 1
        if len(line) > LONGEST:
            raise ValueError(f"longer than {LONGEST} bytes")
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 ({error.reason} at byte {error.start})") from None
        text = text[:-1].removesuffix("\r") if text.endswith("\n") else text.removesuffix("\r")
        return text.removeprefix("\ufeff") if self.number == 1 else text


def decoded_lines(file: Iterable[bytes], name: str | Path, *, start: int = 1) -> Iterator[tuple[str, str]]:
    """Yield each line of UTF-8 text with its place, for messages. ``start`` is the first line's number.

    Raises:
        BadRow: A line is not UTF-8, or too long. The message names the line.
    """
    lines = Lines(file, start=start)
    for number, text in _each(lines, lines, str(name)):
        if isinstance(text, BadRow):
            raise text
        yield place_of(str(name), number, "text"), text


def _bounded(file: Any) -> Iterator[bytes]:
    """Yield lines, of one that is too long only the beginning, so that it does not have to fit in memory."""
    while line := file.readline(LONGEST + 1):
        yield line
        while len(line) > LONGEST and not line.endswith(b"\n"):
            line = file.readline(LONGEST + 1)


@contextmanager
def _decompressed(file: BinaryIO, name: str) -> Iterator[Any]:
    kind = name.lower().rpartition(".")[2]
    if kind not in ("gz", "zst"):
        yield file
        return
    damage: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
    try:
        if kind == "gz":
            yield gzip.GzipFile(fileobj=file)
            return
        pyarrow, damage = _pyarrow(name, ".zst"), (OSError,)
        yield io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"))
    except damage as error:
        raise ValueError(f"{name}: not a {'gzip' if kind == 'gz' else 'zstd'} file, or damaged ({error})") from None


def _pyarrow(name: str, form: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise ValueError(f"{name}: {form} needs pyarrow: pip install pyarrow") from None
    return pyarrow


def _each(cells: Iterator[Any], lines: Lines, name: str) -> Iterator[tuple[int, Any]]:
    """Yield each item of ``cells``, which takes it from ``lines``, with its first line's number; or the BadRow."""
    while True:
        number = lines.begin_row()
        try:
            row = next(cells)
        except StopIteration:
            return
        except csv.Error as error:
            row = BadRow(name, number, f"not CSV ({error})")
            lines.give_back()  # all that a quote too many has taken for a part of this row
        except ValueError as error:
            row = BadRow(name, number, str(error))
        yield number, row


def _alone(line: str) -> list[str]:
    return [line]


def _tabbed(line: str) -> list[str]:
    return line.split("\t")  # no quotes


def _picked(cells: list[str], places: list[int]) -> list[str]:
    if len(cells) <= max(places):
        raise ValueError(f"{len(cells)} columns, where at least {max(places) + 1} were expected")
    return [cells[i] for i in places]


def _fields(line: str, columns: Sequence[Column]) -> list[Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"not a JSON object such as {{{json.dumps(columns[0])}: ...}}")
    for column in columns:
        _find(column, values)
    return [values[str(column)] for column in columns]


def _find(column: Column, names: Collection[str], file: str = "") -> int:
    """Return the column's place. Raise ValueError if there is none of that name."""
    if column not in names:
        text = f"there is no column {column!r}, only {', '.join(map(repr, names))}"
        raise ValueError(in_short(f"{file}: {text}" if file else text))
    return list(names).index(str(column))


def _parquet(file: BinaryIO, name: str, columns: Sequence[Column]) -> Iterator[Row]:
    pyarrow = _pyarrow(name, "Parquet")
    from pyarrow import parquet

    try:  # without the buffer, a whole group of rows is in memory
        opened = parquet.ParquetFile(file, buffer_size=2**20)
        for column in columns:
            _find(column, opened.schema_arrow.names, name)
        batches = opened.iter_batches(batch_size=ROWS, columns=list(dict.fromkeys(columns)))
        number = 0
        for batch in batches:
            cells = [batch.column(str(column)) for column in columns]
            for i in range(len(batch)):
                number += 1
                try:
                    yield number, [cell[i].as_py() for cell in cells]
                except UnicodeDecodeError as error:
                    reason = f"not UTF-8 ({error.reason} at byte {error.start})"
                    yield number, BadRow(name, number, reason, "parquet")
    except pyarrow.ArrowException as error:
        raise ValueError(f"{name}: not a Parquet file, or damaged ({error})") from None
