"""The suite's table and plot. Everything here is made from what `--json` writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minibert.display import table

INK, FAINT, COLOURS = "#24292f", "#c9d1d9", ("#2f6db3", "#d9822b", "#3a8f5c", "#8a5fb0", "#b03a48")


def report(found: Mapping[str, Any]) -> str:
    """Return the tables of scores and of rates, with the machine and the date."""
    teacher, students = found["teacher"], found["students"]
    rows: list[list[object]] = [["", "cases", "measure", teacher, *students]]
    for each in found["sets"]:
        scores = {name: f"{100 * score:.1f}" for name, score in each["scores"].items()}
        cells = [f"{scores[name]}  {_share(each['shares'][name])}" for name in students]
        rows.append([each["name"], each["cases"], each["measure"], scores[teacher], *cells])
    if found["mean"]:
        cells = [_share(found["mean"][name]) for name in students]
        rows.append(["mean of the sets' first measures, without STS-B", "", "", "", *cells])
    about = (
        f"{found['date']}, {found['machine']}, {found['seconds']:.0f} s. Of a student: score, percent (95 % interval)"
    )
    parts = [about, table(rows, left=(0, 2))]
    if found["rates"]:
        rates: list[list[object]] = [["texts per second", *found["rates"]]]
        for name in next(iter(found["rates"].values())):
            values = [found["rates"][kind][name] for kind in found["rates"]]
            rates.append([name, *(f"{value['texts/s']:,.0f} ({value['times']:.2f} x)" for value in values)])
        parts.append(table(rates))
    return "\n\n".join(parts)


def _share(share: list[float]) -> str:
    percent, low, high = share
    return f"{percent:5.1f} % ({low:5.1f} to {high:5.1f})"


def draw(found: Mapping[str, Any], target: Path) -> None:
    """Draw each student's percent of the teacher, with its interval, a row for each set and measure."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [(each["name"], each["shares"]) for each in found["sets"] if each["counts"] or each is found["sets"][0]]
    rows += [("mean of all but the STS Benchmark", found["mean"])] if found["mean"] else []
    students = found["students"]
    height = 0.25 + 0.11 * len(students)
    with pyplot.rc_context({"font.size": 8.5, "text.color": INK, "axes.labelcolor": INK, "svg.fonttype": "none"}):
        figure, axis = pyplot.subplots(figsize=(8, 1.1 + height * len(rows)), layout="constrained")
        axis.axvline(100, color=INK, linewidth=0.8)
        for number, name in enumerate(students):
            colour = COLOURS[number % len(COLOURS)]
            for y, (_, shares) in enumerate(rows):
                percent, low, high = shares[name]
                place = y + 0.6 * (number - (len(students) - 1) / 2) / len(students)
                axis.plot([low, high], [place] * 2, color=colour, linewidth=2.5, alpha=0.4, solid_capstyle="round")
                axis.plot(percent, place, "o", color=colour, markersize=5, label=None if y else name)
                if len(students) == 1:
                    axis.annotate(f"{percent:.1f}", (percent, y), (0, 5), textcoords="offset points", ha="center")
        axis.set_yticks(range(len(rows)), [label for label, _ in rows])
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.grid(axis="x", color=FAINT, linewidth=0.5)
        axis.set_axisbelow(True)
        axis.tick_params(length=0)
        axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
        axis.set_xlabel(f"percent of {found['teacher']}'s first measure, with 95 % intervals  ·  {found['date']}")
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
        figure.savefig(target, dpi=160, facecolor="white")
        pyplot.close(figure)
