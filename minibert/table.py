"""Tables that align, also where letters are two columns wide."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


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
