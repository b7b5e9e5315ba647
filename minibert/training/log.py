"""What a training says of itself: a line of JSON per step, on disk at once."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..checkpoint.atomic import write_text


class Log:
    """Records in memory and, with a path, in a JSON-lines file.

    Each record has ``step`` (steps done), and either ``loss`` (the step's mean, before it), ``rate``, ``norm`` (of
    the gradients, before they are shortened), ``rows_per_s``, ``tokens_per_s``; or ``scores``, a dict.
    """

    def __init__(self, path: Path | None, keep_until: int = 0) -> None:
        """Records after step ``keep_until`` in the file are forgotten: those steps will be made again.

        Raises:
            OSError: the file can't be written.
        """
        self.path = path
        self.records = [record for record in read_log(path) if record["step"] <= keep_until] if path else []
        if path:
            write_text(path, "".join(f"{json.dumps(record)}\n" for record in self.records))

    def add(self, **record: Any) -> None:
        """Append one record."""
        self.records.append(record)
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(record)}\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a file; none if it is not there. A last line that was cut off in a crash is left out.

    Raises:
        ValueError: another line is no JSON.
    """
    if not path.exists():
        return []
    *lines, rest = path.read_text(encoding="utf-8").split("\n")
    with suppress(ValueError):
        lines += [rest] if rest and json.loads(rest) else []
    return [json.loads(line) for line in lines]
