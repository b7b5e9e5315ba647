"""The tables of one checkpoint. Everything here is a pure function of the values of `race`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from minibert.display import table

from .engines import PRECISIONS

BASE = "transformers"
Engines = Mapping[str, Mapping[str, Any]]


def raced(engines: Engines) -> list[str]:
    """Return the names of the workloads."""
    return list(next(iter(engines.values()))["speeds"]) if engines else []


def speed(values: Mapping[str, Any], workload: str) -> float:
    """Return the median of texts per second."""
    return statistics.median(values["speeds"][workload])


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the median of the rounds' own ratios: both engines ran within the same seconds."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def best_peer(engines: Engines, precision: str, workload: str) -> str | None:
    """Return the name of the fastest peer of that precision, if any raced."""
    peers = [n for n, v in engines.items() if v["peer"] and v["precision"] == precision]
    return max(peers, key=lambda name: speed(engines[name], workload), default=None)


def race_table(found: Mapping[str, Any]) -> str:
    """Return one row for each engine, by precision; `*` marks the fastest peer of each precision."""
    engines = found["engines"]
    workloads = raced(engines)
    rows: list[list[object]] = [["", *workloads, "difference", "cosine", "memory", "first vector"]]
    for precision in PRECISIONS:
        group = {name: values for name, values in engines.items() if values["precision"] == precision}
        if group:
            rows.append([precision, *[""] * (len(workloads) + 4)])
        for name, values in group.items():
            cells = [_cell(engines, name, workload) for workload in workloads]
            errors = [f"{values['difference']:.0e}", f"{values['cosine']:.6f}"]
            rows.append(
                [f"  {name}", *cells, *errors, f"{values['memory']:.0f} MiB", f"{values['first vector']:.2f} s"]
            )
    return table(rows)


def _cell(engines: Engines, name: str, workload: str) -> str:
    star = "*" if best_peer(engines, engines[name]["precision"], workload) == name else " "
    times = ""
    if BASE in engines:
        times = f"{ratio(engines[name]['speeds'][workload], engines[BASE]['speeds'][workload]):6.2f} x"
    return f"{speed(engines[name], workload):.0f}/s{times}{star}"


def settings_table(found: Mapping[str, Any]) -> str:
    """Return the settings that each peer chose; letters stand for environment variables, listed below the table."""
    engines = found["engines"]
    workloads = raced(engines)
    letters: dict[str, str] = {}
    rows: list[list[object]] = [["", *workloads]]
    for name, values in engines.items():
        cells = []
        for setting in [values["settings"][workload] for workload in workloads] if values["peer"] else ():
            variables = " ".join(f"{key}={value}" for key, value in setting["environment"].items())
            letter = letters.setdefault(variables, chr(ord("a") + len(letters))) if variables else ""
            cells.append(setting["chosen"] + (f" [{letter}]" if letter else ""))
        rows += [[name, *cells]] if values["peer"] else []
    notes = [f"[{letter}] {variables}" for variables, letter in letters.items()]
    return "\n".join([table(rows, left=range(len(workloads) + 1)), *notes])


def bars_table(found: Mapping[str, Any]) -> str:
    """Return minibert's speed over that of transformers in float32, and of the best peer of its own precision."""
    engines = found["engines"]
    workloads = raced(engines)
    rows: list[list[object]] = [["", *workloads]]
    for name, values in engines.items():
        if values["peer"]:
            continue
        for rival in (BASE, f"best {values['precision']} peer"):
            cells = []
            for workload in workloads:
                peer = BASE if rival == BASE else best_peer(engines, values["precision"], workload)
                if peer is None or peer not in engines:
                    cells.append("-")
                    continue
                times = ratio(values["speeds"][workload], engines[peer]["speeds"][workload])
                cells.append(f"{times:.2f} x" + ("" if rival == BASE else f" {peer.split()[0]}"))
            rows.append([f"{name} : {rival}", *cells])
    return table(rows, left=range(len(workloads) + 1))


def model_report(name: str, found: Mapping[str, Any]) -> str:
    """Return all tables of one checkpoint."""
    works: list[list[object]] = [["", "calls", "texts", "tokens"]]
    works += [[work, w["calls"], w["texts"], w["tokens"]] for work, w in found["workloads"].items()]
    parts = [
        f"== {name}: texts per second, and times {BASE}' in float32; * is the fastest peer of its precision",
        race_table(found),
        f"`import torch` alone: {found['import torch']:.2f} s. Differences and cosines are to float64, at their worst.",
        "\n".join(f"not raced: {engine}: {error}" for engine, error in found["not raced"].items()),
        "-- the workloads",
        table(works),
        "-- settings that the peers chose: texts in a batch, batches side by side x threads for each",
        settings_table(found),
        "-- minibert's ratio to transformers, and to the best peer of its precision",
        bars_table(found),
    ]
    return "\n\n".join(part for part in parts if part)
