"""The hyper-parameters: everything but the task and its data that determines the trained weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

AUTOCASTS = ("bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """The defaults are Sentence-BERT's (arXiv 1908.10084, section 3.1), with AdamW's weight decay of 0.01.

    Attributes:
        epochs: Passes over the data. A fraction is allowed.
        steps: Optimizer steps, in place of ``epochs``.
        batch_size: Rows per batch, of all processes together.
        accumulate: Batches per step, whose gradients are averaged. This differs from one large batch where rows are
            compared with each other (in-batch negatives); `SentenceTask`'s ``chunk_size`` does not.
        learning_rate: The highest one.
        warmup: The fraction of all steps in which the rate rises linearly from 0. Then it falls linearly to 0.
        weight_decay: AdamW's, for matrices. Biases and norms do not decay.
        max_grad_norm: Scale all gradients down to this norm if theirs, as one vector, is larger. None: never.
        autocast: Compute in "bfloat16" or (only on CUDA) "float16". None: in the weights' dtype.
        gradient_checkpointing: Keep only each layer's input, and compute the layer again for its gradients.
        fused: Let torch's fused norm, attention and activation compute in place of the page's parts.
        by_length: Batches of similar text length, see `examples.epoch`.
        seed: Of the order of the data and of dropout.

    Raises:
        ValueError: A value is out of range.
    """

    epochs: float = 1
    steps: int | None = None
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0
    autocast: str | None = None
    gradient_checkpointing: bool = False
    fused: bool = True
    by_length: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch_size", "accumulate", "learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, not {value}")
        for name, low, high in (("warmup", 0, 1), ("weight_decay", 0, math.inf), ("seed", 0, 2**63)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, not {getattr(self, name)}")
        if self.autocast not in (None, *AUTOCASTS):
            raise ValueError(f"autocast must be None or one of {', '.join(AUTOCASTS)}, not {self.autocast!r}")

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
