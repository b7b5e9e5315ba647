"""One engine in a process of its own: a line of JSON in, a line out, idle in between.

The first line is the job; its answer comes after the first vector. Then `{"do": "time", "workload": ...}` and so on,
until the input ends. What libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .engines import ENGINES
from .job import Model, Setting, Workload, read_workloads
from .runners import Runner
from .settings import choose, sample


class Server:
    """Answers to each command, by its name."""

    def __init__(self, engine: str, model: dict[str, Any], threads: int) -> None:
        self.model = Model(**model)
        row = ENGINES[engine]
        self.runner: Runner = row.kind(self.model, threads, **row.options)
        self.default = Setting(32, 1, threads)
        self.chosen: dict[str, Setting] = {}
        self.runner.encode(["hello"], self.model.limit, self.default)

    def vectors(self, file: str, texts: int) -> None:
        """Write the vectors of the first texts."""
        workload = read_workloads(self.model)["one large call"]
        setting = self.chosen.get("one large call", self.default)
        np.save(file, self.runner.encode(workload.calls[0][:texts], workload.limit, setting))

    def calibrate(self, workload: str) -> dict[str, float]:
        """Choose a setting on a part of the workload: the seconds of each that was tried, the chosen one first."""
        part = sample(read_workloads(self.model)[workload])
        possible = self.runner.settings(part)
        if not possible:
            return {"its own": 0.0}
        chosen, seconds = choose(possible, lambda setting: self._seconds(part, setting))
        self.chosen[workload] = chosen
        return {str(setting): seconds[setting] for setting in (chosen, *seconds)}

    def settle(self, workloads: list[str]) -> None:
        """No more trials, and only these workloads: free what is not needed for them."""
        self.runner.keep([self.chosen[name] for name in workloads if name in self.chosen])

    def time(self, workload: str) -> float:
        """Texts per second."""
        work = read_workloads(self.model)[workload]
        return work.texts / self._seconds(work, self.chosen.get(workload, self.default))

    def source(self) -> str:
        """Return the file that `import minibert` read."""
        import minibert

        return minibert.__file__

    def peak(self) -> float:
        """Peak memory after one large call, in MiB."""
        self._seconds(read_workloads(self.model)["one large call"], self.default)
        return peak_memory()

    def _seconds(self, workload: Workload, setting: Setting) -> float:
        started = time.perf_counter()
        for call in workload.calls:
            self.runner.encode(call, workload.limit, setting)
        return time.perf_counter() - started


def peak_memory() -> float:
    """MiB of this process. Linux lets ru_maxrss begin at what the parent had, so there it is read elsewhere."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 2**10
    except (OSError, StopIteration):
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def wait_until_idle() -> None:
    """Let threads that still spin, as OpenMP's do for a while, come to rest: the next engine needs the cores."""
    for _ in range(100):
        before = time.process_time()
        time.sleep(0.01)
        if time.process_time() - before < 0.001:
            return


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: Any) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        server = Server(**json.loads(sys.stdin.readline()))
        answer({"ok": True})
        for line in sys.stdin:
            command = json.loads(line)
            value = getattr(server, command.pop("do"))(**command)
            wait_until_idle()
            answer({"ok": value})
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        raise


if __name__ == "__main__":
    main()
