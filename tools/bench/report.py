"""What was measured, in words: tables that align. Everything here is a pure function of the values of `race`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from minibert.table import table

from .engines import PRECISIONS

BASE = "transformers"


def speed(values: Mapping[str, Any], workload: str) -> float:
    """Median texts per second."""
    return statistics.median(values["speeds"][workload])


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """The median of the rounds' own ratios: both ran within the same seconds."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def best_peers(engines: Mapping[str, Mapping[str, Any]], precision: str, workload: str) -> str | None:
    """The name of the fastest peer of that precision, if any raced."""
    peers = [n for n, v in engines.items() if v["peer"] and v["precision"] == precision]
    return max(peers, key=lambda name: speed(engines[name], workload), default=None)


def race_table(found: Mapping[str, Any]) -> str:
    """One row an engine, by precision; `*` at the fastest peer of each precision."""
    engines = found["engines"]
    workloads = _raced(engines)
    rows: list[list[object]] = [["", *workloads, "difference", "cosine", "memory", "first vector"]]
    for precision in PRECISIONS:
        if all(values["precision"] != precision for values in engines.values()):
            continue
        rows.append([precision, *[""] * (len(workloads) + 4)])
        for name, values in engines.items():
            if values["precision"] == precision:
                cells = [_cell(engines, name, workload) for workload in workloads]
                rows.append(
                    [
                        f"  {name}",
                        *cells,
                        f"{values['difference']:.0e}",
                        f"{values['cosine']:.6f}",
                        f"{values['memory']:.0f} MiB",
                        f"{values['first vector']:.2f} s",
                    ]
                )
    return table(rows)


def workload_table(found: Mapping[str, Any]) -> str:
    """What each workload is."""
    rows: list[list[object]] = [["", "calls", "texts", "tokens"]]
    rows += [[name, w["calls"], w["texts"], w["tokens"]] for name, w in found["workloads"].items()]
    return table(rows)


def settings_table(found: Mapping[str, Any]) -> str:
    """Which setting each peer chose for each workload."""
    engines = found["engines"]
    rows: list[list[object]] = [["", *(workloads := _raced(engines))]]
    rows += [[n, *(v["settings"][w] for w in workloads)] for n, v in engines.items() if v["peer"]]
    return table(rows, left=range(len(workloads) + 1))


def bars_table(found: Mapping[str, Any]) -> str:
    """How many times as fast minibert is as transformers in float32, and as the best peer of its own precision."""
    engines = found["engines"]
    workloads = _raced(engines)
    rows: list[list[object]] = [["", *workloads]]
    for name, values in engines.items():
        if values["peer"]:
            continue
        for title, rival in (
            (f"{name} : {BASE}", lambda w: BASE if BASE in engines else None),
            (f"{name} : best {values['precision']} peer", lambda w, p=values["precision"]: best_peers(engines, p, w)),
        ):
            cells = []
            for workload in workloads:
                peer = rival(workload)
                if peer is None:
                    cells.append("-")
                    continue
                times = ratio(values["speeds"][workload], engines[peer]["speeds"][workload])
                cells.append(f"{times:.2f} x" + ("" if peer == BASE else f" {peer.split()[0]}"))
            rows.append([title, *cells])
    return table(rows)


def neighbour_table(found: Mapping[str, Any]) -> str:
    """The part of its speed on a free machine that each engine keeps beside a busy process."""
    engines = {name: values for name, values in found["engines"].items() if values["beside a neighbour"]}
    workloads = list(next(iter(engines.values()))["beside a neighbour"]) if engines else []
    rows: list[list[object]] = [["", *workloads]]
    for name, values in engines.items():
        kept = [
            statistics.median(values["beside a neighbour"][w]) / statistics.median(values["speeds"][w])
            for w in workloads
        ]
        rows.append([name, *(f"{part:.2f}" for part in kept)])
    return table(rows)


def model_report(name: str, found: Mapping[str, Any]) -> str:
    """All tables of one checkpoint."""
    parts = [
        f"== {name}: texts per second, and times {BASE}' in float32; * is the fastest peer of its precision",
        race_table(found),
        f"`import torch` alone: {found['import torch']:.2f} s. Differences are to float64.",
        workload_table(found),
    ]
    if found["not raced"]:
        parts.append("\n".join(f"not raced: {name}: {error}" for name, error in found["not raced"].items()))
    parts += ["-- settings that the peers chose", settings_table(found), "-- minibert", bars_table(found)]
    if any(values["beside a neighbour"] for values in found["engines"].values()):
        parts += ["-- part of its speed kept beside a busy process", neighbour_table(found)]
    return "\n\n".join(parts)


def _raced(engines: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(next(iter(engines.values()))["speeds"]) if engines else []


def _cell(engines: Mapping[str, Mapping[str, Any]], name: str, workload: str) -> str:
    values = engines[name]
    star = "*" if best_peers(engines, values["precision"], workload) == name else " "
    times = ""
    if BASE in engines:
        times = f"{ratio(values['speeds'][workload], engines[BASE]['speeds'][workload]):6.2f} x"
    return f"{speed(values, workload):.0f}/s{times}{star}"
