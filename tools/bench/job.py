"""What the processes tell each other. Imports nothing heavy: an engine's process pays for its own library only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class Model:
    """A checkpoint, as far as an engine must know it."""

    name: str
    folder: str
    work: str  # beside it: tokenizer/, workloads.json, what was converted
    pooling: str  # cls or mean
    normalize: bool
    limit: int  # tokens
    hidden: int
    intermediate: int
    layers: int
    heads: int
    positions: int

    def linear_flops(self, tokens: int) -> float:
        """Of all linear layers: a multiplication and an addition for each weight and token."""
        return 2.0 * tokens * self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.intermediate)


@dataclass(frozen=True)
class Workload:
    """Texts, call by call."""

    calls: list[list[str]]
    limit: int  # longer text is cut, in tokens
    tokens: int  # all together, without padding

    @property
    def texts(self) -> int:
        """All together."""
        return sum(map(len, self.calls))


def read_workloads(model: Model) -> dict[str, Workload]:
    """As `models.cut_workloads` wrote them."""
    found = json.loads((Path(model.work) / "workloads.json").read_text(encoding="utf-8"))
    return {name: Workload(**values) for name, values in found.items()}


class Setting(NamedTuple):
    """How an engine is driven: texts a batch, batches side by side, threads for each of them."""

    batch: int
    workers: int
    threads: int

    def __str__(self) -> str:
        return f"{self.batch}, {self.workers} x {self.threads}"
