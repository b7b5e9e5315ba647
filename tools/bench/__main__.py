"""`python tools/bench`: see `command`."""

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # so that these files are the package bench
    sys.exit(import_module("bench.command").main())
