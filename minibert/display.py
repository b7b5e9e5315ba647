"""What a person sees in a terminal: aligned tables (wide letters take two columns) and progress bars."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any


def width(text: str) -> int:
    """Columns that a terminal gives to the text."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def shorten(text: str, columns: int) -> str:
    """One line of at most so many columns; what was cut is marked, and so are control characters."""
    line = "".join(letter if letter.isprintable() else "·" for letter in text)
    if width(line) <= columns:
        return line
    while width(line) > columns - 1:
        line = line[:-1]
    return line + "…"


def table(rows: Sequence[Sequence[object]], *, left: Sequence[int] = (0,)) -> str:
    """Rows of cells -> lines; numbers on the right of their columns, the columns named in ``left`` on the left."""
    cells = [[str(cell) for cell in row] for row in rows]
    columns = [max(map(width, column)) for column in zip(*cells, strict=True)]

    def padded(cell: str, i: int) -> str:
        space = " " * (columns[i] - width(cell))
        return cell + space if i in left else space + cell

    return "\n".join("  ".join(padded(cell, i) for i, cell in enumerate(row)).rstrip() for row in cells)


def progress_bar(total: int, unit: str, shown: bool, *, done: int = 0) -> Any:
    """A context manager with ``update(n)``, on stderr or in the notebook; one that does nothing if not ``shown``.

    It begins at ``done``, and ``set_postfix(name=text)`` says more after the bar.

    huggingface_hub brings tqdm along, so the bar of a download and that of an encoding look alike.
    """
    if not shown:
        return _Silent()
    from huggingface_hub.utils.tqdm import tqdm

    return tqdm(total=total, initial=done, unit=f" {unit}", smoothing=0.1)  # type: ignore[no-untyped-call]


class _Silent:
    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, n: int) -> None:
        """Show nothing."""

    def set_postfix(self, **_: object) -> None:
        """Show nothing."""
