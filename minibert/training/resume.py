"""A training that was interrupted goes on as if it had not been: the same bits at the end.

What is random in a step (its rows, its dropout) is a function of the seed, the step and the process, so the weights,
the optimizer and the number of the step are all there is to keep.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..checkpoint.atomic import replacing


class ResumeError(ValueError):
    """There is nothing to go on from, or it is of another training."""


@dataclass
class Position:
    """How far a training is."""

    step: int = 0  # steps done
    best: float | None = None  # the highest score so far


@dataclass
class Checkpoint:
    """One file that holds all of a training; the file before it stays until the new one is whole.

    ``identity``, in JSON's types, is what a resume must have in common with what was saved.
    """

    path: Path
    task: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    identity: dict[str, Any]

    def save(self, position: Position) -> None:
        """Write it. Raises OSError where it can't be written: then the checkpoint before it is whole."""
        state = {
            "identity": self.identity,
            "step": position.step,
            "best": position.best,
            "weights": self.task.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        try:
            with replacing(self.path) as temporary:
                torch.save(state, temporary)
        except (OSError, RuntimeError) as error:  # torch's writer hides the system's error in one of its own
            before = "; the one before it is whole" if self.path.exists() else ""
            message = f"the checkpoint of step {position.step} can't be written to {self.path}{before} ({error})"
            raise OSError(message) from error

    def load(self) -> Position:
        """Put everything back.

        Raises:
            ResumeError: there is no checkpoint, it is damaged, or it is of another training (what differs is named).
        """
        if not self.path.exists():
            raise ResumeError(f"there is no checkpoint to resume from: {self.path} does not exist")
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            saved = state["identity"]
        except Exception as error:  # what torch raises for a damaged file is of many kinds
            raise ResumeError(f"the checkpoint {self.path} can't be read: {error}") from None
        names = [name for name in {**saved, **self.identity} if saved.get(name) != self.identity.get(name)]
        if names:
            told = [_difference(name, saved.get(name), self.identity.get(name)) for name in names]
            raise ResumeError(f"{self.path} is of another training: {'; '.join(told)}")
        self.task.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        return Position(state["step"], state["best"])


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators for one step of one process, whatever has been drawn before."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))


def replace_folder(save: Callable[[Path], object], folder: Path) -> None:
    """Let ``save(path)`` write a folder beside ``folder``, then put it in its place.

    Raises:
        OSError: a step fails. The folder from before is whole: under its own name, or, if the system refuses even
            that, beside it, from where `recover_folder` brings it back.
    """
    new, old = _siblings(folder)
    recover_folder(folder)
    try:
        save(new)
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
    finally:
        recover_folder(folder)


def recover_folder(folder: Path) -> None:
    """Undo a `replace_folder` that was interrupted: restore the folder from before, remove leftovers."""
    new, old = _siblings(folder)
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)


def _siblings(folder: Path) -> tuple[Path, Path]:
    """Where the new folder is written, and where the old one waits until the new one is in place."""
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")


def _difference(name: str, was: Any, now: Any) -> str:
    """In words; of what a module prints, the first line that differs."""
    lines = zip_longest(str(was).splitlines(), str(now).splitlines(), fillvalue="nothing")
    if "\n" in str(was) + str(now):
        was, now = next(pair for pair in lines if pair[0] != pair[1])
        return f"{name} had {was.strip()} where it has {now.strip()}"
    return f"{name} was {was!r}, is {now!r}"
