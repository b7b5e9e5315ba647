"""Two checkouts of minibert, raced in one run: `python tools/bench --against OTHER_CHECKOUT`.

Each checkout runs in processes of its own, through its public interface alone. No other engine is needed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from minibert.display import table

from .engines import Engine
from .job import Model, Workload
from .race import FIRST_VECTORS, Child, EngineError, Plan

HERE = Path(__file__).resolve().parents[2]
TOOLS = HERE / "tools"


def commit(tree: Path) -> str:
    """Return the commit that is checked out there, with a star if files differ from it."""
    run = subprocess.run(
        ["git", "-C", str(tree), "describe", "--always", "--dirty=*"], capture_output=True, text=True, check=False
    )
    return run.stdout.strip() or "no commit"


def race_trees(model: Model, workloads: Mapping[str, Workload], plan: Plan, other: Path) -> dict[str, Any]:
    """Race this checkout ("new") against the other ("old"), one engine at a time, in interleaved rounds.

    Returns:
        For each engine "speeds" {workload: {tree: texts per second of each round}}, "first vector" {tree: seconds of
        each start}, "memory" {tree: MiB} and "difference", the largest between the two trees' vectors.

    Raises:
        EngineError: A process failed.
    """
    found = {}
    for engine in plan.engines:
        with ExitStack() as stack:
            found[engine.name] = _race_engine(engine, model, workloads, plan, other, stack)
    return found


def _race_engine(
    engine: Engine, model: Model, workloads: Mapping[str, Workload], plan: Plan, other: Path, stack: ExitStack
) -> dict[str, Any]:
    trees = {"new": HERE, "old": other}
    plan.say(f"{model.name}, {engine.name}: starts and peak memory")
    starts: dict[str, list[float]] = {tree: [] for tree in trees}
    memory: dict[str, list[float]] = {tree: [] for tree in trees}
    for i in range(FIRST_VECTORS):
        for tree in _turn(trees, i):
            child = _start(engine, model, plan, tree, trees[tree])
            try:
                starts[tree].append(child.started)
                memory[tree].append(child.ask("peak"))
            finally:
                child.close()
    children = {}
    vectors = []
    for tree, path in trees.items():
        children[tree] = _start(engine, model, plan, tree, path)
        stack.callback(children[tree].close)
        file = Path(model.work) / f"{tree}.npy"
        children[tree].ask("vectors", file=str(file), texts=256)
        vectors.append(np.load(file).astype(np.float64))
    speeds: dict[str, dict[str, list[float]]] = {
        n: {tree: [] for tree in trees} for n in plan.workloads if n in workloads
    }
    for i in range(plan.rounds + 1):
        plan.say(f"{model.name}, {engine.name}: " + (f"round {i} of {plan.rounds}" if i else "warming up"))
        for name, rates in speeds.items():
            for tree in _turn(trees, i):
                rate = children[tree].ask("time", workload=name)
                rates[tree] += [rate] if i else []  # the first round warms up and does not count
    return {
        "speeds": speeds,
        "first vector": starts,
        "memory": {tree: statistics.median(values) for tree, values in memory.items()},
        "difference": float(np.abs(vectors[0] - vectors[1]).max()),
    }


def _turn(trees: Mapping[str, Path], i: int) -> list[str]:
    """Order the trees so that each goes first in every other round."""
    return list(trees)[:: -1 if i % 2 else 1]


def _start(engine: Engine, model: Model, plan: Plan, tree: str, path: Path) -> Child:
    """Start a process whose `minibert` is that of the tree."""
    try:
        child = Child(engine, model, plan.threads, {"PYTHONPATH": os.pathsep.join([str(path), str(TOOLS)])})
        found = Path(child.ask("source")).resolve()
    except EngineError as error:
        raise EngineError(f"{engine.name}, {tree} ({path}): {error}") from None
    if path.resolve() not in found.parents:
        child.close()
        raise EngineError(f"{path} is not a checkout of minibert: {found} was imported")
    return child


def ratio_cell(new: Sequence[float], old: Sequence[float]) -> str:
    """Return the median of the rounds' ratios, and their range."""
    ratios = [a / b for a, b in zip(new, old, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.2f}-{max(ratios):.2f})"


def against_report(name: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return two tables of one checkpoint: ratios, and the medians they come from."""
    workloads = list(next(iter(found.values()))["speeds"])
    ratios: list[list[object]] = [["new : old", *workloads, "start-up", "memory", "difference"]]
    medians: list[list[object]] = [["", *workloads, "start-up", "memory"]]
    for engine, values in found.items():
        speeds, starts, memory = values["speeds"], values["first vector"], values["memory"]
        ratios.append(
            [
                engine,
                *(ratio_cell(speeds[workload]["new"], speeds[workload]["old"]) for workload in workloads),
                ratio_cell(starts["new"], starts["old"]),
                f"{memory['new'] / memory['old']:.3f}",
                f"{values['difference']:.0e}",
            ]
        )
        for tree in ("new", "old"):
            cells = [f"{statistics.median(speeds[workload][tree]):.1f}/s" for workload in workloads]
            start = f"{statistics.median(starts[tree]):.2f} s"
            medians.append([f"{engine}, {tree}", *cells, start, f"{memory[tree]:.0f} MiB"])
    return "\n\n".join(
        [
            f"== {name}: speed of the new tree over the old; median of rounds, lowest and highest",
            table(ratios),
            table(medians),
        ]
    )
