"""The account of one load: the fate of every tensor."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..display import table
from .tensors import SMALL, CheckpointError, dtype_name, file_state


@dataclass(frozen=True)
class LoadReport:
    """The account of one load. All names are Hugging Face's canonical ones, without a leading `bert.`.

    A loaded model has ``unexpected``, ``missing`` and ``wrong_shape`` empty. A WrongTensorsError carries the report
    that fills them.
    """

    source: str  # the name or folder that was given
    files: tuple[Path, ...]  # the files that hold the tensors
    used: tuple[str, ...]
    known_harmless: tuple[str, ...]  # ignored: other tasks' heads, old buffers, state of optimisers
    unexpected: tuple[str, ...]  # in the files, but not part of this BERT
    missing: tuple[str, ...]  # part of this BERT, but not in the files
    wrong_shape: tuple[str, ...]  # each with both shapes
    stored_dtype: str  # in the files: "float32", or several, such as "float16, float32"
    dtype: str  # in the model
    notes: tuple[str, ...] = ()  # choices that the files leave open, such as a default pooling
    states: tuple[tuple[int, ...], ...] = field(default=(), repr=False, compare=False)  # `file_state` of the files

    def __str__(self) -> str:
        """Format the account as a table, which only counts the tensors that were used."""
        lists = {"known, left aside": self.known_harmless, "unexpected": self.unexpected, "missing": self.missing}
        rows: list[tuple[str, object]] = [("source", self.source), *(("file", path) for path in self.files)]
        rows.append(("dtype", f"{self.stored_dtype} in the files, {self.dtype} here"))
        rows.append(("used", f"{len(self.used)} tensors"))
        rows += [(title, ", ".join(names) or "none") for title, names in lists.items()]
        return table([*rows, *(("note", note) for note in self.notes)], left=(0, 1))

    @property
    def complete(self) -> bool:
        """True if every tensor on both sides is accounted for."""
        return not (self.unexpected or self.missing or self.wrong_shape)

    @property
    def mapped(self) -> bool:
        """True if the weights are mapped from the files and take memory only when they are read."""
        return self.stored_dtype == self.dtype and all(path.suffix == ".safetensors" for path in self.files)

    def check_files(self, model: nn.Module) -> None:
        """Raise CheckpointError if weights are mapped from a file that another program has since written in place.

        A file that was replaced does no harm: the map keeps the old one. Nor does it where training wrote all weights.
        """
        mapped = zip(self.files, self.states) if self.dtype in self.stored_dtype else ()  # noqa: B905
        for path, state in mapped:  # a copy of the model has no states
            try:
                found = os.stat(path)  # at every call: nothing slower
            except OSError:  # deleted, and still mapped
                continue
            if found.st_mtime_ns == state[3] or file_state(path)[:2] != state[:2] or state[2] < SMALL:
                continue
            if any(map(self._may_be_mapped, model.parameters())):
                text = "was written again while the model was in use, and its weights are mapped: load it again"
                raise CheckpointError(f"{path}: {text}. A file that is moved into its place does no harm")

    def _may_be_mapped(self, weight: nn.Parameter) -> bool:
        stored = dtype_name(weight.dtype) in self.stored_dtype.split(", ")
        return stored and weight.device.type == "cpu" and not weight._version  # it was never written

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the states: weights that were copied or pickled are not mapped."""
        return {**self.__dict__, "states": ()}

    def with_notes(self, *notes: str) -> LoadReport:
        """Return the report with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def problems(self) -> str:
        """List every difference, one tensor a line."""
        faults = {
            "missing from the files": self.missing,
            "unexpected in the files": self.unexpected,
            "of another shape than config.json says": self.wrong_shape,
        }
        lists = ([f"  {len(names)} {fault}:", *names] for fault, names in faults.items() if names)
        return "\n".join("\n    ".join(lines) for lines in lists)
