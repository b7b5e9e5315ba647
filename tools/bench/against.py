"""Two checkouts of minibert, raced in one run: `python tools/bench --against OTHER_CHECKOUT`.

Each checkout runs in processes of its own, through its public interface alone. No other engine is needed.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minibert.display import table

from .process import CHECKOUT, EngineError
from .race import COMPARED, Plan, first_vectors, run_rounds, start


def commit(tree: Path) -> str:
    """Return the commit of a checkout, with a star if files differ from it."""
    command = ["git", "-C", str(tree), "describe", "--always", "--dirty=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "no commit"


def race_trees(plan: Plan, other: Path) -> dict[str, Any]:
    """Race this checkout ("new") against the other ("old"), engine by engine. Raises EngineError.

    Returns for each engine both trees' "speeds", "starts" and "memory", and the "difference" of their vectors.
    """
    found = {}
    for engine in plan.engines:
        trees = {"new": CHECKOUT, "old": other}
        starts = {tree: partial(start, plan, engine, {}, path) for tree, path in trees.items()}
        failed: dict[str, str] = {}
        plan.say(f"{engine.name}: first vectors and peak memory")
        measured = first_vectors(starts, failed)
        with ExitStack() as stack:
            teams, vectors = {}, []
            for tree in measured:
                remote = starts[tree]()
                stack.callback(remote.close)
                teams[tree] = dict.fromkeys(plan.names, remote)
                vectors.append(remote.ask("vectors", texts=COMPARED))
            speeds = run_rounds(plan, teams, failed)
        if failed:
            raise EngineError("; ".join(f"{engine.name}, {tree}: {error}" for tree, error in failed.items()))
        found[engine.name] = {
            **{tree: {"speeds": speeds[tree]} | measured[tree] for tree in trees},
            "difference": float(np.abs(vectors[0] - vectors[1]).max()),
        }
    return found


def _ratios(new: Sequence[float], old: Sequence[float]) -> str:
    """Return the median of the rounds' ratios, and their range."""
    ratios = [a / b for a, b in zip(new, old, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.2f}-{max(ratios):.2f})"


def against_report(name: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return two tables of one checkpoint: ratios, and the medians they come from."""
    workloads = list(next(iter(found.values()))["new"]["speeds"])
    ratios: list[list[object]] = [["new : old", *workloads, "first vector, s", "memory", "difference"]]
    medians: list[list[object]] = [["", *workloads, "first vector", "memory"]]
    for engine, values in found.items():
        new, old = values["new"], values["old"]
        cells = [_ratios(new["speeds"][work], old["speeds"][work]) for work in workloads]
        memory = f"{new['memory'] / old['memory']:.3f}"
        ratios.append([engine, *cells, _ratios(new["starts"], old["starts"]), memory, f"{values['difference']:.0e}"])
        for tree in ("new", "old"):
            cells = [f"{statistics.median(values[tree]['speeds'][work]):.1f}/s" for work in workloads]
            first, memory = f"{values[tree]['first vector']:.2f} s", f"{values[tree]['memory']:.0f} MiB"
            medians.append([f"{engine}, {tree}", *cells, first, memory])
    title = f"== {name}: texts per second, new over old: the median of the rounds' ratios, and their range"
    return "\n\n".join([title, table(ratios), table(medians)])
