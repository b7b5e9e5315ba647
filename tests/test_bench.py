"""tools/bench: what it encodes, which settings it picks, how it counts; and a race of a tiny model for real."""

import os
import sys
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from helpers import MINILM
from tiny_folder import MEAN, write_encoder

from minibert import Tokenizer

sys.path.append(str(Path(__file__).parent.parent))

from tools import peak, pictures
from tools.bench import against, command, inputs, process, race, report
from tools.bench.engines import Engine
from tools.peers import runners, work
from tools.peers.sessions import side_by_side
from tools.peers.work import LARGE, Model, Setting, Workload

BERT_BASE = Model("base", "", "", "cls", False, 256, 768, 3072, 12, 12, 512)


def workload(*calls, tokens=None):
    return Workload([list(call) for call in calls], 256, tokens or sum(map(len, calls)))


def test_docstrings_are_one_line_each_and_always_the_same():
    found = inputs.docstrings(50)
    assert len(found) == 50
    assert all(text == " ".join(text.split()) != "" for text in found)
    assert inputs.docstrings(20) == found[:20]


def test_a_file_gives_its_lines_but_the_empty_ones(tmp_path):
    (tmp_path / "lines.txt").write_text("one\n\ntwo\n  \nthree\n", encoding="utf-8")
    assert inputs.read_texts(tmp_path / "lines.txt", 3) == ["one", "two", "three"]
    with pytest.raises(ValueError, match=r"lines\.txt has 3 texts, and 4 are needed"):
        inputs.read_texts(tmp_path / "lines.txt", 4)


def test_long_texts_have_256_to_512_tokens_in_mixed_order():
    tokenizer = Tokenizer.from_pretrained(MINILM)
    found = inputs.long_texts(
        inputs.docstrings(300), 24, lambda words: [n - 2 for n in tokenizer.encode(words).lengths]
    )
    lengths = tokenizer.encode(found).lengths
    assert len(found) == 24
    assert 256 <= min(lengths) < 290
    assert 470 < max(lengths) <= 512
    assert sum(a > b for a, b in pairwise(lengths)) > 5


def test_settings_fit_the_call_and_the_threads():
    large = work.possible(workload("x" * 256, tokens=256 * 17), 2)
    assert {(s.workers, s.threads) for s in large} == {(1, 2), (2, 1)}
    assert {s.batch for s in large} == {4, 8, 16, 32, 64}
    assert work.possible(workload("x", "x"), 2) == [Setting(1, 1, 2), Setting(1, 1, 1)]
    assert {s.batch for s in work.possible(workload("x" * 12, tokens=12 * 400), 2)} == {1, 2, 4, 8}
    assert {s.workers for s in work.possible(workload("x" * 256), 4, alone=True)} == {1}
    assert {(s.workers, s.threads) for s in work.possible(workload("x" * 256), 1)} == {(1, 1)}


def test_the_fastest_setting_is_chosen_and_slow_ones_are_tried_once():
    tried = []

    def seconds(choice):
        tried.append(choice)
        return choice + (5 if tried.count(choice) == 1 else 0)  # the first trial builds something

    chosen, found = work.choose([30, 3, 2, 4], seconds)
    assert chosen == 2
    assert found == {30: 35, 3: 3, 2: 2, 4: 4}
    assert [tried.count(choice) for choice in (30, 3, 2, 4)] == [1, 2, 3, 2]


def test_a_sample_of_a_large_call_keeps_neighbours_in_length_together():
    call = ["x" * (i * 7 % 256) for i in range(256)]
    part = work.sample(workload(call, tokens=2560))
    assert part.texts == 64
    assert part.tokens == 640
    assert [len(text) for text in part.calls[0]] == [*range(32), *range(128, 160)]
    assert work.sample(workload(*["abc"] * 8)).calls == [list("abc")] * 2


def test_ratios_are_taken_round_by_round():
    # A slow spell in the second round hit both; the ratio of the medians would be 1.5.
    assert report.ratio([30, 3, 20], [10, 1, 20]) == 3
    assert BERT_BASE.linear_flops(1) == 2 * 12 * (4 * 768 * 768 + 2 * 768 * 3072)


def open_echo(opened):
    """Its vectors tell which ids it was given, and how many were padding."""

    def open_session(model, workers, threads):
        opened.append((workers, threads))
        return side_by_side(forward, workers)

    def forward(ids, mask):
        assert (ids[mask == 0] == 0).all()
        return np.stack([(ids * np.arange(1, ids.shape[1] + 1)).sum(1), mask.sum(1)], axis=1)

    return open_session


def test_vectors_come_back_in_the_order_of_the_texts_with_every_setting(tmp_path):
    write_encoder(tmp_path / "model")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    many = ["the cat", "a", "the dog sat on the mat on the mat", "who is who", "", "a cat"] * 3
    ids = [tokenizer.encode([text], limit=8).ids for text in many]
    expected = [[sum((i + 1) * int(n) for i, n in enumerate(each)), len(each)] for each in ids]
    opened = []
    model = Model("echo", "", str(tmp_path), "cls", False, 8, 2, 2, 1, 1, 40)
    echo = runners.Padded(model, 2, open_echo(opened))
    choices = [Setting(1, 1, 2), Setting(4, 2, 1), Setting(64, 1, 2), Setting(5, 2, 1)]
    for setting in choices:
        assert echo.encode(many, 8, setting).tolist() == expected
    assert opened == [(1, 2), (2, 1)]
    echo.keep(choices[:1])
    assert list(echo.sessions) == [(1, 2)]


def row(precision, peer, speeds, **more):
    values = {"precision": precision, "peer": peer, "speeds": speeds}
    values["settings"] = {w: {"chosen": "8, 2 x 1", "environment": {}} for w in speeds}
    return values | {"difference": 2e-7, "cosine": 0.9999, "memory": 300.4, "first vector": 1.234} | more


@pytest.fixture
def found():
    large = LARGE
    return {
        "workloads": {large: {"calls": 1, "texts": 10, "tokens": 100}},
        "linear flops a token": 1e9,
        "import torch": 1.0,
        "engines": {
            "transformers": row("float32", True, {large: [10, 20, 30]}),
            "openvino": row("float32", True, {large: [20, 40, 60]}),
            "minibert": row(
                "float32", False, {large: [30, 60, 90]}, linear={"seconds": 4, "linear seconds": 2, "flops": 1e12}
            ),
            "minibert int8": row("int8", False, {large: [50, 100, 150]}),
        },
        "not raced": {"ctranslate2 int8": "ValueError: no such thing here"},
    }


def test_the_table_shows_medians_ratios_and_the_best_peer(found):
    rows = [" ".join(line.split()) for line in report.race_table(found).splitlines()]
    assert rows[2:5] == [
        "transformers 20/s 1.00 x 2e-07 0.999900 300 MiB 1.23 s",
        "openvino 40/s 2.00 x* 2e-07 0.999900 300 MiB 1.23 s",
        "minibert 60/s 3.00 x 2e-07 0.999900 300 MiB 1.23 s",
    ]
    assert rows[5] == "int8"
    assert "bfloat16" not in rows


def test_minibert_is_measured_by_the_best_peer_of_its_precision(found):
    rows = [" ".join(line.split()) for line in report.bars_table(found).splitlines()]
    assert rows[1:] == [
        "minibert : transformers 3.00 x",
        "minibert : best float32 peer 1.50 x openvino",
        "minibert int8 : transformers 5.00 x",
        "minibert int8 : best int8 peer -",
    ]


def test_the_share_of_the_peak_counts_linear_layers_only(found):
    machine = {"together": 1000, "each": 1200, "one": 1000}
    rows = [
        " ".join(line.split())
        for line in peak.share_table(found, dict.fromkeys(("float32", "int8"), machine)).splitlines()
    ]
    assert rows[1] == "transformers 200 17%"
    assert rows[3] == "minibert 600 50% 500 50% 50%"


def test_what_was_not_raced_is_said_with_its_error(found):
    assert "not raced: ctranslate2 int8: ValueError: no such thing here" in report.model_report("tiny", found)


def test_settings_of_the_environment_are_told_below_the_table(found):
    setting = {"chosen": "4, 2 x 1", "environment": {"LIBRARY_WIDE": "1"}}
    found["engines"]["openvino"]["settings"] = {LARGE: setting}
    text = report.settings_table(found)
    assert "4, 2 x 1 [a]" in text
    assert text.endswith("\n[a] LIBRARY_WIDE=1")


def test_products_by_weights_are_told_from_all_others():
    linear = ("aten::linear", "aten::addmm", "aten::mm", "mkldnn::_linear_pointwise", "onednn::qlinear_pointwise")
    others = ("aten::bmm", "aten::baddbmm", "aten::scaled_dot_product_attention", "aten::add", "aten::gelu")
    assert all(peak.LINEAR.search(name) for name in linear)
    assert not any(peak.LINEAR.search(name) for name in others)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "bert.cpp"], "nothing matches"),
        (["--rounds", "0"], "at least 1"),
        (["--texts", "nowhere.txt"], "no file nowhere.txt"),
        (["--against", "nowhere"], "no file nowhere"),
    ],
)
def test_what_can_not_be_done_is_refused_at_once(capsys, arguments, said):
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert said in capsys.readouterr().err


class FakeRemote:
    """Takes the seconds that its environment says, and remembers its calls."""

    made: ClassVar = []

    def __init__(self, plan, engine, variables):
        if "broken" in variables:
            raise process.EngineError("no such instruction")
        self.variables, self.settled, self.closed = variables, None, False
        self.made.append(self)

    def ask(self, do, workload="", workloads=()):
        if do == "settle":
            self.settled = workloads
            return None
        return {"8, 1 x 2": self.variables[workload], "4, 2 x 1": 99}

    def close(self):
        self.closed = True


def test_each_workload_goes_to_the_environment_that_suits_it(monkeypatch):
    monkeypatch.setattr(race, "start", FakeRemote)
    monkeypatch.setattr(FakeRemote, "made", [])
    plan = race.Plan(BERT_BASE, {}, ["a", "b"], [], 1, 2, False, print)
    variables = {"broken": 1}, {"a": 3, "b": 1}, {"a": 9, "b": 9}, {"a": 2, "b": 5}
    with ExitStack() as stack:
        engine = Engine("two-faced", "float32", runners.Padded, environments=variables)
        team, chosen = race.choose_team(plan, engine, stack)
        first, second, third = FakeRemote.made
        assert team == {"a": third, "b": first}
        assert (first.settled, second.settled, third.settled) == (["b"], None, ["a"])
        assert (first.closed, second.closed, third.closed) == (False, True, False)
    assert chosen["a"]["environment"] == variables[3]
    assert first.closed
    assert third.closed
    broken = Engine("broken", "float32", runners.Padded, environments=variables[:1])
    with pytest.raises(process.EngineError, match="no such instruction"):
        race.choose_team(plan, broken, stack)


def test_the_busy_neighbour_ends_with_the_race(monkeypatch):
    started = []
    popen = process.subprocess.Popen
    monkeypatch.setattr(process.subprocess, "Popen", lambda *a, **b: started.append(popen(*a, **b)) or started[-1])
    with process.busy_neighbour():
        assert started[0].poll() is None
    assert started[0].returncode == 0


def test_a_checkpoint_that_can_not_be_raced_is_one_line(tmp_path, capsys):
    folder = write_encoder(tmp_path, ("Pooling", {**MEAN, "pooling_mode_max_tokens": True}))
    assert command.main(["--models", str(folder)]) == 1
    assert (
        capsys.readouterr().err == f"bench: {folder}: only cls or mean pooling, and Normalize after it, can be raced\n"
    )


def test_processes_fail_with_a_reason_and_end_with_a_status():
    with pytest.raises(process.EngineError, match="ValueError: could not convert string to float: 'x'"):
        process.run(float, "x", threads=1)
    with pytest.raises(process.EngineError, match="its process ended with status 3"):
        process.run(os._exit, 3, threads=1)
    assert process.run(os.getenv, "OMP_NUM_THREADS", threads=1) == "1"


@pytest.fixture
def trees():
    values = {"speeds": {LARGE: [11, 20, 30]}, "starts": [1.0, 2.0], "first vector": 1.5, "memory": 220.0}
    old = values | {"speeds": {LARGE: [10, 10, 30]}, "memory": 200.0}
    return {"minibert": {"new": values, "old": old, "difference": 0.0}}


def test_two_trees_are_compared_round_by_round(trees):
    rows = [" ".join(line.split()) for line in against.against_report("tiny", trees).splitlines()]
    assert "minibert 1.100 (1.00-2.00) 1.000 (1.00-1.00) 1.100 0e+00" in rows
    assert "minibert, new 20.0/s 1.50 s 220 MiB" in rows
    assert "minibert, old 10.0/s 1.50 s 200 MiB" in rows


def test_the_picture_shows_every_engine(found, tmp_path):
    pytest.importorskip("matplotlib")
    about = {"machine": "a machine", "threads": 2, "date": "2026-11-28"}
    pictures.draw_race(about | {"models": {"tiny": found}}, tmp_path / "race.svg")
    drawn = (tmp_path / "race.svg").read_text(encoding="utf-8")
    assert all(f">{text}<" in drawn for text in (*found["engines"], LARGE, "100  5.0×"))


def test_the_published_race_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    root = Path(__file__).parent.parent
    assert pictures.main(["race", str(root / "docs" / "race.json"), "-o", str(tmp_path / "race.png")]) == 0
    assert (tmp_path / "race.png").stat().st_size < 60_000


def test_the_picture_of_the_page_needs_a_browser(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="no browser; one of these is needed: chromium"):
        pictures.main(["view", "-o", str(tmp_path / "view.png")])
