"""Draw a training's log: the loss and the scores over the steps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..checkpoint.atomic import replacing


def plot_log(records: Sequence[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw the loss of `train`'s records (or `read_log`'s), its running mean, and any scores into a PNG file.

    Raises:
        ImportError: matplotlib is not installed. ValueError: No record has a loss. OSError: The file can't be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("a plot needs matplotlib: pip install matplotlib") from None
    points = [(record["step"], record["loss"]) for record in records if "loss" in record]
    if not points:
        raise ValueError("there is no loss to plot: the log has no steps")
    steps, losses = np.array(points).T
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=1)
    axes.plot(steps, running_mean(losses), color="tab:blue", label="loss")
    axes.set(xlabel="step", ylabel="loss")
    lines = axes.get_lines()[1:]
    scored = [record for record in records if "scores" in record]
    if scored:
        other = axes.twinx()
        other.set_ylabel("score")
        for number, name in enumerate(scored[0]["scores"], 1):
            values = [record["scores"][name] for record in scored]
            lines += other.plot([record["step"] for record in scored], values, "o-", color=f"C{number}", label=name)
    axes.legend(handles=lines)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def running_mean(values: np.ndarray) -> np.ndarray:
    """Average each value with those before it, over at most a twentieth of all values. (n,) -> (n,)"""
    window = max(1, len(values) // 20)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)
