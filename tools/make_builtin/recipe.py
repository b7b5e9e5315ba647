"""The numbers that define the built-in model, with reasons."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """Cut the feed-forwards to ``intermediate`` neurons, then train with a rate that falls to 0."""

    intermediate: int
    steps: int
    learning_rate: float


@dataclass(frozen=True)
class Recipe:
    """The whole recipe.

    Attributes:
        layers: Those of the teacher's six. The last computes one row only, so three are little slower than two.
        stages: Two steps down from the teacher's 1536 neurons. A single cut loses more.
        pieces: The number of word pieces, of the teacher's 30522. It fills 16 MB together with the layers, in float16.
        sentences: The number of sentences, of all that `corpora.CORPORA` allows.
        sample: The number of texts that measure the strength of neurons.
        batch_size: Similarities are compared within a batch, too.
        seed: It fixes the choice and order of sentences, and training.
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
