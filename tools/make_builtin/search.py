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

STEPS, RATE = 300, 6e-4
TRIED = Path(__file__).with_name("tried.json")  # what the card shows
Sizes = tuple[tuple[int, ...], int, int]  # the teacher's layers, neurons, word pieces
OWN: Sizes = (RECIPE.layers, RECIPE.stages[-1].intermediate, RECIPE.pieces)
VARIANTS: dict[str, Sizes] = {
    "recipe": OWN,
    "pieces": (OWN[0], OWN[1], 12_000),
    "wider": (OWN[0], 384, OWN[2]),
    "layers": ((0, 3, 5), OWN[1], OWN[2]),
    "shallower": ((0, 5), 768, OWN[2]),
    "deeper": ((0, 2, 4, 5), 64, OWN[2]),
}
HEADINGS = ("layers of the teacher", "neurons", "word pieces", "MB", "STS-B", "mean of the others", "short", "long")


def search(lessons: Lessons) -> None:
    """Train, score and print all variants; write `TRIED`. An interrupted search goes on."""
    folder = lessons.work / "search"
    rows = [try_sizes(*sizes, lessons, folder / name) for name, sizes in VARIANTS.items()]
    print(table([list(HEADINGS), *rows]))
    write_json(rows, TRIED)


def try_sizes(layers: tuple[int, ...], neurons: int, pieces: int, lessons: Lessons, folder: Path) -> list[str]:
    """Return the table's row for such a student; ``folder`` keeps what it takes long to make."""
    recipe = replace(
        RECIPE, layers=layers, stages=(Stage(neurons, STEPS, RATE),), pieces=pieces, average=max(1, STEPS // 10)
    )
    folder.mkdir(parents=True, exist_ok=True)
    seconds, model = Seconds(folder / "seconds.json"), folder / "model"
    publish.write_folder(make_trained(recipe, lessons, folder, seconds), model)
    asked = argparse.Namespace(data=lessons.data, only=["*"], models=[lessons.name, str(model)], dims=[], rounds=5)
    suite = kept(folder / "suite.json", lambda: run_suite(asked), seconds)
    return [", ".join(map(str, layers)), f"{neurons:,}", f"{pieces:,}", *figures(suite, publish.size(model))]


def figures(suite: Mapping[str, Any], size: int) -> list[str]:
    """Return megabytes, percent of the teacher's scores, and its times on short and on long texts."""
    name = suite["students"][0]
    shares = suite["sets"][0]["shares"][name][0], suite["mean"][name][0]
    times = [f"{rates[name]['times']:.1f} x" for rates in suite["rates"].values()]
    return [f"{size / 1e6:.1f}", *(f"{share:.1f}" for share in shares), *times]


def tried_rows() -> list[str]:
    """Return the rows of the card's table; none where nothing was tried."""
    found = json.loads(TRIED.read_text(encoding="utf-8")) if TRIED.exists() else []
    return [f"| {' | '.join(row)} |" for row in found]
