"""The numbers that define the built-in model, with reasons."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """Cut the feed-forwards to ``intermediate`` neurons, then train with a rate that falls to 0.

    Attributes:
        answers: The weight of the pairs' own loss: a query is to find its passage among those of the batch. (0.1 and
            0.4 scored alike after 250 steps.)
    """

    intermediate: int
    steps: int
    learning_rate: float
    answers: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """The whole recipe.

    Attributes:
        layers: Those of the teacher's six. Under CLS pooling the last one computes one row only.
        stages: Two steps down from the teacher's 1536 neurons. A single cut loses more. Pairs come last: they sharpen
            what the teacher's vectors taught.
        pieces: The number of word pieces, of the teacher's 30522. Stored in 8 bits, they and the layers fill 16 MB.
        sample: The number of texts that measure the strength of neurons.
        batch_size: Groups of two or three texts. Similarities and rankings are compared within a batch, too.
        widths: The first dimensions whose similarities are to be the teacher's: what `truncate_dim` leaves.
        weights: Of the distance of vectors, of similarities, of rankings.
        temperature: Of rankings.
        average: Steps whose weights are averaged.
        seed: It fixes the choice and order of texts, and training.
    """

    layers: tuple[int, ...] = (0, 2, 5)
    stages: tuple[Stage, ...] = (
        Stage(768, 600, 6e-4),
        Stage(352, 4_400, 6e-4),
        Stage(352, 10_500, 5e-4, answers=0.2),
    )
    pieces: int = 24_500
    sample: int = 256
    batch_size: int = 64
    widths: tuple[int, ...] = (64, 128, 192, 384)
    weights: tuple[float, ...] = (1.0, 0.5, 0.1)
    temperature: float = 0.05
    average: int = 500
    warmup: float = 0.05
    seed: int = 0


RECIPE = Recipe()
