"""The race itself: processes, rounds, and all that is measured, as plain values for `report`, `plot` and --json."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .engines import Engine, environment
from .job import Model, Workload

FIRST_VECTORS = 3  # fresh processes, of which the median counts
BUSY = (
    "import os, sys, threading\nthreading.Thread(target=lambda: os._exit(len(sys.stdin.read()))).start()\nwhile 1: pass"
)
NEIGHBOURED = ("one large call", "one text a call")


class EngineError(Exception):
    """An engine's process says what went wrong, or ended without a word."""


class Child:
    """An engine in its own process; `started` seconds after its start it had encoded its first text."""

    def __init__(self, engine: Engine, model: Model, threads: int, variables: dict[str, str]) -> None:
        # Kept open as long as the process lives.
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        begun = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.serve"],
            env=environment(threads) | variables,
            cwd=Path(__file__).parents[1],  # Python would look into the caller's folder first
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        try:
            self._send({"engine": engine.name, "model": asdict(model), "threads": threads})
            self.started = time.perf_counter() - begun
        except EngineError:
            self.close()
            raise

    def ask(self, do: str, **values: Any) -> Any:
        """Have a method of `serve.Server` called. Raises EngineError."""
        return self._send({"do": do, **values})

    def close(self) -> None:
        """End the process."""
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._log.close()

    def _send(self, value: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            raise EngineError(_last_line(self._log.read()))
        answer = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer["ok"]


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    engines: Sequence[Engine]
    workloads: Sequence[str]
    rounds: int
    threads: int
    neighbour: bool
    peak: bool
    say: Callable[[str], None]  # progress


def race(model: Model, workloads: dict[str, Workload], plan: Plan) -> dict[str, Any]:
    """All that is measured on one checkpoint; engines that fail at any step are in `not raced`, with their error.

    Raises:
        EngineError: the float64 vectors, which all are compared with, can't be had; or no engine came to the end.
    """
    path = Path(model.work) / "model.json"
    path.write_text(json.dumps(asdict(model)), encoding="utf-8")
    failed: dict[str, str] = {}
    engines: dict[str, dict[str, Any]] = {}
    names = [name for name in plan.workloads if name in workloads]
    plan.say(f"{model.name}: the checkpoint is converted for the engines that want another form")
    kinds = _convert({engine.needs for engine in plan.engines} - {""} | {"float64"}, path, plan)
    if "float64" in kinds:
        raise EngineError(f"no float64 vectors to compare with: {kinds['float64']}")
    failed |= {engine.name: kinds[engine.needs] for engine in plan.engines if engine.needs in kinds}
    plan.say(f"{model.name}: first vectors and peak memory, in fresh processes")
    import_torch = statistics.median(_import_torch(plan.threads) for _ in range(FIRST_VECTORS))
    for engine in plan.engines:
        with _noting(failed, engine) as goes_on:
            if goes_on:
                engines[engine.name] = {"precision": engine.precision, "peer": engine.is_peer}
                engines[engine.name] |= _fresh(engine, model, plan)
    with ExitStack() as stack:
        teams: dict[str, dict[str, Child]] = {}
        for engine in plan.engines:
            with _noting(failed, engine) as goes_on:
                if goes_on:
                    plan.say(f"{model.name}: settings of {engine.name}")
                    teams[engine.name], engines[engine.name]["settings"] = _team(engine, model, names, plan, stack)
        runners = [engine for engine in plan.engines if engine.name in teams]
        reference = np.load(Path(model.work) / "float64" / "vectors.npy")
        for engine in runners:
            with _noting(failed, engine):
                child = next(iter(teams[engine.name].values()))
                engines[engine.name] |= _compare(child, reference, Path(model.work) / "vectors.npy")
        speeds = _rounds(f"{model.name}, ", names, plan, runners, teams, failed)
        beside = {}
        if plan.neighbour:
            names = [name for name in names if name in NEIGHBOURED]
            with _neighbour():
                beside = _rounds(f"{model.name}, beside a busy process, ", names, plan, runners, teams, failed)
    for engine in runners:
        engines[engine.name] |= {"speeds": speeds[engine.name], "beside a neighbour": beside.get(engine.name, {})}
        with _noting(failed, engine):
            engines[engine.name]["linear"] = _linear(engine, path) if plan.peak and not engine.is_peer else {}
    if failed.keys() >= engines.keys():
        raise EngineError("; ".join(["no engine could be raced", *(f"{name}: {why}" for name, why in failed.items())]))
    return {
        "workloads": {n: {"calls": len(w.calls), "texts": w.texts, "tokens": w.tokens} for n, w in workloads.items()},
        "linear flops a token": model.linear_flops(1),
        "import torch": import_torch,
        "engines": {name: values for name, values in engines.items() if name not in failed},
        "not raced": failed,
    }


def _convert(kinds: set[str], path: Path, plan: Plan) -> dict[str, str]:
    """Run each; gives the errors of those that failed."""
    failed = {}
    for kind in sorted(kinds):
        done = _python("bench.convert", kind, str(path), threads=plan.threads)
        if done.returncode:
            failed[kind] = _last_line(done.stderr)
    return failed


def _linear(engine: Engine, path: Path) -> dict[str, Any]:
    """See `peak.linear_layers`; in a process with one thread."""
    done = _python("bench.peak", "linear", str(path), json.dumps(engine.options), threads=1)
    if done.returncode:
        raise EngineError(_last_line(done.stderr))
    return dict(json.loads(done.stdout))


def measure_peak(threads: int) -> dict[str, Any]:
    """See `peak.products`. Raises EngineError."""
    done = _python("bench.peak", "products", str(threads), threads=threads)
    if done.returncode:
        raise EngineError(_last_line(done.stderr))
    return dict(json.loads(done.stdout))


def _python(module: str, *arguments: str, threads: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment(threads),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def _last_line(log: str) -> str:
    """Where Python, and most of what it starts, say what went wrong."""
    return (log.strip().splitlines() or ["its process ended without a word"])[-1][:300]


def _import_torch(threads: int) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], env=environment(threads), check=True)
    return time.perf_counter() - begun


def _fresh(engine: Engine, model: Model, plan: Plan) -> dict[str, float]:
    """The first vector's seconds, and the peak memory of a process that never tried any settings."""
    seconds = []
    memory = 0.0
    for _ in range(FIRST_VECTORS):
        child = Child(engine, model, plan.threads, engine.environments[0])
        try:
            seconds.append(child.started)
            if len(seconds) == FIRST_VECTORS:
                memory = child.ask("peak")
        finally:
            child.close()
    return {"first vector": statistics.median(seconds), "memory": memory}


def _team(
    engine: Engine, model: Model, names: Sequence[str], plan: Plan, stack: ExitStack
) -> tuple[dict[str, Child], dict[str, Any]]:
    """For each workload the process that does it best, and with which setting.

    It is one process for all, or several where the environment is a setting too.
    """
    team: dict[str, Child] = {}
    settings: dict[str, Any] = {}
    children = []
    errors = []
    for variables in engine.environments:
        try:
            child = Child(engine, model, plan.threads, variables)
            stack.callback(child.close)
            tries = {name: child.ask("calibrate", workload=name) for name in names}
        except EngineError as error:  # another environment may suit this machine
            errors.append(error)
            continue
        children.append(child)
        for name, tried in tries.items():
            chosen, seconds = next(iter(tried.items()))
            if name not in team or seconds < settings[name]["tried"][settings[name]["chosen"]]:
                team[name] = child
                settings[name] = {"chosen": chosen, "environment": variables, "tried": tried}
    if not children:
        raise errors[-1]
    for child in children:
        its = [name for name in names if team[name] is child]
        if its:
            child.ask("settle", workloads=its)
        else:
            child.close()
    return team, settings


def _rounds(
    label: str,
    names: Sequence[str],
    plan: Plan,
    runners: Sequence[Engine],
    teams: dict[str, dict[str, Child]],
    failed: dict[str, str],
) -> dict[str, dict[str, list[float]]]:
    """Texts per second, {engine: {workload: [of each round]}}.

    Round by round, workload by workload, engine by engine: a slow spell of the machine hits all alike.
    """
    found: dict[str, dict[str, list[float]]] = {e.name: {name: [] for name in names} for e in runners}
    began = time.monotonic()
    for i in range(plan.rounds + 1):
        left = (time.monotonic() - began) / max(1, i) * (plan.rounds + 1 - i) / 60
        plan.say(label + (f"round {i} of {plan.rounds}, {left:.0f} min to go" if i else "warming up"))
        for name in names:
            for engine in runners:
                with _noting(failed, engine) as goes_on:
                    if goes_on:
                        speed = teams[engine.name][name].ask("time", workload=name)
                        found[engine.name][name] += [speed] if i else []  # the first warms up and does not count
    return found


def _compare(child: Child, reference: np.ndarray, file: Path) -> dict[str, float]:
    """The largest difference of any number to the float64 vectors, and the lowest cosine of any vector to its own."""
    child.ask("vectors", file=str(file), texts=len(reference))
    mine = np.load(file).astype(np.float64)
    if mine.shape != reference.shape:
        raise EngineError(f"its vectors have the shape {mine.shape}, and {reference.shape} is right")
    cosines = (mine * reference).sum(1) / (np.linalg.norm(mine, axis=1) * np.linalg.norm(reference, axis=1))
    return {"difference": float(np.abs(mine - reference).max()), "cosine": float(cosines.min())}


@contextmanager
def _noting(failed: dict[str, str], engine: Engine) -> Iterator[bool]:
    """Note an engine's error; what comes is False for one that has failed before."""
    try:
        yield engine.name not in failed
    except EngineError as error:
        failed[engine.name] = str(error)


@contextmanager
def _neighbour() -> Iterator[None]:
    """A process with one thread that keeps a core busy, and ends by itself should this one die."""
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE)
    try:
        yield
    finally:
        process.communicate()
