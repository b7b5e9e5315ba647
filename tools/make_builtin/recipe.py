"""The numbers that the built-in model depends on, and why they are these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """Cut the feed-forwards down to ``intermediate`` neurons, then train: the rate falls to 0 in every stage."""

    intermediate: int
    steps: int
    learning_rate: float


@dataclass(frozen=True)
class Recipe:
    """Attributes:
    layers: Of the teacher's six. With CLS pooling the last computes one row only, so three cost little more than two.
    stages: In two steps from the teacher's 1536 neurons to what is fast: what is cut at once is missed more.
    pieces: Word pieces, of the teacher's 30522: what 16 MB leave room for beside the layers, in float16.
    sentences: How many of those that `corpora.CORPORA` allows.
    sample: Texts by which neurons are weighed.
    batch_size: Also what similarities are compared within.
    seed: Of the choice and order of sentences, and of training.
    """

    layers: tuple[int, ...] = (0, 2, 5)
    stages: tuple[Stage, ...] = (Stage(512, 6_000, 6e-4), Stage(256, 2_000, 3e-4))
    pieces: int = 12_000
    sentences: int = 229_376
    sample: int = 256
    batch_size: int = 128
    warmup: float = 0.05
    seed: int = 0


RECIPE = Recipe()
