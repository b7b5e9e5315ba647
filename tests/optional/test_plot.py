"""Only the plot of a training log needs matplotlib."""

import sys

import numpy as np
import pytest

from minibert.training.plot import plot_log, running_mean

RECORDS = [
    {"step": 1, "loss": 3.0},
    {"step": 2, "loss": 1.0},
    {"step": 2, "scores": {"spearman": 0.5, "pearson": 0.4}},
    {"step": 3, "loss": 2.0},
]


def test_losses_and_scores_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    plot_log(RECORDS, tmp_path / "loss.png")
    plot_log(RECORDS[:2], tmp_path / "bare.png")
    both, bare = ((tmp_path / name).read_bytes() for name in ("loss.png", "bare.png"))
    assert both[:8] == bare[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(both) > len(bare) > 5000


def test_a_log_without_steps_is_refused(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="no loss to plot"):
        plot_log([], tmp_path / "loss.png")


def test_without_matplotlib_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plot_log(RECORDS, tmp_path / "loss.png")


def test_the_running_mean_is_over_a_twentieth():
    values = np.arange(100.0)
    means = running_mean(values)
    assert means[0] == 0
    assert means[2] == pytest.approx(1)
    assert means[50] == pytest.approx(values[46:51].mean())
