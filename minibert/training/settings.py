"""The hyper-parameters: what the trained weights depend on, beside the task and its data."""

from __future__ import annotations

import math
from dataclasses import dataclass

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """The defaults are Sentence-BERT's (arXiv 1908.10084, section 3.1), and AdamW's weight decay of 0.01.

    Attributes:
        epochs: Passes over the data; part of one is allowed.
        steps: Optimizer steps, in place of ``epochs``.
        batch_size: Rows a batch, of all processes together.
        accumulate: Batches a step: their gradients are averaged. Not the same as one large batch where rows are
            compared with each other (in-batch negatives); `SentenceTask`'s ``chunk_size`` is.
        learning_rate: At its highest.
        warmup: The part of all steps in which the rate rises from 0; after it, it falls to 0, both in a line.
        weight_decay: AdamW's, for matrices; biases and norms do not decay.
        max_grad_norm: Longer gradients are shortened to this length, all of them as one vector. None: not.
        precision: "float32": as the weights are; "bfloat16", "float16" (only on CUDA): autocast.
        gradient_checkpointing: Keep only each layer's input, and compute the layer again for its gradients.
        by_length: Batches of near-equal text length, as `batches.epoch`.
        seed: Of the order of the data and of dropout.
    """

    epochs: float = 1
    steps: int | None = None
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0
    precision: str = "float32"
    gradient_checkpointing: bool = False
    by_length: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for the first value that can't be."""
        above_zero = ("epochs", "steps", "batch_size", "accumulate", "learning_rate", "max_grad_norm")
        for name in above_zero:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, not {value}")
        for name, low, high in (("warmup", 0, 1), ("weight_decay", 0, math.inf), ("seed", 0, 2**63)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, not {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")

    def total_steps(self, rows: int) -> int:
        """Optimizer steps for so many rows; the last step of an epoch that does not fill it goes on into the next."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(self.epochs * math.ceil(rows / self.batch_size) / self.accumulate))

    def rate(self, step: int, total: int) -> float:
        """The learning rate of step 0, 1, ... of ``total``; that of step 0 is 0 where there is a warm-up.

        As transformers' get_linear_schedule_with_warmup.
        """
        rising = math.ceil(self.warmup * total)
        if step < rising:
            return self.learning_rate * step / rising
        return self.learning_rate * (total - step) / max(1, total - rising)
