"""Time the steps before the first vector, each in a fresh process.

    python tools/import_time.py --rounds 7

The lines: Python itself, `import torch`, `import minibert`, its public names (which import torch), and the first vector
of the built-in or default model. Rounds are interleaved, so that a slow spell of the machine hits all lines. Figures
are medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from minibert.display import table

CASES = {
    "python alone": "pass",
    "import minibert": "import minibert",
    "import torch": "import torch",
    "from minibert import SentenceEncoder": "from minibert import SentenceEncoder",
    "the first vector": "from minibert import SentenceEncoder; SentenceEncoder.from_pretrained().encode('hello')",
    "minibert --help": "from minibert.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
}


def seconds(code: str) -> float:
    """Return the wall seconds of a process that runs the code."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> int:
    """Print the medians as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="runs of each (default: %(default)s)")
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for code in CASES.values():
        seconds(code)  # fill the disk's cache
    for _ in range(rounds):
        for name, code in CASES.items():
            times[name].append(seconds(code))
    print(
        table(
            [
                ("", "median", "fastest"),
                *((n, f"{statistics.median(t):.3f} s", f"{min(t):.3f} s") for n, t in times.items()),
            ]
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
