"""Show results in a terminal: aligned tables (wide letters take two columns), progress bars, and warnings."""

from __future__ import annotations

import sys
import textwrap
import unicodedata
import warnings
from collections.abc import Sequence
from itertools import chain
from typing import cast


def width(text: str) -> int:
    """Return the number of terminal columns that the text takes."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def printable(text: str) -> str:
    """Put "·" for each control character: names in files may hold any."""
    return "".join(letter if letter.isprintable() else "·" for letter in text)


def shorten(text: str, columns: int) -> str:
    """Return one line of at most ``columns``. "…" marks a cut, "·" a control character."""
    line = printable(text)
    if width(line) <= columns:
        return line
    while width(line) >= columns:
        line = line[:-1]
    return line + "…"


def table(rows: Sequence[Sequence[object]], *, left: Sequence[int] = (0,)) -> str:
    """Align rows of cells into lines: columns in ``left`` to the left, all others to the right, as numbers are."""
    cells = [[str(cell) for cell in row] for row in rows]
    columns = [max(map(width, column)) for column in zip(*cells, strict=True)]

    def padded(cell: str, i: int) -> str:
        space = " " * (columns[i] - width(cell))
        return cell + space if i in left else space + cell

    return "\n".join("  ".join(padded(cell, i) for i, cell in enumerate(row)).rstrip() for row in cells)


def hanging(rows: Sequence[Sequence[str]], columns: int | None = None) -> str:
    """Align rows whose last cell is text. It goes on below itself where a line would be above ``columns``."""
    heads = table([row[:-1] for row in rows], left=range(9)).split("\n")
    indent = max(map(width, heads)) + 2
    lines: list[str] = []
    for head, row in zip(heads, rows, strict=True):
        room = max(24, (columns or 10**6) - indent)
        wrapped = (textwrap.wrap(line, room, break_on_hyphens=False) or [""] for line in row[-1].split("\n"))
        for part in chain.from_iterable(wrapped):
            lines.append(f"{head:{indent}}{part}".rstrip())
            head = ""
    return "\n".join(lines)


def warn(message: str) -> None:
    """Warn with the line that called the package: the first one outside of it and of torch, which calls modules."""
    frame, level = sys._getframe(), 1
    while frame.f_globals.get("__name__", "").partition(".")[0] in ("minibert", "torch") and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


class ProgressBar:
    """A bar that shows nothing; one that does is tqdm's, which has these methods too."""

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, n: int) -> None:
        """Advance by n."""

    def set_description_str(self, text: str, *, refresh: bool) -> None:
        """Write the text before the bar."""

    def set_postfix(self, **values: object) -> None:
        """Write ``name=value`` after the bar."""


def progress_bar(total: int, unit: str, shown: bool, *, done: int = 0) -> ProgressBar:
    """Return a bar from ``done`` to ``total``, on stderr or in the notebook; one that does nothing if not ``shown``."""
    if not shown:
        return ProgressBar()
    from huggingface_hub.utils.tqdm import tqdm  # so that the bars of downloads and of `encode` look alike

    return cast(ProgressBar, tqdm(total=total, initial=done, unit=f" {unit}", smoothing=0.1))  # type: ignore[no-untyped-call]
