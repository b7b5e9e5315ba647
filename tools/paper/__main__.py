"""`python tools/paper table6 ...`, `python tools/paper table7 ...`: see the files of these names."""

import sys
from importlib import import_module
from pathlib import Path

TABLES = ("table6", "table7")

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TABLES:
        sys.exit(f"python tools/paper TABLE ..., where TABLE is one of {', '.join(TABLES)}; --help tells the rest")
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # so that these files are the package paper
    sys.exit(import_module(f"paper.{sys.argv[1]}").main(sys.argv[2:]))
