"""Score encoders beside their teacher where people use them: similarity, search, duplicates, intents, entailment.

    python tools/quality DATA                                    the built-in model beside all-MiniLM-L6-v2
    python tools/quality DATA --models TEACHER OLD NEW --json found.json --plot found.png
    python tools/quality DATA --dims 64 128 192 --rounds 0      the first dimensions too; no rates
    python tools/quality --read found.json --plot found.png     the table and the plot of an earlier run

DATA has the folders corpora, sts and nli; tools/make_builtin/corpora.py lists the corpora. The texts are those that
tools/make_builtin/heldout.py keeps from training; the STS Benchmark's and SNLI's dev parts are not trained on at all.

A student's score stands in percent of the teacher's, with a 95 % interval from a paired bootstrap over the cases. The
mean is that of each set's first measure, without the STS Benchmark. The rates are texts per second in float32, on the
docstrings that README's race encodes and on texts of 256 tokens: medians of rounds in which the models take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from minibert import SentenceEncoder
from minibert.checkpoint.hub import DEFAULT_MODEL

from ..bench.command import processor
from ..bench.inputs import docstrings, find_minilm, long_texts
from . import show
from .measure import Score, Share, compare, mean_share
from .sets import Set, read_sets

SHORT, LONG = 1024, 64  # texts of the rates
TOKENS = 256  # of each long text


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and draw. Return status 1 where a file is missing or damaged."""
    options = parse(arguments)
    try:
        found = json.loads(options.read.read_text(encoding="utf-8")) if options.read else run(options)
    except (OSError, ValueError) as error:
        print(f"quality: {error}", file=sys.stderr)
        return 1
    print(show.report(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        show.draw(found, options.plot)
    return 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return all that the options ask for."""
    started = time.perf_counter()
    sets = [each for each in read_sets(options.data) if any(fnmatch(each.name, pattern) for pattern in options.only)]
    if not sets:
        raise ValueError(f"--only {' '.join(options.only)} fits no set")
    names = options.models or [str(find_minilm()), DEFAULT_MODEL]
    encoders = {
        _title(name): SentenceEncoder.from_pretrained(name, device="cpu", truncation="silent") for name in names
    }
    if len(encoders) < 2:
        raise ValueError("--models needs a teacher and at least one student, under different names")
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores of {processor()}",
        **measure_sets(sets, encoders, options.dims),
        "rates": measure_rates(encoders, options.rounds) if options.rounds else {},
    }
    return {**found, "seconds": time.perf_counter() - started}


def measure_sets(
    sets: Sequence[Set], encoders: Mapping[str, SentenceEncoder], dims: Sequence[int] = ()
) -> dict[str, Any]:
    """Score all encoders on all sets; the first encoder is the teacher. ``dims`` are scored beside whole vectors.

    Returns:
        `teacher` and `students`: names. `sets`: rows of name, cases, measure, counts, scores and shares by name.
        `mean`: shares by student. A share is a list: percent of the teacher, and the interval's ends.
    """
    teacher, rows = next(iter(encoders)), list[dict[str, Any]]()
    drawn: dict[str, list[Share]] = {}
    for seed, each in enumerate(sets):
        scores = score_set(each, encoders, dims)
        own = scores.pop(teacher)
        for place, measure in enumerate(own):
            if not own[measure].value:
                raise ValueError(f"{each.name}: the teacher's {measure} is 0, so no student has a share of it")
            shares = {name: compare(found[measure], own[measure], seed) for name, found in scores.items()}
            counts = each.counts and place == 0
            for name, share in shares.items():
                drawn.setdefault(name, []).extend([share] * counts)
            row = {"name": each.name, "cases": own[measure].cases, "measure": measure, "counts": counts}
            values = {name: found[measure].value for name, found in ((teacher, own), *scores.items())}
            rows.append({**row, "scores": values, "shares": {name: share[:3] for name, share in shares.items()}})
    mean = {name: mean_share(shares)[:3] for name, shares in drawn.items() if shares}
    return {"teacher": teacher, "students": list(drawn), "sets": rows, "mean": mean}


def score_set(each: Set, encoders: Mapping[str, SentenceEncoder], dims: Sequence[int]) -> dict[str, dict[str, Score]]:
    """Return the set's scores by encoder; the students' also for their first dimensions."""
    texts = list(dict.fromkeys(text for column in each.columns for text in column))
    place = {text: row for row, text in enumerate(texts)}
    scores = {}
    for number, (name, encoder) in enumerate(encoders.items()):
        vectors = encoder.encode(texts, show_progress_bar=False)
        for dim in [None, *dims] if number else [None]:
            cut = vectors[:, :dim] / np.linalg.norm(vectors[:, :dim], axis=1, keepdims=True)
            columns = [cut[[place[text] for text in column]] for column in each.columns]
            scores[f"{name}, {dim} dimensions" if dim else name] = each.score(*columns)
    return scores


def measure_rates(encoders: Mapping[str, SentenceEncoder], rounds: int) -> dict[str, Any]:
    """Return texts per second of each encoder on short and on long texts, and the students' ratios to the first.

    The ratio is the median of the rounds' own: both ran within the same seconds.
    """
    teacher = next(iter(encoders))
    short = docstrings(SHORT)
    tokens = encoders[teacher].tokenizer.encode

    def lengths(words: list[str]) -> list[int]:
        return [int(length) - 2 for length in tokens(words).lengths]

    found = {}
    for kind, texts in (
        (f"{SHORT} short texts", short),
        (f"texts of {TOKENS} tokens", long_texts(short, LONG, lengths)),
    ):
        spent: dict[str, list[float]] = {name: [] for name in encoders}
        for number in range(rounds + 1):
            for name, encoder in encoders.items():
                started = time.perf_counter()
                encoder.encode(texts, show_progress_bar=False)
                if number:  # the first round warms up
                    spent[name].append(time.perf_counter() - started)
        found[kind] = {
            name: {
                "texts/s": len(texts) / median(own),
                "times": median(theirs / mine for theirs, mine in zip(spent[teacher], own, strict=True)),
            }
            for name, own in spent.items()
        }
    return found


def _title(name: str) -> str:
    """Return what a model is called in the table."""
    return "all-MiniLM-L6-v2" if name == str(find_minilm()) else Path(name).name


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line, and refuse at once what can't be done."""
    parser = argparse.ArgumentParser(
        prog="python tools/quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", type=Path, nargs="?", help="the folder with corpora, sts and nli")
    add("--models", nargs="+", help="folders or hub ids, the teacher first (default: all-MiniLM-L6-v2, the built-in)")
    add("--only", nargs="+", default=["*"], metavar="SET", help="rows of the table, as shell patterns")
    add("--dims", type=int, nargs="+", default=[], help="score the students' first dimensions too")
    add("--rounds", type=int, default=5, help="counted rounds of the rates; 0: no rates (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write all that was measured")
    add("--plot", type=Path, metavar="FILE", help="draw the table, as .png or .svg")
    add("--read", type=Path, metavar="FILE", help="measure nothing; print and draw what --json wrote")
    options = parser.parse_args(arguments)
    if bool(options.data) == bool(options.read):
        parser.error("give either DATA or --read FILE")
    return options
