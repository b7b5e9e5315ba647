"""The hyper-parameters: everything but the task and its data that determines the trained weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from ..config import check_count

AUTOCASTS = ("bfloat16", "float16")
KINDS: dict[str, tuple[Any, str]] = {
    "bool": (bool, "True or False"),
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
}


def _of(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})  # `minibert train --help` shows it


@dataclass(frozen=True)
class Settings:
    """The defaults are Sentence-BERT's (arXiv 1908.10084, section 3.1), with AdamW's weight decay of 0.01.

    Raises:
        ValueError: A value is of another type, or out of range.
    """

    epochs: float = _of(1, "passes over the data; a fraction is allowed")
    steps: int | None = _of(None, "optimizer steps, in place of epochs")
    batch_size: int = _of(16, "rows per batch, of all processes together")
    accumulate: int = _of(1, "batches per step")  # unlike in `SentenceTask`'s chunks, rows of two are not compared
    learning_rate: float = _of(2e-5, "the highest one")
    warmup: float = _of(0.1, "fraction of the steps in which the rate rises linearly from 0; then it falls to 0")
    weight_decay: float = _of(0.01, "AdamW's, of matrices; biases and norms do not decay")
    max_grad_norm: float | None = _of(1.0, "clip the gradients, as one vector, to this norm")  # None: never
    autocast: str | None = _of(None, "mixed precision; float16 needs a GPU (default: none)")
    gradient_checkpointing: bool = _of(False, "less memory, more time: keep only each layer's input")
    fused: bool = _of(True, "torch's fused norm, attention and activation, in place of the page's parts")
    by_length: bool = _of(True, "batches of similar text length")  # see `examples.epoch`
    seed: int = _of(0, "of the order, of dropout, of new weights")

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate"):
            check_count(name, getattr(self, name), optional=name == "steps")
        self._check_types()
        for name in ("epochs", "learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, not {value}")
        for name, low, high in (("warmup", 0, 1), ("weight_decay", 0, math.inf), ("seed", 0, 2**63)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, not {getattr(self, name)}")
        if self.autocast not in (None, *AUTOCASTS):
            raise ValueError(f"autocast must be None or one of {', '.join(AUTOCASTS)}, not {self.autocast!r}")

    def _check_types(self) -> None:
        for setting in fields(self):
            kind, *others = str(setting.type).split(" | ")
            name, value = setting.name, getattr(self, setting.name)
            if kind not in KINDS or (value is None and others):
                continue
            of, what = KINDS[kind]
            if not isinstance(value, of) or isinstance(value, bool) != (of is bool):
                raise ValueError(f"{name} must be {what}, not {value!r:.80}")
            if of is not bool:  # numpy's numbers become Python's: a checkpoint with others could not be read
                object.__setattr__(self, name, int(value) if isinstance(value, Integral) else float(value))

    def total_steps(self, rows: int) -> int:
        """Return the optimizer steps for so many rows. A step may begin in one epoch and end in the next."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(self.epochs * math.ceil(rows / self.batch_size) / self.accumulate))

    def rate(self, step: int, total: int) -> float:
        """Return the learning rate of step 0, 1, ... of ``total``, as transformers' get_linear_schedule_with_warmup."""
        rising = math.ceil(self.warmup * total)
        if step < rising:
            return self.learning_rate * step / rising
        return self.learning_rate * (total - step) / max(1, total - rising)
