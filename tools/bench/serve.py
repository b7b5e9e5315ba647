"""One engine in its own process: what the race asks of it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..peers.work import LARGE, Model, Setting, Workload, choose, sample
from .engines import ENGINES


class Server:
    """An open engine that has encoded its first text; `process.Remote` calls its methods by name."""

    def __init__(self, engine: str, model: Model, workloads: Mapping[str, Workload], threads: int) -> None:
        self.workloads = workloads
        self.runner = ENGINES[engine].kind(model, threads, **ENGINES[engine].options)
        self.default = Setting(32, 1, threads)
        self.chosen: dict[str, Setting] = {}
        self.runner.encode(["hello"], model.limit, self.default)

    def vectors(self, texts: int) -> np.ndarray:
        """Return the vectors of the large call's first texts."""
        work = self.workloads[LARGE]
        return self.runner.encode(work.calls[0][:texts], work.limit, self.chosen.get(LARGE, self.default))

    def calibrate(self, workload: str) -> dict[str, float]:
        """Choose a setting on a sample of the workload. Return the seconds of each trial, the chosen one first."""
        part = sample(self.workloads[workload])
        possible = self.runner.settings(part)
        if not possible:
            return {"its own": 0.0}
        chosen, seconds = choose(possible, lambda setting: self._seconds(part, setting))
        self.chosen[workload] = chosen
        return {str(setting): seconds[setting] for setting in (chosen, *seconds)}

    def settle(self, workloads: list[str]) -> None:
        """End the trials, and free what these workloads don't need."""
        self.runner.keep([self.chosen[name] for name in workloads if name in self.chosen])

    def time(self, workload: str) -> float:
        """Return texts per second."""
        work = self.workloads[workload]
        return work.texts / self._seconds(work, self.chosen.get(workload, self.default))

    def memory(self) -> float:
        """Return the process's peak memory after one large call, in MiB."""
        self._seconds(self.workloads[LARGE], self.default)
        with suppress(OSError, StopIteration):  # on Linux ru_maxrss begins at the parent's, so the peak is read here
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

    def _seconds(self, workload: Workload, setting: Setting) -> float:
        started = time.perf_counter()
        for call in workload.calls:
            self.runner.encode(call, workload.limit, setting)
        return time.perf_counter() - started
