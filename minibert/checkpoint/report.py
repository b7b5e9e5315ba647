"""What became of every tensor, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..display import table


@dataclass(frozen=True)
class LoadReport:
    """The account of one load. All names are Hugging Face's, in modern form, without a leading `bert.`.

    A model is only ever returned with ``unexpected``, ``missing`` and ``wrong_shape`` empty; they are filled in the
    report that a ``CheckpointError`` carries.
    """

    source: str  # the name or folder that was asked for
    files: tuple[Path, ...]  # where the tensors lie
    used: tuple[str, ...]
    known_harmless: tuple[str, ...]  # heads for other tasks, old buffers, leftovers of optimisers
    unexpected: tuple[str, ...]  # in the files, but no part of this BERT
    missing: tuple[str, ...]  # part of this BERT, but not in the files
    wrong_shape: tuple[str, ...]  # each with both shapes
    stored_dtype: str  # as it lies in the files: "float32", or several, as "float16, float32"
    dtype: str  # as it was loaded
    notes: tuple[str, ...] = ()  # what was decided for lack of word in the files, as a default pooling

    def __str__(self) -> str:
        """The account as a table; long lists of what is as it should be are only counted."""
        return table(
            [
                ("source", self.source),
                *(("file", path) for path in self.files),
                ("dtype", f"{self.stored_dtype} in the files, {self.dtype} here"),
                ("used", f"{len(self.used)} tensors"),
                ("known, left aside", ", ".join(self.known_harmless) or "none"),
                ("unexpected", ", ".join(self.unexpected) or "none"),
                ("missing", ", ".join(self.missing) or "none"),
                *(("note", note) for note in self.notes),
            ],
            left=(0, 1),
        )

    @property
    def complete(self) -> bool:
        """Whether every tensor on both sides is accounted for."""
        return not (self.unexpected or self.missing or self.wrong_shape)

    @property
    def mapped(self) -> bool:
        """Whether weights lie in the files still, and take memory only as far as they were read."""
        return self.stored_dtype == self.dtype and all(path.suffix == ".safetensors" for path in self.files)

    def problems(self) -> str:
        """All that is wrong, one tensor a line; empty if nothing is."""
        lines = []
        for what, names in (
            ("missing from the files", self.missing),
            ("unexpected in the files", self.unexpected),
            ("of another shape than config.json says", self.wrong_shape),
        ):
            if names:
                lines += [f"  {len(names)} {what}:", *(f"    {name}" for name in names)]
        return "\n".join(lines)
