"""Training data from files: TSV, CSV, JSON lines (each also gzipped) and Parquet -> Examples."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from .examples import Examples

# Labels of SNLI and MultiNLI -> classes, in sentence-transformers' order. SNLI's pairs without a majority are left out.
NLI_CLASSES: Mapping[str, int | None] = {"entailment": 0, "neutral": 1, "contradiction": 2, "-": None}

# The columns of the STS Benchmark's files, as published (ixa2.si.ehu.eus/stswiki): no header, scores from 0 to 5.
STS_BENCHMARK: dict[str, Any] = {"texts": (6, 7), "label": 5, "form": "tsv"}

Column: TypeAlias = "str | int"
Classes: TypeAlias = "Sequence[str] | Mapping[str, int | None]"
Row: TypeAlias = "tuple[str, list[Any]]"  # its place, for messages; the cells of the columns to read


def read_examples(
    path: str | os.PathLike[str],
    *,
    texts: Sequence[Column],
    label: Column | None = None,
    classes: Classes | None = None,
    scale: tuple[float, float] | None = None,
    form: str | None = None,
) -> Examples:
    """Read rows of texts, with a label each, from a file of UTF-8 text, or of Parquet.

    Args:
        texts: The texts' columns, in the objective's order: names from the file's first line, or numbers from 1 (as
            `cut -f` counts) for a file without such a line.
        label: The labels' column. None: there are no labels.
        classes: Labels are words. A sequence numbers them from 0. A mapping gives each word's number, or None to leave
            its rows out (`NLI_CLASSES`). None: labels are numbers, and become float32.
        scale: The lowest and the highest possible score, which become 0 and 1. None: scores stay unchanged.
        form: tsv (tabs, no quotes), csv (commas, quotes as in spreadsheets), jsonl (an object per line) or parquet.
            None: from the file's name.

    Raises:
        ValueError: The file is empty, damaged or not UTF-8, a column is missing, or a label is not valid. The message
            names the line. OSError: The file can't be read.
    """
    path = Path(path)
    read = FORMS.get(form or {"txt": "tsv", "ndjson": "jsonl", "pq": "parquet"}.get(ending(path), ending(path)))
    if read is None:
        raise ValueError(f"{path}: the name must end in .tsv, .csv, .jsonl or .parquet, or the form must be given")
    columns = _checked(texts, label, classes, scale)
    if classes is not None and not isinstance(classes, Mapping):
        classes = {word: number for number, word in enumerate(classes)}
    found: list[list[str]] = [[] for _ in texts]
    labels: list[float] = []
    for place, cells in read(path, columns):
        if label is not None:
            number = _label(place, cells.pop(), classes, scale)
            if number is None:
                continue
            labels.append(number)
        for column, name, cell in zip(found, texts, cells, strict=True):
            if not isinstance(cell, str):
                raise ValueError(f"{place}: column {name!r} must hold a text, not {cell!r}")
            column.append(cell)
    if not found[0]:
        raise ValueError(f"{path}: the file has no examples")
    dtype = torch.float32 if classes is None else torch.long
    return Examples(found, None if label is None else torch.tensor(labels, dtype=dtype))


def ending(path: Path) -> str:
    """Return the ending of a file's name in lower case, without the dot and without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix.removeprefix(".")


def read_pairs(path: str | os.PathLike[str]) -> tuple[np.ndarray, list[str], list[str]]:
    """Read a file of the STS Benchmark: scores (n,), first and second sentences. Raises as `read_examples`."""
    examples = read_examples(path, **STS_BENCHMARK)
    assert examples.labels is not None
    first, second = examples.columns
    return examples.labels.double().numpy(), first, second


def _checked(
    texts: Sequence[Column], label: Column | None, classes: Classes | None, scale: tuple[float, float] | None
) -> list[Column]:
    """Return the columns to read: texts, and the label if there is one. Raises ValueError if they make no sense."""
    if isinstance(texts, (str, int)) or not texts:
        raise ValueError(f"texts must be the columns of the texts, in a list, not {texts!r}")
    columns = [*texts, *([] if label is None else [label])]
    for column in columns:
        if isinstance(column, int) and column < 1:
            raise ValueError(f"columns count from 1: there is no column {column}")
    if label is None and (classes is not None or scale is not None):
        raise ValueError("classes and scale are for labels: name their column")
    if classes is not None and scale is not None:
        raise ValueError("labels are either classes or scores on a scale, not both")
    if scale is not None and not scale[0] < scale[1]:
        raise ValueError(f"a scale goes from its lowest to its highest score, not from {scale[0]:g} to {scale[1]:g}")
    return columns


def _label(
    place: str, cell: Any, classes: Mapping[str, int | None] | None, scale: tuple[float, float] | None
) -> float | None:
    """Return the label as a number; None to leave its row out."""
    if classes is not None:
        if str(cell) not in classes:
            raise ValueError(f"{place}: the label {cell!r} is not one of {', '.join(classes)}")
        return classes[str(cell)]
    try:
        number = float(cell)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{place}: the label {cell!r} is not a finite number")
    if scale is None:
        return number
    low, high = scale
    if not low <= number <= high:
        raise ValueError(f"{place}: the score {number:g} is not on the scale from {low:g} to {high:g}")
    return (number - low) / (high - low)


def _delimited(path: Path, columns: Sequence[Column], rows: Callable[[Path], Iterator[Row]]) -> Iterator[Row]:
    """Yield the cells of those columns, row by row. The first row is a header if a column is given by name."""
    each = rows(path)
    by_name = any(isinstance(column, str) for column in columns)
    header = next(each, None) if by_name else ("", [])
    if header is None:
        return  # an empty file
    places = [column - 1 if isinstance(column, int) else _find(path, column, header[1]) for column in columns]
    for place, cells in each:
        if len(cells) <= max(places):
            raise ValueError(f"{place}: {len(cells)} columns, where at least {max(places) + 1} were expected")
        yield place, [cells[i] for i in places]


def _tabbed(path: Path) -> Iterator[Row]:
    return ((place, line.split("\t")) for place, line in _lines(path))


def _quoted(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file. A quoted cell may hold line ends; a row's place is its first line."""
    reader = csv.reader((line + "\n" for _, line in _lines(path)), strict=True)
    while True:
        place = f"{path}, line {reader.line_num + 1}"
        try:
            yield place, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{place}: not CSV ({error})") from None


def _find(place: str | Path, column: Column, names: Collection[str]) -> int:
    if column not in names:
        raise ValueError(f"{place}: there is no column {column!r}, only {', '.join(map(repr, names))}")
    return list(names).index(str(column))


def _jsonl(path: Path, columns: Sequence[Column]) -> Iterator[Row]:
    for place, line in _lines(path):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{place}: not JSON ({error})") from None
        if not isinstance(values, dict):
            raise ValueError(f"{place}: not a JSON object such as {{{json.dumps(columns[0])}: ...}}")
        cells = list(values.values())
        yield place, [cells[_find(place, column, values)] for column in columns]


def _parquet(path: Path, columns: Sequence[Column]) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ValueError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from None
    with path.open("rb") as opened:
        try:
            file = parquet.ParquetFile(opened)
            for column in columns:
                _find(path, column, file.schema_arrow.names)
            batches = file.iter_batches(columns=list(columns))
            for number, row in enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), 1):
                yield f"{path}, row {number}", [row[str(column)] for column in columns]
        except ArrowException as error:
            raise ValueError(f"{path}: not a Parquet file, or damaged ({error})") from None


FORMS: dict[str, Callable[[Path, Sequence[Column]], Iterator[Row]]] = {
    "tsv": partial(_delimited, rows=_tabbed),
    "csv": partial(_delimited, rows=_quoted),
    "jsonl": _jsonl,
    "parquet": _parquet,
}


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each line with its place. A name that ends in .gz is decompressed."""
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        try:
            yield from decoded_lines(file, path)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: not a gzip file, or damaged ({error})") from None


def decoded_lines(file: Iterable[bytes], name: str | Path, *, start: int = 1) -> Iterator[tuple[str, str]]:
    """Yield each line of UTF-8 text with its place, for messages; without its end or a byte order mark.

    ``start`` is the first line's number.

    Raises:
        ValueError: A line is not UTF-8. The message names the line.
    """
    for number, line in enumerate(file, start):
        place = f"{name}, line {number}"
        try:
            text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{place}: not UTF-8 ({error.reason} at byte {error.start})") from None
        yield place, text
