"""Race minibert against the other ways of getting sentence vectors, on this machine's CPU.

    python tools/bench                                          all of it: about 25 minutes on two cores
    python tools/bench --models minilm --only "minibert*" "openvino*"
    python tools/bench --json raw.json --plot bench.png
    python tools/bench --read raw.json --plot bench.png         the table and the plot of an earlier run

Needs the extra `bench` (pip install -e '.[bench]'); an engine that can't be opened is listed with its error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .engines import ENGINES
from .race import Plan, race
from .report import model_report

WORKLOADS = ("one large call", "calls of 32", "one text a call", "long texts")
LIBRARIES = ("torch", "transformers", "sentence-transformers", "onnxruntime", "openvino", "ctranslate2", "minibert")


def main(arguments: Sequence[str] | None = None) -> int:
    """Race, print, draw."""
    options = parse(arguments)
    found = json.loads(options.read.read_text(encoding="utf-8")) if options.read else measure(options)
    print(f"{found['machine']}, {found['threads']} threads, {found['date']}, medians of {found['rounds']} rounds")
    print(", ".join(f"{name} {number}" for name, number in found["versions"].items()))
    for name, values in found["models"].items():
        print("\n" + model_report(name, values))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python tools/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["minilm", "base"], help="minilm, base, or folders")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="ENGINE", help="shell patterns")
    parser.add_argument("--workloads", nargs="+", default=["*"], metavar="NAME", help="shell patterns")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: all cores")
    parser.add_argument("--texts", type=Path, help="a file of texts, one a line")
    parser.add_argument("--neighbour", action="store_true", help="again beside a busy process")
    parser.add_argument("--json", type=Path, help="write all that was measured, round by round")
    parser.add_argument("--read", type=Path, help="race nothing, take what --json wrote")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Race on each checkpoint."""
    from .models import SIZES, Sizes, cut_workloads, open_model
    from .texts import read_texts

    began = time.monotonic()

    def say(line: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began), 60)
        print(f"[{minutes:2}:{seconds:02}] {line}", file=sys.stderr, flush=True)

    plan = Plan(
        engines=[e for e in ENGINES.values() if any(fnmatch(e.name, pattern) for pattern in options.only)],
        workloads=[name for name in WORKLOADS if any(fnmatch(name, pattern) for pattern in options.workloads)],
        rounds=options.rounds,
        threads=options.threads,
        neighbour=options.neighbour,
        say=say,
    )
    found: dict[str, Any] = {
        "machine": processor(),
        "threads": options.threads,
        "rounds": options.rounds,
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "models": {},
    }
    for name in options.models:
        sizes = SIZES.get(name, Sizes())
        with tempfile.TemporaryDirectory() as work:
            model = open_model(name, Path(work))
            workloads = cut_workloads(model, read_texts(options.texts, sizes.large), sizes)
            found["models"][name] = race(model, workloads, plan)
    return found


def processor() -> str:
    """Its name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of all libraries that are here."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
