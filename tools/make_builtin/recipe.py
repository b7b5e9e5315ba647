"""The numbers that the built-in model depends on, and why they are these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Attributes:
    layers: Of the teacher's six. With CLS pooling the last computes one row only, so three cost little more than two.
    intermediate: Neurons of each feed-forward, of the teacher's 1536: the widest part of a layer, and the easiest to
        do without.
    pieces: Word pieces, of the teacher's 30522: what 16 MB leave room for beside the layers, in float16.
    sentences: How many of those that `corpora.CORPORA` allows.
    sample: Texts by which neurons are weighed.
    steps, batch_size: A batch is also what similarities are compared within.
    seed: Of the choice and order of sentences, and of training.
    """

    layers: tuple[int, ...] = (0, 2, 5)
    intermediate: int = 512
    pieces: int = 12_000
    sentences: int = 229_376
    sample: int = 256
    steps: int = 2_500
    batch_size: int = 128
    learning_rate: float = 6e-4
    warmup: float = 0.05
    seed: int = 0


RECIPE = Recipe()
