"""`python tools/bench`: see `command`."""

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    tools = Path(__file__).resolve().parents[1]
    sys.path[:1] = [str(tools), str(tools.parent)]  # these files are the package bench, and minibert is beside them
    sys.exit(import_module("bench.command").main())
