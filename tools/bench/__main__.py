"""`python tools/bench`: see `command`."""

import runpy
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])  # so that the files here are tools.bench, whoever starts them
runpy.run_module("tools.bench.command", run_name="__main__")
