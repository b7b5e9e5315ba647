"""tools/train_speed.py: what it trains from, what it measures, how it counts."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_folder import MEAN, TEXTS, write_encoder

from minibert import SentenceEncoder

sys.path.append(str(Path(__file__).parent.parent / "tools"))

import train_speed
from train_speed import OURS, RANDOM, THEIRS, Job

ROWS = [
    ("5.0", "the cat sat on the mat", "a cat is on the mat"),
    ("2.5", "a man eats food", "the man is who"),
    ("0.0", "the dog sat", "a cat sat"),
    ("3.0", "hello world", "hello the world"),
]


@pytest.fixture
def job(tmp_path):
    model = write_encoder(tmp_path / "model", ("Pooling", MEAN))
    rows = "".join("\t".join(("genre", "file", "year", "0", *row)) + "\n" for row in ROWS)
    (tmp_path / "sts.csv").write_text(rows, encoding="utf-8")
    file = str(tmp_path / "sts.csv")
    return Job(OURS, str(model), file, file, "cosine", 2, 5, 1, 1e-2, None, 0)


def test_the_first_layers_are_those_of_the_checkpoint_with_cls_pooling(job, tmp_path):
    small = SentenceEncoder.from_pretrained(train_speed.first_layers(job.model, 1, tmp_path / "small"))
    whole = SentenceEncoder.from_pretrained(job.model, pooling="cls")
    del whole.model.layers[1]
    assert small.pooling.modes == ("cls",)
    assert small.model.config.num_hidden_layers == 1
    assert np.allclose(small.encode(TEXTS), whole.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("objective", ["cosine", "in-batch-negatives"])
def test_a_training_is_timed_and_scored(job, objective):
    found = train_speed.run(replace(job, objective=objective))
    assert found["steps/s"] > 0
    assert found["peak MiB"] > 50
    assert -100 <= found["spearman"] <= 100
    again = train_speed.run(replace(job, objective=objective))
    other = train_speed.run(replace(job, objective=objective, trainer=RANDOM, seed=1))
    assert found["spearman"] == again["spearman"]
    assert "spearman" in other


def test_the_table_of_speeds_has_medians_of_interleaved_rounds(job, monkeypatch, capsys):
    speeds = {OURS: iter([4.0, 9.0, 6.0]), RANDOM: iter([3.0, 3.0, 3.0]), THEIRS: iter([1.0, 2.0, 3.0])}
    order = []

    def start(job, threads):
        order.append(job.trainer)
        return {"steps/s": next(speeds[job.trainer]), "peak MiB": 100.0}

    monkeypatch.setattr(train_speed, "start", start)
    rows = {line[:36].strip(): line[36:].split() for line in train_speed.speed(job, 3, 1).splitlines()[1:]}
    assert order == [THEIRS, OURS, RANDOM] * 3
    assert rows[OURS] == ["6", "3.00", "x", "4", "to", "9", "100", "MiB"]
    assert rows[THEIRS][:3] == ["2", "1.00", "x"]
    assert "round 3 of 3" in capsys.readouterr().err


def test_the_table_of_seeds_has_mean_and_deviation(job, monkeypatch):
    def start(job, threads):
        return {"spearman": 80.0 + job.seed if job.trainer == OURS else 81.0}

    monkeypatch.setattr(train_speed, "start", start)
    lines = [line.split() for line in train_speed.seeds(job, 3, 1).splitlines()]
    assert [line[:3] for line in lines[1:4]] == [
        ["0", "81.00", "80.00"],
        ["1", "81.00", "81.00"],
        ["2", "81.00", "82.00"],
    ]
    assert [line[:3] for line in lines[4:]] == [["mean", "81.00", "81.00"], ["deviation", "0.00", "1.00"]]


def test_what_goes_wrong_in_a_training_is_said(job):
    with pytest.raises(ValueError, match=r"minibert: .*nowhere"):
        train_speed.start(replace(job, file="/nowhere.csv"), 1)
