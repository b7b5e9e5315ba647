"""`python tools/bench`: see `command`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # so that these files are the package bench, as for their tests

from bench.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
