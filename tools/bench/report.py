"""What was measured, in words: tables that align. Everything here is a pure function of the values of `race`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from minibert.display import table

from .engines import PRECISIONS

BASE = "transformers"
LARGE = "one large call"


def raced(engines: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The workloads."""
    return list(next(iter(engines.values()))["speeds"]) if engines else []


def speed(values: Mapping[str, Any], workload: str) -> float:
    """Median texts per second."""
    return statistics.median(values["speeds"][workload])


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """The median of the rounds' own ratios: both ran within the same seconds."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def best_peer(engines: Mapping[str, Mapping[str, Any]], precision: str, workload: str) -> str | None:
    """The name of the fastest peer of that precision, if any raced."""
    peers = [n for n, v in engines.items() if v["peer"] and v["precision"] == precision]
    return max(peers, key=lambda name: speed(engines[name], workload), default=None)


def race_table(found: Mapping[str, Any]) -> str:
    """One row an engine, by precision; `*` at the fastest peer of each precision."""
    engines = found["engines"]
    workloads = raced(engines)
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
    """Which setting each peer chose for each workload; variables of the environment are told below, by letters."""
    engines = found["engines"]
    workloads = raced(engines)
    letters: dict[str, str] = {}
    rows: list[list[object]] = [["", *workloads]]
    for name, values in engines.items():
        if not values["peer"]:
            continue
        cells = []
        for workload in workloads:
            setting = values["settings"][workload]
            variables = " ".join(f"{key}={value}" for key, value in setting["environment"].items())
            letter = letters.setdefault(variables, chr(ord("a") + len(letters))) if variables else ""
            cells.append(setting["chosen"] + (f" [{letter}]" if letter else ""))
        rows.append([name, *cells])
    notes = [f"[{letter}] {variables}" for variables, letter in letters.items()]
    return "\n".join([table(rows, left=range(len(workloads) + 1)), *notes])


def bars_table(found: Mapping[str, Any]) -> str:
    """How many times as fast minibert is as transformers in float32, and as the best peer of its own precision."""
    engines = found["engines"]
    workloads = raced(engines)
    rows: list[list[object]] = [["", *workloads]]
    for name, values in engines.items():
        if values["peer"]:
            continue
        precision = values["precision"]
        for rival in (BASE, f"best {precision} peer"):
            cells = []
            for workload in workloads:
                peer = best_peer(engines, precision, workload) if rival != BASE else BASE
                if peer is None or peer not in engines:
                    cells.append("-")
                    continue
                times = ratio(values["speeds"][workload], engines[peer]["speeds"][workload])
                cells.append(f"{times:.2f} x" + ("" if rival == BASE else f" {peer.split()[0]}"))
            rows.append([f"{name} : {rival}", *cells])
    return table(rows, left=range(len(workloads) + 1))


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


def peak_table(peak: Mapping[str, Any]) -> str:
    """What the machine can do."""
    rows: list[list[object]] = [["GFLOP/s", "all threads together", "a product for each", "one thread", "fastest by"]]
    for precision, values in peak.items():
        best = "each" if values["each"] > values["together"] else "together"
        numbers = [f"{values[mode]:.0f}" for mode in ("together", "each", "one")]
        rows.append([precision, *numbers, values[f"{best} by"]])
    return table(rows, left=(0, 4))


def share_table(found: Mapping[str, Any], peak: Mapping[str, Any]) -> str:
    """How much of that is reached in the large call; for minibert also within its linear layers, on one thread.

    Only the products of the linear layers count as work, and only those of real tokens: attention, norms, padding,
    tokenising are all time lost.
    """
    work = found["workloads"][LARGE]
    flops_a_text = found["linear flops a token"] * work["tokens"] / work["texts"]
    rows: list[list[object]] = [
        ["", "GFLOP/s", "of the peak", "linear layers alone", "of one thread's peak", "of all time"]
    ]
    for name, values in found["engines"].items():
        if LARGE not in values["speeds"]:
            continue
        most = peak[values["precision"]]
        rate = 1e-9 * flops_a_text * speed(values, LARGE)
        row: list[object] = [name, f"{rate:.0f}", f"{rate / max(most['together'], most['each']):.0%}"]
        linear = values.get("linear", {})
        if linear.get("linear seconds"):
            alone = 1e-9 * linear["flops"] / linear["linear seconds"]
            part = linear["linear seconds"] / linear["seconds"]
            row += [f"{alone:.0f}", f"{alone / most['one']:.0%}", f"{part:.0%}"]
        elif linear:
            row += ["not seen"]  # computed under a name that `peak.LINEAR` does not know
        rows.append([*row, *[""] * (6 - len(row))])
    return table(rows)


def model_report(name: str, found: Mapping[str, Any], peak: Mapping[str, Any]) -> str:
    """All tables of one checkpoint."""
    parts = [
        f"== {name}: texts per second, and times {BASE}' in float32; * is the fastest peer of its precision",
        race_table(found),
        f"`import torch` alone: {found['import torch']:.2f} s. Differences and cosines are to float64, at their worst.",
    ]
    parts += ["\n".join(f"not raced: {name}: {error}" for name, error in found["not raced"].items())]
    parts += ["-- the workloads", workload_table(found)]
    parts += [
        "-- settings that the peers chose: texts a batch, batches at once x threads for each",
        settings_table(found),
    ]
    parts += ["-- minibert's ratio to transformers, and to the best peer of its precision", bars_table(found)]
    if peak and LARGE in found["workloads"]:
        parts += ["-- one large call, as part of the machine's peak", share_table(found, peak)]
    if any(values["beside a neighbour"] for values in found["engines"].values()):
        parts += ["-- part of its speed kept beside a busy process", neighbour_table(found)]
    return "\n\n".join(part for part in parts if part)


def _cell(engines: Mapping[str, Mapping[str, Any]], name: str, workload: str) -> str:
    values = engines[name]
    star = "*" if best_peer(engines, values["precision"], workload) == name else " "
    times = ""
    if BASE in engines:
        times = f"{ratio(values['speeds'][workload], engines[BASE]['speeds'][workload]):6.2f} x"
    return f"{speed(values, workload):.0f}/s{times}{star}"
