"""The folder of a training: its log, its best model, and a checkpoint from which it continues to the same bits.

The random numbers of a step (its rows, its dropout) are a function of the seed, the step and the process. So a
checkpoint needs only the weights, the optimizer and the number of the step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.atomic import replacing, replacing_all, temporary_folder, write_text
from ..checkpoint.tensors import CheckpointError
from . import parallel
from .task import Task


class ResumeError(ValueError):
    """There is no checkpoint to resume from, or it belongs to another training."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return a file's records, without a last line that a crash cut off. Raises ValueError if another is damaged."""
    if not path.exists():
        return []
    *lines, rest = path.read_text(encoding="utf-8").split("\n")
    with suppress(ValueError):
        lines += [rest] if rest and json.loads(rest) else []
    return [json.loads(line) for line in lines]


@dataclass
class RunState:
    """A training in progress: how far it is, and all that it needs to continue.

    Each record of the log has ``step`` (steps done). That of a step has ``loss`` (before the step), ``rate``, ``norm``
    (of the gradients, before clipping), ``rows_per_s`` and ``tokens_per_s``. That of an evaluation has ``scores``.
    """

    task: Task
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    folder: Path | None = None  # None: nothing is written. Only the first process writes
    identity: dict[str, Any] = field(default_factory=dict)  # the same in a resumed training, in JSON's types
    records: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0  # steps done
    best: float | None = None  # the highest score so far

    @property
    def checkpoint(self) -> Path | None:
        """The file to resume from."""
        return self.folder / "checkpoint.pt" if self.folder else None

    @property
    def _parts(self) -> dict[str, Any]:
        return {"weights": self.task, "optimizer": self.optimizer, "scaler": self.scaler}

    def open_log(self) -> None:
        """Start `log.jsonl`, or continue it: records of steps that will be taken again are forgotten."""
        if self.folder is not None and parallel.is_first():
            path = self.folder / "log.jsonl"
            self.records = [record for record in read_log(path) if record["step"] <= self.step]
            write_text(path, "".join(f"{json.dumps(record)}\n" for record in self.records))

    def add(self, **record: Any) -> None:
        """Append a record to the log."""
        self.records.append(record)
        if self.folder is not None and parallel.is_first():
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(record)}\n")

    def save(self) -> None:
        """Write the checkpoint. Raises OSError if it can't be written; the one before it stays whole."""
        path = self.checkpoint
        if path is None or not parallel.is_first():
            return
        state = {"identity": self.identity, "step": self.step, "best": self.best}
        state |= {name: part.state_dict() for name, part in self._parts.items()}
        try:
            with replacing(path) as temporary:
                torch.save(state, temporary)
        except (OSError, RuntimeError) as error:  # torch's writer hides the system's error in one of its own
            before = "; the one before it is whole" if path.exists() else ""
            cause = getattr(error, "strerror", None) or error
            raise OSError(f"the checkpoint of step {self.step} can't be written to {path}{before} ({cause})") from error

    def load(self) -> None:
        """Continue from the checkpoint.

        Raises:
            ResumeError: It is missing or damaged, or belongs to another training. The message names the differences.
        """
        path = self.checkpoint
        if path is None or not path.exists():
            raise ResumeError(f"there is no checkpoint to resume from: {path} does not exist. Start without resume")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            saved = state["identity"]
        except Exception as error:  # torch raises many kinds for a damaged file
            raise ResumeError(f"the checkpoint {path} can't be read: {error}") from None
        pairs = {name: (saved.get(name), self.identity.get(name)) for name in {**saved, **self.identity}}
        differences = [_difference(name, was, now) for name, (was, now) in pairs.items() if was != now]
        if differences:
            raise ResumeError(f"{path} belongs to another training: {'; '.join(differences)}")
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self.step, self.best = state["step"], state["best"]

    @contextmanager
    def kept_if_it_fails(self) -> Iterator[None]:
        """If the block raises, write a checkpoint, and the model unless a better one is there; then the error goes on.

        To resume from that checkpoint begins with what failed. Raises OSError if it can't be written.
        """
        try:
            yield
        except BaseException as error:  # Ctrl-C too: what was learned may have taken days, an evaluation minutes
            self.save()
            if self.best is None:
                self.save_model()
            if self.checkpoint is not None and hasattr(error, "add_note"):  # from Python 3.11 on
                where = f"the weights of step {self.step} are not lost: they are in {self.checkpoint}"
                error.add_note(f"{where}. The same training with resume=True goes on with this evaluation")
            raise

    def check_saving(self) -> None:
        """Save the model for a trial, and remove it: raise before the first step what would be raised after the last.

        Raises:
            CheckpointError: The model has no published form.
        """
        if self.folder is not None and parallel.is_first():
            try:
                with temporary_folder(self.folder) as trial:
                    self.task.save(trial)
            except CheckpointError as error:
                text = f"the trained model can't be saved, so train it without a folder: {error}"
                raise CheckpointError(text) from None

    def save_model(self) -> None:
        """Write the model as it is published, in place of the one before. Raises OSError; that one is then whole."""
        if self.folder is not None and parallel.is_first():
            with replacing_all(self.folder / "model", whole=True) as new:
                self.task.save(new)


def refuse_used(folder: Path) -> None:
    """Raise ValueError if a folder holds a training, which another one would overwrite."""
    # A training that was killed before its first checkpoint left a log only: it begins anew.
    if (folder / "checkpoint.pt").exists():
        advice = "resume=True (--resume) goes on with it, or name another folder"
    elif (folder / "model").exists():
        advice = "name another folder"
    else:
        return
    raise ValueError(f"{folder} holds a training already: {advice}")


def _difference(name: str, was: Any, now: Any) -> str:
    """Say how two values differ; of a printed module, name the first line that does."""
    if "\n" not in str(was) + str(now):
        return f"{name} was {was!r}, is {now!r}"
    lines = zip_longest(str(was).splitlines(), str(now).splitlines(), fillvalue="nothing")
    was, now = next(pair for pair in lines if pair[0] != pair[1])
    return f"{name} had {was.strip()} where it has {now.strip()}"
