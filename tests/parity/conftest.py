"""Every test in this folder compares with transformers itself. Without it they fail: they are never skipped."""

import sys
from pathlib import Path

# The tests compare by the functions of tools/layer_diff.py, so that tool and tests can't come to disagree.
sys.path.append(str(Path(__file__).parents[2] / "tools"))
