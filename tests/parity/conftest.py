"""Every test in this folder compares with transformers itself. Without it they fail: they are never skipped."""

import sys
from pathlib import Path

import pytest
import torch

# The tests compare by the functions of tools/layer_diff.py, so that tool and tests can't come to disagree.
sys.path.append(str(Path(__file__).parents[2] / "tools"))


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """On models this small, threads cost three times what they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
