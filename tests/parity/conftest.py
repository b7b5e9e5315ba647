"""Every test in this folder compares with transformers itself. Without it they fail: they are never skipped."""

import sys
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

# The tests compare by the functions of tools/layer_diff.py, so that tool and tests can't come to disagree.
sys.path.append(str(Path(__file__).parents[2] / "tools"))

logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def _one_thread():
    """On models this small, threads cost three times what they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
