"""Show results in a terminal: aligned tables (wide letters take two columns) and progress bars."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import cast


def width(text: str) -> int:
    """Return the number of terminal columns that the text takes."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def shorten(text: str, columns: int) -> str:
    """Return one line of at most ``columns``. "…" marks a cut, "·" a control character."""
    line = "".join(letter if letter.isprintable() else "·" for letter in text)
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
