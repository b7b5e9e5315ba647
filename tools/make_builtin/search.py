"""Train students of other sizes for a few steps, and score them: how the recipe's sizes were chosen."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from minibert.checkpoint.save import write_json
from minibert.display import table

from ..quality.command import run as run_suite
from . import publish
from .phases import Lessons, Seconds, kept, make_trained
from .recipe import RECIPE, Stage

STEPS, RATE = 200, 6e-4
ROUNDS = 5  # of the rates
TRIED = Path(__file__).with_name("tried.json")  # what the card shows
Sizes = tuple[tuple[int, ...], int, int]  # the teacher's layers, neurons, word pieces
VARIANTS: dict[str, Sizes] = {
    "three layers": ((0, 2, 5), 256, 26_000),
    "fewer pieces": ((0, 2, 5), 256, 12_000),
    "wider": ((0, 2, 5), 384, 26_000),
    "widest": ((0, 2, 5), 512, 26_000),
    "other layers": ((0, 3, 5), 256, 26_000),
    "two layers": ((0, 5), 768, 26_000),
    "four layers": ((0, 2, 4, 5), 64, 26_000),
}
HEADINGS = ("layers of the teacher", "neurons", "word pieces", "MB", "STS-B", "mean of the others", "short", "long")


def search(lessons: Lessons) -> None:
    """Train all variants, score them in one run of the suite, and write `TRIED`. An interrupted search goes on."""
    folder = lessons.work / "search"
    models = {name: train_sizes(*sizes, lessons, folder, name) for name, sizes in VARIANTS.items()}
    names = [lessons.name, *map(str, models.values())]
    asked = argparse.Namespace(data=lessons.data, only=["*"], models=names, dims=[], rounds=ROUNDS)
    suite = kept(folder / "suite.json", lambda: run_suite(asked), Seconds(folder / "seconds.json"))
    rows = [row(suite, name, sizes, publish.size(models[name])) for name, sizes in VARIANTS.items()]
    print(table([list(HEADINGS), *rows]))
    write_json(rows, TRIED)


def train_sizes(layers: tuple[int, ...], neurons: int, pieces: int, lessons: Lessons, folder: Path, name: str) -> Path:
    """Return the folder of such a student, trained for a few steps; ``folder`` keeps what it takes long to make."""
    recipe = replace(
        RECIPE, layers=layers, stages=(Stage(neurons, STEPS, RATE),), pieces=pieces, average=max(1, STEPS // 10)
    )
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    model = folder / "models" / name
    publish.write_folder(make_trained(recipe, lessons, own, Seconds(own / "seconds.json")), model)
    return model


def row(suite: Mapping[str, Any], name: str, sizes: Sizes, size: int) -> list[str]:
    """Return the row of a variant; `HEADINGS` says of what."""
    shares = suite["sets"][0]["shares"][name][0], suite["mean"][name][0]
    times = [f"{rates[name]['times']:.1f} x" for rates in suite["rates"].values()]
    figures = [f"{size / 1e6:.1f}", *(f"{share:.1f}" for share in shares), *times]
    layers, neurons, pieces = sizes
    return [", ".join(map(str, layers)), f"{neurons:,}", f"{pieces:,}", *figures]


def tried_rows() -> list[str]:
    """Return the rows of the card's table; none where nothing was tried."""
    found = json.loads(TRIED.read_text(encoding="utf-8")) if TRIED.exists() else []
    return [f"| {' | '.join(row)} |" for row in found]
