"""`python tools/make_builtin`: see `command`."""

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # for `tools.make_builtin`, and this checkout's minibert
    sys.exit(import_module("tools.make_builtin.command").main())
