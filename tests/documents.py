"""The code in a Markdown file: run as a reader would, from top to bottom, and compared with what is shown below it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
# A block of Python, with the output that is shown right below it (nothing: it prints nothing).
_PYTHON = re.compile(r"^```python\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, str]]:
    """All of a text's Python, each with the output that it shows."""
    return [(match[1], match[2] or "") for match in _PYTHON.finditer(text)]


def table(text: str) -> list[tuple[str, ...]]:
    """The cells of a text's only table, without its head."""
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [tuple(cell.strip(" |") for cell in row) for row in rows[2:]]


def run(code: str, names: dict[str, Any], file: Path) -> None:
    """Run a block among the names of those before it."""
    exec(compile(code, str(file), "exec"), names)
