"""Training data from files: TSV, CSV, JSON lines (each also compressed) and Parquet -> Examples."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from ..tables import FORMS, BadRow, Column, form_of, place_of, read_rows
from .examples import Examples

# Labels of SNLI and MultiNLI -> classes, in sentence-transformers' order. SNLI's pairs without a majority are left out.
NLI_CLASSES: Mapping[str, int | None] = {"entailment": 0, "neutral": 1, "contradiction": 2, "-": None}

# The columns of the STS Benchmark's files, as published (ixa2.si.ehu.eus/stswiki): no header, scores from 0 to 5.
STS_BENCHMARK: dict[str, Any] = {"texts": (6, 7), "label": 5, "form": "tsv"}

Classes: TypeAlias = "Sequence[str] | Mapping[str, int | None]"


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
    form = form or {"txt": "tsv"}.get(form_of(path), form_of(path))
    if form not in FORMS:
        path.stat()  # a file that is missing has no better name
        raise ValueError(f"{path}: the name must end in .tsv, .csv, .jsonl or .parquet, or the form must be given")
    columns = _checked(texts, label, classes, scale)
    if classes is not None and not isinstance(classes, Mapping):
        classes = {word: number for number, word in enumerate(classes)}
    found: list[list[str]] = [[] for _ in texts]
    labels: list[float] = []
    for place, cells in _rows(path, columns, form):
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


def _rows(path: Path, columns: Sequence[Column], form: str) -> Iterator[tuple[str, list[Any]]]:
    """Yield the place of each row, for messages, and its cells of those columns."""
    with path.open("rb") as file:
        for line, cells in read_rows(file, str(path), form, columns):
            if isinstance(cells, BadRow):
                raise cells
            yield place_of(str(path), line, form), cells


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
