"""`python tools/make_builtin`: see `command`."""

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # so that these files are the package make_builtin
    sys.exit(import_module("make_builtin.command").main())
