"""Make the pictures of the README.

    python tools/pictures.py race docs/race.json        the file is what `tools/bench --json` writes
    python tools/pictures.py view                       needs Chromium or Chrome

Both need matplotlib, and write to docs/pictures. `race` draws texts per second, with times transformers' in float32
beside each bar. `view` takes a screenshot of the page that `minibert view` writes for two sentences.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
TEXTS = ("A man is eating food.", "Someone has a meal.")
PRECISIONS = ("float32", "bfloat16", "int8")
BASE = "transformers"
OURS, THEIRS, INK = "#2f6db3", "#c9d1d9", "#24292f"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --hide-scrollbars"
)


def draw_race(found: Mapping[str, Any], target: Path) -> None:
    """Draw a row of panels for each checkpoint, one for each workload, with a bar for each engine."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    models = found["models"]
    columns = max(len(next(iter(values["engines"].values()))["speeds"]) for values in models.values())
    heights = [len(values["engines"]) + 3 for values in models.values()]
    style = {"font.size": 8.5, "text.color": INK, "ytick.color": INK, "svg.fonttype": "none"}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(
            len(models),
            columns,
            figsize=(2.2 + 1.55 * columns, 0.21 * sum(heights) + 0.5),
            squeeze=False,
            layout="constrained",
            height_ratios=heights,
        )
        for row, (name, values) in zip(axes, models.items(), strict=True):
            for axis in row:
                axis.axis("off")
            workloads = list(next(iter(values["engines"].values()))["speeds"])
            for axis, workload in zip(row, workloads, strict=False):
                _draw_panel(axis, values["engines"], workload, names=axis is row[0])
                title = f"{name}: {workload}" if len(models) > 1 else workload
                axis.set_title(title, fontsize=9, loc="left", fontweight="bold")
        about = f"texts per second, and times {BASE} in float32  ·  {found['machine']}  ·  {found['date']}"
        figure.supxlabel(about, fontsize=8, color="#57606a")
        figure.savefig(target, dpi=170, facecolor="white")
        pyplot.close(figure)


def _draw_panel(axis: Any, engines: Mapping[str, Mapping[str, Any]], workload: str, *, names: bool) -> None:
    """Draw the bars of one workload, in groups by precision."""
    speeds = {name: values["speeds"][workload] for name, values in engines.items()}
    widest = max(map(statistics.median, speeds.values()))
    y = 0.0
    for precision in PRECISIONS:
        for name in [name for name, values in engines.items() if values["precision"] == precision]:
            ours = not engines[name]["peer"]
            rate = statistics.median(speeds[name])
            axis.barh(y, rate, height=0.78, color=OURS if ours else THEIRS)
            label = f"{rate:,.0f}"
            if BASE in speeds:
                times = statistics.median(a / b for a, b in zip(speeds[name], speeds[BASE], strict=True))
                label += f"  {times:.1f}×"
            weight = "bold" if ours else "normal"
            axis.text(rate + 0.02 * widest, y, label, va="center", fontsize=7.5, fontweight=weight)
            if names:
                axis.text(-0.03 * widest, y, name, va="center", ha="right", fontweight=weight)
            y += 1
        y += 0.5
    axis.set_xlim(0, 1.5 * widest)
    axis.set_ylim(y - 0.9, -0.6)


def take_view(target: Path) -> None:
    """Write the viewer's page for two sentences, and take its picture. Raises SystemExit without a browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"pictures: no browser; one of these is needed: {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder) / "page.html", Path(folder) / "shot.png"
        subprocess.run([sys.executable, "-m", "minibert", "view", *TEXTS, "-o", str(page)], check=True)
        arguments = [f"--user-data-dir={folder}/profile", f"--screenshot={shot}", "--window-size=1000,612"]
        subprocess.run([browser, *QUIET.split(), *arguments, page.as_uri()], check=True, capture_output=True)
        shutil.copyfile(shot, target)


def shrink(picture: Path, colours: int = 200) -> None:
    """Reduce a PNG to a palette, which makes it a third of its size."""
    from PIL import Image

    if picture.suffix == ".png":
        Image.open(picture).convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(picture, optimize=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    race = verbs.add_parser("race", help="the bars of a race")
    race.add_argument("file", type=Path, help="what `tools/bench --json` wrote")
    race.add_argument("-o", "--output", type=Path, default=FOLDER / "race.png", help=".png or .svg")
    view = verbs.add_parser("view", help="the viewer's page")
    view.add_argument("-o", "--output", type=Path, default=FOLDER / "view.png")
    options = parser.parse_args(arguments)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    if options.verb == "race":
        draw_race(json.loads(options.file.read_text(encoding="utf-8")), options.output)
    else:
        take_view(options.output)
    shrink(options.output)
    print(f"{options.output}: {options.output.stat().st_size / 1024:.0f} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
