"""The table as a picture: for each checkpoint and workload a bar for each engine, coloured by precision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .engines import PRECISIONS
from .report import BASE, raced, ratio, speed

# Pale for peers, full for minibert.
COLOURS = {"float32": ("#b8cbe0", "#2f6db3"), "bfloat16": ("#f3d3a6", "#d9822b"), "int8": ("#bcdcbc", "#3d8f46")}


def draw(found: Mapping[str, Any], target: Path) -> None:
    """Write a PNG (or what else matplotlib knows by the name's ending)."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    models = found["models"]
    widest = max(len(raced(values["engines"])) for values in models.values())
    heights = [len(values["engines"]) for values in models.values()]
    figure, axes = pyplot.subplots(
        len(models),
        widest,
        figsize=(4 + 2.9 * widest, 1.2 + 0.3 * sum(heights) + 0.6 * len(models)),
        squeeze=False,
        layout="constrained",
        height_ratios=heights,
    )
    for row, (name, values) in zip(axes, models.items(), strict=True):
        engines = values["engines"]
        for axis in row:
            axis.set_visible(False)
        for axis, workload in zip(row, raced(engines), strict=False):
            axis.set_visible(True)
            _bars(axis, engines, workload)
            axis.set_title(f"{name}: {workload}", fontsize=10, loc="left")
            if axis is not row[0]:
                axis.set_yticklabels([])
    about = f"{found['machine']}, {found['threads']} threads, {found['date']}"
    figure.suptitle(f"Texts per second, and times {BASE}' in float32\n{about}", fontsize=11)
    figure.savefig(target, dpi=130)
    pyplot.close(figure)


def _bars(axis: Any, engines: Mapping[str, Mapping[str, Any]], workload: str) -> None:
    names = [name for precision in PRECISIONS for name, v in engines.items() if v["precision"] == precision]
    speeds = [speed(engines[name], workload) for name in names]
    colours = [COLOURS[engines[name]["precision"]][not engines[name]["peer"]] for name in names]
    axis.barh(range(len(names)), speeds, color=colours)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.32 * max(speeds))
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    for i, name in enumerate(names):
        label = f" {speeds[i]:.0f}"
        if BASE in engines:
            label += f" ({ratio(engines[name]['speeds'][workload], engines[BASE]['speeds'][workload]):.1f} x)"
        axis.text(speeds[i], i, label, va="center", fontsize=7.5)
