"""Race minibert against the other ways to get sentence vectors, on this machine's CPU.

    python tools/bench                                          everything: about 25 minutes on two cores
    python tools/bench --models minilm --only "minibert*" "openvino*"
    python tools/bench --json raw.json --plot bench.png
    python tools/bench --read raw.json --plot bench.png         the tables and the plot of an earlier run
    python tools/bench --against ../old --rounds 5              this checkout against another, nothing else
    python tools/bench --gpu                                    on a GPU, and nothing else: under 4 minutes

But for --against and --gpu it needs the extra `bench` (pip install -e '.[bench]'). An engine that fails is listed.
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
from importlib import import_module
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from minibert.compiled import build

from ..peers.work import WORKLOADS
from .against import against_report, commit, race_trees
from .engines import ENGINES
from .process import CHECKOUT, EngineError
from .race import Plan, race
from .report import model_report

LIBRARIES = ("torch", "transformers", "sentence-transformers", "onnxruntime", "openvino", "ctranslate2", "minibert")


def main(arguments: Sequence[str] | None = None) -> int:
    """Race, print and draw. Return status 1 where a checkpoint can't be raced."""
    options = parse(arguments)
    try:
        if options.gpu:
            return int(import_module("tools.gpu_race").main(options, versions()))
        found = json.loads(options.read.read_text(encoding="utf-8")) if options.read else measure(options)
    except (EngineError, OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if options.read:
        print("\n\n".join([heading(found), *(report(name, found) for name in found["models"])]))
    if options.plot:
        import_module("tools.pictures").draw_race(found, options.plot)
    return 0


def matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that any of the patterns fits."""
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line, and refuse at once what can't be done."""
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
    add("--neighbour", action="store_true", help="race beside another process that keeps a core busy")
    add("--against", type=Path, metavar="CHECKOUT", help="race the minibert rows of two checkouts, and nothing else")
    add("--gpu", action="store_true", help="race minibert against sentence-transformers on the GPU; see gpu_race.py")
    add("--json", type=Path, metavar="FILE", help="write all that was measured, round by round")
    add("--plot", type=Path, metavar="FILE", help="draw the table, as .png or .svg")
    add("--read", type=Path, metavar="FILE", help="race nothing; print and draw what --json wrote")
    options = parser.parse_args(arguments)
    ours = [e for e in ENGINES if not options.against or not (ENGINES[e].is_peer or ENGINES[e].needs)]
    options.engines = matching(ours, options.only)
    options.workloads = matching(WORKLOADS, options.workloads)
    if not options.engines or not options.workloads:
        parser.error(f"nothing matches; engines: {', '.join(ENGINES)}; workloads: {', '.join(WORKLOADS)}")
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    if options.plot and (options.against or options.gpu or find_spec("matplotlib") is None):
        parser.error("--plot draws a race of engines, and needs matplotlib: pip install -e '.[bench]'")
    for path in (options.texts, options.read, options.against and options.against / "minibert" / "model.py"):
        if path and not path.is_file():
            parser.error(f"there is no file {path}")
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Race on each checkpoint, and print its tables as soon as they are there."""
    from .inputs import SIZES, Sizes, cut_workloads, open_model, read_texts

    began = time.monotonic()
    found: dict[str, Any] = {
        "machine": processor(),
        "threads": options.threads,
        "rounds": options.rounds,
        "beside a busy process": options.neighbour,
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "models": {},
    }
    if options.against:
        trees = {"new": CHECKOUT, "old": options.against.resolve()}
        found["trees"] = {name: f"{tree} at {commit(tree)}" for name, tree in trees.items()}
    print(heading(found), flush=True)
    for name in options.models:

        def say(line: str, name: str = name) -> None:
            minutes, seconds = divmod(int(time.monotonic() - began), 60)
            print(f"[{minutes:2}:{seconds:02}] {name}: {line}", file=sys.stderr, flush=True)

        sizes = SIZES.get(name, Sizes())
        with tempfile.TemporaryDirectory() as work:
            model = open_model(name, Path(work))
            cut = cut_workloads(model, read_texts(options.texts, sizes.large), sizes)
            names = [name for name in options.workloads if name in cut]
            engines = [ENGINES[engine] for engine in options.engines]
            plan = Plan(model, cut, names, engines, options.rounds, options.threads, options.neighbour, say)
            found["models"][name] = race_trees(plan, trees["old"]) if options.against else race(plan)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
        print("\n" + report(name, found), flush=True)
    return found


def report(name: str, found: Mapping[str, Any]) -> str:
    """Return the tables of one checkpoint."""
    return (against_report if "trees" in found else model_report)(name, found["models"][name])


def heading(found: Mapping[str, Any]) -> str:
    """Name the machine, the versions and the trees."""
    beside = ", beside a busy process" if found["beside a busy process"] else ""
    lines = [f"{found['machine']}, {found['threads']} threads, {found['date']}, {found['rounds']} rounds{beside}"]
    lines += [", ".join(f"{name} {number}" for name, number in found["versions"].items())]
    return "\n".join(lines + [f"{name}: {tree}" for name, tree in found.get("trees", {}).items()])


def processor() -> str:
    """Return the processor's name, as far as the system tells."""
    return build.processor().get("model name") or platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of all libraries that are installed."""
    found = {package.name: package.version for package in distributions()}
    return {name: found[name] for name in LIBRARIES if name in found}
