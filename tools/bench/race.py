"""The race itself: interleaved rounds, and all that is measured, as plain values for `report` and --json."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..peers import convert
from ..peers.work import LARGE, Model, Workload
from .engines import Engine
from .process import EngineError, Remote, busy_neighbour, run
from .serve import Server

FIRST_VECTORS = 3  # fresh processes, of which the median counts
COMPARED = 256  # texts
Team = Mapping[str, Remote]  # for each workload the process that does it


@dataclass(frozen=True)
class Plan:
    """What races on one checkpoint, and how."""

    model: Model
    workloads: Mapping[str, Workload]
    names: Sequence[str]  # of the workloads that are raced
    engines: Sequence[Engine]
    rounds: int
    threads: int
    neighbour: bool
    say: Callable[[str], None]  # progress


def start(plan: Plan, engine: Engine, variables: Mapping[str, str], tree: Path | None = None) -> Remote:
    """Open an engine in its own process. Raises EngineError."""
    arguments = engine.name, plan.model, plan.workloads, plan.threads
    return Remote(Server, *arguments, threads=plan.threads, variables=variables, tree=tree)


def race(plan: Plan) -> dict[str, Any]:
    """Measure all engines on one checkpoint; those that fail at any step are in "not raced", with their error.

    Raises EngineError where there are no float64 vectors to compare with, or every engine failed.
    """
    reference, failed = prepare(plan)
    plan.say("first vectors and peak memory, in fresh processes")
    measured = first_vectors({e.name: partial(start, plan, e, e.environments[0]) for e in plan.engines}, failed)
    teams: dict[str, Team] = {}
    with ExitStack() as stack:
        for engine in plan.engines:
            with noting(failed, engine.name) as goes_on:
                if goes_on:
                    plan.say(f"settings of {engine.name}")
                    teams[engine.name], settings = choose_team(plan, engine, stack)
                    vectors = next(iter(teams[engine.name].values())).ask("vectors", texts=COMPARED)
                    measured[engine.name] |= {"settings": settings} | compare(vectors, reference)
        with busy_neighbour() if plan.neighbour else nullcontext():
            speeds = run_rounds(plan, teams, failed)
    if failed.keys() >= {engine.name for engine in plan.engines}:
        raise EngineError("; ".join(["no engine could be raced", *(f"{name}: {why}" for name, why in failed.items())]))
    return {
        "workloads": {
            name: {"calls": len(work.calls), "texts": work.texts, "tokens": work.tokens}
            for name, work in plan.workloads.items()
        },
        "linear flops a token": plan.model.linear_flops(1),
        "import torch": import_torch(plan.threads),
        "engines": {
            engine.name: {"precision": engine.precision, "peer": engine.is_peer, "speeds": speeds[engine.name]}
            | measured[engine.name]
            for engine in plan.engines
            if engine.name not in failed
        },
        "not raced": failed,
    }


def prepare(plan: Plan) -> tuple[np.ndarray, dict[str, str]]:
    """Return float64 vectors to compare with, and the engines whose form of the checkpoint can't be made."""
    plan.say("the checkpoint is converted for the engines that want another form")
    errors: dict[str, str] = {}
    for kind in sorted({engine.needs for engine in plan.engines} - {""}):
        with noting(errors, kind):
            run(convert.KINDS[kind], plan.model, threads=plan.threads)
    try:
        texts = plan.workloads[LARGE].calls[0][:COMPARED]
        reference = run(convert.float64_vectors, plan.model, texts, threads=plan.threads)
    except EngineError as error:
        raise EngineError(f"no float64 vectors to compare with: {error}") from None
    return reference, {engine.name: errors[engine.needs] for engine in plan.engines if engine.needs in errors}


def first_vectors(starts: Mapping[str, Callable[[], Remote]], failed: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return for each engine the seconds to its first vector, and the peak memory of a process without trials."""
    seconds: dict[str, list[float]] = {name: [] for name in starts}
    memory: dict[str, float] = {}
    for i in range(FIRST_VECTORS):
        for name in in_turn(starts, i):
            with noting(failed, name) as goes_on:
                if goes_on:
                    with closing(starts[name]()) as remote:
                        seconds[name].append(remote.started)
                        if i == FIRST_VECTORS - 1:
                            memory[name] = remote.ask("memory")
    return {
        name: {"starts": seconds[name], "first vector": statistics.median(seconds[name]), "memory": memory[name]}
        for name in memory
    }


def import_torch(threads: int) -> float:
    """Return the seconds until a fresh process has imported torch."""
    remotes = [Remote(import_module, "torch", threads=threads) for _ in range(FIRST_VECTORS)]
    for remote in remotes:
        remote.close()
    return statistics.median(remote.started for remote in remotes)


def choose_team(plan: Plan, engine: Engine, stack: ExitStack) -> tuple[Team, dict[str, Any]]:
    """Return for each workload the process that does it best, and the setting that it chose.

    It is one process for all, or several where environment variables are settings too.
    """
    team: dict[str, Remote] = {}
    settings: dict[str, Any] = {}
    remotes = []
    errors = []
    for variables in engine.environments:
        try:
            remote = start(plan, engine, variables)
            stack.callback(remote.close)
            tries = {name: remote.ask("calibrate", workload=name) for name in plan.names}
        except EngineError as error:  # other variables may suit this machine
            errors.append(error)
            continue
        remotes.append(remote)
        for name, tried in tries.items():
            chosen, seconds = next(iter(tried.items()))
            if name not in team or seconds < settings[name]["tried"][settings[name]["chosen"]]:
                team[name] = remote
                settings[name] = {"chosen": chosen, "environment": variables, "tried": tried}
    if not remotes:
        raise errors[-1]
    for remote in remotes:
        its = [name for name in plan.names if team[name] is remote]
        if its:
            remote.ask("settle", workloads=its)
        else:
            remote.close()
    return team, settings


def compare(vectors: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Return the largest difference of any number to the reference, and the lowest cosine of any vector."""
    if vectors.shape != reference.shape:
        raise EngineError(f"its vectors have the shape {vectors.shape}, and {reference.shape} is right")
    mine = vectors.astype(np.float64)
    cosines = (mine * reference).sum(1) / (np.linalg.norm(mine, axis=1) * np.linalg.norm(reference, axis=1))
    return {"difference": float(np.abs(mine - reference).max()), "cosine": float(cosines.min())}


def run_rounds(plan: Plan, teams: Mapping[str, Team], failed: dict[str, str]) -> dict[str, dict[str, list[float]]]:
    """Return texts per second: {engine: {workload: [one number a round]}}.

    Engines take turns within a round and a workload, so a slow spell of the machine hits all of them.
    """
    speeds: dict[str, dict[str, list[float]]] = {name: {work: [] for work in plan.names} for name in teams}
    began = time.monotonic()
    for i in range(plan.rounds + 1):
        left = (time.monotonic() - began) / max(1, i) * (plan.rounds + 1 - i) / 60
        plan.say(f"round {i} of {plan.rounds}, {left:.0f} min to go" if i else "warming up")
        for work in plan.names:
            for name in in_turn(teams, i):
                with noting(failed, name) as goes_on:
                    if goes_on:
                        speed = teams[name][work].ask("time", workload=work)
                        speeds[name][work] += [speed] if i else []  # the first round warms up and does not count
    return speeds


@contextmanager
def noting(failed: dict[str, str], name: str) -> Iterator[bool]:
    """Note an engine's error instead of raising it. Yields False for an engine that failed before."""
    try:
        yield name not in failed
    except EngineError as error:
        failed[name] = str(error)


def in_turn(names: Mapping[str, Any], i: int) -> list[str]:
    """Reverse every other round, so that no engine always runs after the same one."""
    return list(names)[:: -1 if i % 2 else 1]
