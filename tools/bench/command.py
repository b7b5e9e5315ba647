"""Race minibert against the other ways of getting sentence vectors, on this machine's CPU.

    python tools/bench                                          all of it: about 25 minutes on two cores
    python tools/bench --models minilm --only "minibert*" "openvino*"
    python tools/bench --json raw.json --plot bench.png
    python tools/bench --read raw.json --plot bench.png         the table and the plot of an earlier run
    python tools/bench --against ../old --rounds 5              this checkout against another; no other engine

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
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .against import HERE, against_report, commit, race_trees
from .engines import ENGINES
from .race import EngineError, Plan, measure_peak, race
from .report import model_report, peak_table

WORKLOADS = ("one large call", "calls of 32", "one text a call", "long texts")
LIBRARIES = ("torch", "transformers", "sentence-transformers", "onnxruntime", "openvino", "ctranslate2", "minibert")


def main(arguments: Sequence[str] | None = None) -> int:
    """Race, print, draw. Ends with status 1 where a checkpoint can't be raced."""
    options = parse(arguments)
    if options.read:
        found = json.loads(options.read.read_text(encoding="utf-8"))
        print(heading(found))
        for name, values in found["models"].items():
            print("\n" + report_of(name, found))
    else:
        try:
            found = measure(options)
        except (EngineError, OSError, ValueError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    if options.plot:
        from .plot import draw

        draw(found, options.plot)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; what can't be done is refused here, not after twenty minutes."""
    parser = argparse.ArgumentParser(
        prog="python tools/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", default=["minilm", "base"], help="minilm, base, or folders (default: minilm base)")
    add("--only", nargs="+", default=["*"], metavar="ENGINE", help="rows of the table, as shell patterns")
    add("--workloads", nargs="+", default=["*"], metavar="NAME", help="columns of the table, as shell patterns")
    add("--rounds", type=int, default=5, help="counted rounds (default: %(default)s)")
    add("--threads", type=int, default=os.cpu_count() or 1, help="for each engine (default: all cores, %(default)s)")
    add("--texts", type=Path, metavar="FILE", help="texts, one a line, in place of docstrings")
    add("--neighbour", action="store_true", help="race again beside a process that keeps a core busy")
    add("--no-peak", dest="peak", action="store_false", help="leave out the machine's own matrix products")
    add("--against", type=Path, metavar="CHECKOUT", help="race the minibert rows of two checkouts, and nothing else")
    add("--json", type=Path, metavar="FILE", help="write all that was measured, round by round")
    add("--plot", type=Path, metavar="FILE.png", help="draw the table")
    add("--read", type=Path, metavar="FILE", help="race nothing; print and draw what --json wrote")
    options = parser.parse_args(arguments)
    options.engines = matching(ENGINES, options.only)
    if options.against:
        options.engines = [name for name in options.engines if not ENGINES[name].is_peer]
        if not (options.against / "minibert" / "__init__.py").is_file():
            parser.error(f"{options.against} is not a checkout of minibert")
        if options.plot:
            parser.error("--plot draws engines, and not two checkouts")
    options.workloads = matching(WORKLOADS, options.workloads)
    if not options.engines or not options.workloads:
        parser.error(f"nothing matches; engines: {', '.join(ENGINES)}; workloads: {', '.join(WORKLOADS)}")
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    if options.plot and find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install -e '.[bench]'")
    for path in (options.texts, options.read):
        if path and not path.is_file():
            parser.error(f"there is no file {path}")
    return options


def matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Those that any of the patterns fits."""
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Race on each checkpoint, and say what was found as soon as it is."""
    from .models import SIZES, Sizes, cut_workloads, open_model
    from .texts import read_texts

    began = time.monotonic()

    def say(line: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began), 60)
        print(f"[{minutes:2}:{seconds:02}] {line}", file=sys.stderr, flush=True)

    plan = Plan(
        engines=[ENGINES[name] for name in options.engines],
        workloads=options.workloads,
        rounds=options.rounds,
        threads=options.threads,
        neighbour=options.neighbour,
        peak=options.peak,
        say=say,
    )
    found: dict[str, Any] = {
        "machine": processor(),
        "threads": options.threads,
        "rounds": options.rounds,
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "peak": {},
        "models": {},
    }
    if options.against:
        other = options.against.resolve()
        found["trees"] = {"new": f"{HERE} at {commit(HERE)}", "old": f"{other} at {commit(other)}"}
    elif options.peak:
        say("the machine's own matrix products")
        found["peak"] = measure_peak(options.threads)
    print(heading(found), flush=True)
    for name in options.models:
        sizes = SIZES.get(name, Sizes())
        with tempfile.TemporaryDirectory() as work:
            model = open_model(name, Path(work))
            workloads = cut_workloads(model, read_texts(options.texts, sizes.large), sizes)
            if options.against:
                found["models"][name] = race_trees(model, workloads, plan, other)
            else:
                found["models"][name] = race(model, workloads, plan)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
        print("\n" + report_of(name, found), flush=True)
    say("done")
    return found


def report_of(name: str, found: Mapping[str, Any]) -> str:
    """The tables of one checkpoint."""
    values = found["models"][name]
    return against_report(name, values) if "trees" in found else model_report(name, values, found["peak"])


def heading(found: Mapping[str, Any]) -> str:
    """Machine, versions, and what the machine can do."""
    lines = [f"{found['machine']}, {found['threads']} threads, {found['date']}, medians of {found['rounds']} rounds"]
    lines += [", ".join(f"{name} {number}" for name, number in found["versions"].items())]
    lines += [f"{tree}: {place}" for tree, place in found.get("trees", {}).items()]
    if found["peak"]:
        lines += ["", "-- the machine's own matrix products", "", peak_table(found["peak"])]
    return "\n".join(lines)


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
