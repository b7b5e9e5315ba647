"""tools/quality: its scores against plain definitions, what is held out, and the whole command on made-up data."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up_corpora import SERVICES, shrink_suite, write_corpora
from tiny_folder import MEAN, write_encoder
from tiny_training import make_encoder

from minibert.training.evaluate import spearman

sys.path.append(str(Path(__file__).parent.parent))

from tools.make_builtin import heldout
from tools.quality import command, measure, sets

RANDOM = np.random.default_rng(0)


def unit(*shape):
    vectors = RANDOM.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def drawn(values, weights):
    """The cases, each as often as it is drawn."""
    return np.repeat(values, weights, axis=0)


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_of_drawn_pairs_is_that_of_repeated_pairs(ties):
    first, second, human = unit(30, 8), unit(30, 8), RANDOM.integers(0, 6, 30).astype(float)
    if ties:
        first[10:15], second[10:15] = first[9], second[9]
    weights = RANDOM.multinomial(30, np.full(30, 1 / 30), size=4)
    found = measure.similarity(first, second, human)["Spearman"].of(weights)
    cosines = (first * second).sum(1)
    expected = [spearman(drawn(cosines, row), drawn(human, row)) for row in weights]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_average_precision_is_the_mean_precision_at_the_places_of_duplicates():
    first, second, labels = unit(40, 8), unit(40, 8), RANDOM.random(40) < 0.3
    order = np.argsort(-(first * second).sum(1))
    places = np.flatnonzero(labels[order])
    expected = np.mean([(i + 1) / (place + 1) for i, place in enumerate(places)])
    assert measure.duplicates(first, second, labels)["average precision"].value == pytest.approx(expected)


def test_retrieval_counts_a_tie_against_and_ranks_above_ten_not_at_all():
    queries = np.zeros((12, 12))
    queries[:, 0] = 1
    documents = np.zeros((12, 12))
    documents[:, 0] = 1 - 0.01 * np.arange(12)  # every query ranks the documents in their order
    found = measure.retrieval(queries, documents)
    assert found["first hit"].value == pytest.approx(1 / 12)
    assert found["MRR@10"].value == pytest.approx(sum(1 / rank for rank in range(1, 11)) / 12)
    assert measure.retrieval(queries, documents * 0 + 1)["first hit"].value == 0


def test_triplets():
    anchors = unit(10, 8)
    assert measure.triplets(anchors, anchors, unit(10, 8))["accuracy"].value == 1
    assert measure.triplets(anchors, anchors, anchors)["accuracy"].value == 0


def test_few_examples_are_enough_for_classes_that_are_apart_and_tell_nothing_of_noise():
    labels = np.repeat(np.arange(4), 20)
    apart = np.eye(8)[labels] + 0.1 * unit(80, 8)
    assert measure.few_shot(apart, labels, shots=4, tested=10)["accuracy"].value == 1
    noise = measure.few_shot(unit(80, 8), labels, shots=4, tested=10)["accuracy"]
    assert noise.cases == 40
    assert noise.value < 0.5


def test_a_share_is_of_the_same_cases_for_both():
    right = RANDOM.random(500) < 0.6
    teacher = measure.mean_of(right)
    same = measure.compare(teacher, teacher, 0)
    assert same[:3] == (100, 100, 100)
    worse = measure.mean_of(right & (RANDOM.random(500) < 0.9))
    share = measure.compare(worse, teacher, 0)
    assert share.low < share.percent < share.high < 100
    assert share.high - share.low < 8  # unpaired, it would be about 20
    both = measure.mean_share([same, share])
    assert both.percent == (100 + share.percent) / 2
    assert both.high - both.low == pytest.approx((share.high - share.low) / 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_corpora(folder)
    return folder


@pytest.fixture
def small(monkeypatch):
    shrink_suite(monkeypatch, 25)


def test_every_text_of_the_corpora_is_held_out(data, small):
    held_out = heldout.held_out_forms(data / "corpora")
    found = sets.read_sets(data)
    for each in found:
        assert len({len(column) for column in each.columns}) == 1
        if not each.name.startswith(("STS", "SNLI")):
            missing = [t for column in each.columns for t in column if heldout.normal_form(t) not in held_out]
            whole = " ".join(held_out)
            assert all(part in whole for text in missing for part in map(heldout.normal_form, re.split("[.?] ?", text)))
    assert [each.columns for each in sets.read_sets(data)] == [each.columns for each in found]


def test_a_service_is_named_by_one_service_only():
    assert sets.service_of("Which HOTEL do you want?") == "hotels"
    assert sets.service_of("a hotel near the museum") == ""
    assert sets.service_of("a businesslike answer") == ""


def test_classes_with_too_few_texts_are_named(data, small, monkeypatch):
    monkeypatch.setattr(sets, "SERVICES", {**SERVICES, "ships": "ships?"})
    with pytest.raises(ValueError, match="utterance, service: there are not 14 texts for ships"):
        sets.read_sets(data)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return [str(write_encoder(tmp_path_factory.mktemp(name), ("Pooling", MEAN))) for name in ("teacher", "student")]


def test_the_command_shows_writes_and_draws_every_set(data, small, models, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sets, "RETRIEVAL", dict.fromkeys(sets.RETRIEVAL, 1))  # random weights find one of one only
    paths = {name: str(tmp_path / name) for name in ("found.json", "found.png", "again.svg")}
    arguments = ["--models", *models, "--dims", "8", "--rounds", "1"]
    assert command.main([str(data), *arguments, "--json", paths["found.json"], "--plot", paths["found.png"]]) == 0
    printed = capsys.readouterr().out
    found = json.loads(Path(paths["found.json"]).read_text())
    student = Path(models[1]).name
    assert found["students"] == [student, f"{student}, 8 dimensions"]
    assert [each["shares"][student][0] for each in found["sets"]] == pytest.approx([100] * 20)  # the same weights
    assert found["mean"][student] == [100, 100, 100]
    assert found["mean"][f"{student}, 8 dimensions"] != [100, 100, 100]
    assert all(values[student]["times"] > 0 for values in found["rates"].values())
    assert all(each["name"] in printed for each in found["sets"])
    assert command.main(["--read", paths["found.json"], "--plot", paths["again.svg"]]) == 0
    assert capsys.readouterr().out == printed
    assert Path(paths["found.png"]).stat().st_size > 10_000
    assert "retrieval: question, story" in Path(paths["again.svg"]).read_text()


def test_a_teacher_that_knows_nothing_is_named_with_its_set():
    nothing = sets.Set("chess", [["a", "b"]], lambda vectors: {"accuracy": measure.mean_of(np.zeros(2))})
    encoders = {"teacher": make_encoder(), "student": make_encoder()}
    with pytest.raises(ValueError, match="chess: the teacher's accuracy is 0, so no student has a share of it"):
        command.measure_sets([nothing], encoders)


def test_what_cannot_be_measured_is_said_in_one_line(data, models, small, tmp_path, capsys):
    cases = {
        "sts-dev.csv": [str(tmp_path), "--models", *models],
        "fits no set": [str(data), "--models", *models, "--only", "chess*"],
        "at least one student": [str(data), "--models", models[0]],
    }
    for message, arguments in cases.items():
        assert command.main(arguments) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    with pytest.raises(SystemExit):
        command.main([])
