"""`minibert train` and `minibert evaluate`: from a file to a model and its scores, and one line where that can't be."""

import argparse
import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from terminal import MINIBERT, on_terminal
from tiny_folder import MEAN, write_encoder

from minibert import SentenceEncoder
from minibert.cli import _parser, main
from minibert.cli.options import read_toml
from minibert.cli.train import EXAMPLES, add_flags
from minibert.training import STSEvaluator, loop
from minibert.training.reading import read_examples

ROWS = [
    ("entailment", "5", "the cat sat on the mat", "a cat is on the mat", "who eats the food"),
    ("neutral", "2.5", "a man eats food", "the man is who", "the dog"),
    ("contradiction", "0", "the dog sat", "a cat sat", "hello world"),
    ("neutral", "3", "hello world", "hello the world", "the mat"),
    ("entailment", "4", "who is on the mat", "who sat on the mat", "a man"),
    ("contradiction", "1", "a dog eats", "the passage", "food"),
]
toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python reads TOML from 3.11 on")
START = "minibert: examples 6, steps 4, on cpu\n"
COSINE = ["--objective", "cosine", "--texts", "3,4", "--label", "2", "--scale", "0,5"]
PAIRS = ["--objective", "in-batch-negatives", "--texts", "3,4"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_encoder(tmp_path_factory.mktemp("tiny"), ("Pooling", MEAN)))


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in ROWS), encoding="utf-8")
    return str(path)


@pytest.fixture
def train(model, data, tmp_path):
    """Run it on the rows for four steps of three, with more flags; gives the output folder."""

    def run(*flags, output="run"):
        steps = ["--steps", "4", "--batch-size", "3", "--learning-rate", "1e-2", "--device", "cpu"]
        folder = str(tmp_path / output)
        assert main(["train", "--model", model, "--data", data, *steps, "--output", folder, *flags]) == 0
        return tmp_path / output

    return run


def vectors(folder):
    return SentenceEncoder.from_pretrained(folder, device="cpu").encode([text for row in ROWS for text in row[2:]])


def refused(capsys, *arguments):
    """Status 1, and the last line on stderr."""
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("minibert: ")
    return err.splitlines()[-1]


@pytest.mark.parametrize(
    "flags",
    [
        COSINE,
        [*COSINE, "--matryoshka", "32,8"],
        ["--objective", "softmax", "--texts", "3,4", "--label", "1", "--terms", "u,v"],
        ["--objective", "triplet", "--texts", "3,4,5", "--margin", "2"],
        ["--objective", "in-batch-negatives", "--texts", "3,4", "--temperature", "0.1", "--chunk-size", "2"],
    ],
    ids=lambda flags: " ".join(flags),
)
def test_every_objective_trains_a_model_that_loads(flags, train, model, capsys):
    folder = train(*flags)
    assert not np.allclose(vectors(folder / "model"), vectors(model))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [1, 2, 3, 4]
    shown, err = capsys.readouterr()
    assert err.startswith(START)
    for file in ("model", "log.jsonl"):
        assert str(folder / file) in shown


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (COSINE, {"spearman", "pearson"}),
        (["--objective", "softmax", "--texts", "3,4", "--label", "1"], {"accuracy"}),
        (["--objective", "triplet", "--texts", "3,4,5"], {"accuracy"}),
        (["--objective", "triplet", "--texts", "3,4,5", "--dev-kind", "retrieval", "--dev-texts", "3,4"], {"ndcg@10"}),
    ],
    ids=["sts", "nli", "triplets", "retrieval"],
)
def test_the_dev_file_is_measured_as_the_objective_or_as_asked_for(flags, names, train, data):
    folder = train(*flags, "--dev", data, "--evaluate-every", "2")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    scored = {record["step"]: record["scores"] for record in log if "scores" in record}
    assert set(scored) == {2, 4}
    assert all(names <= set(scores) for scores in scored.values())


def test_another_dev_file_is_the_sts_benchmark_as_published(train, tmp_path):
    rows = ["x\tx\tx\t1\t5.0\tthe cat\ta cat", "x\tx\tx\t2\t0.0\tthe dog\thello", "x\tx\tx\t3\t2.0\ta man\twho"]
    (tmp_path / "sts-dev.csv").write_text("\n".join(rows), encoding="utf-8")
    flags = ["--objective", "softmax", "--texts", "3,4", "--label", "1", "--dev-kind", "sts"]
    assert "spearman" in (train(*flags, "--dev", str(tmp_path / "sts-dev.csv")) / "log.jsonl").read_text()


def test_the_scores_that_are_shown_are_those_of_the_model_that_is_saved(train, data, capsys):
    """The best step's, and of its weights, not of any laid out before."""
    folder = train(*COSINE, "--dev", data, "--evaluate-every", "1")
    shown = capsys.readouterr().out
    spearman, pearson = re.search(r"of step \d: spearman (\S+), pearson (\S+)", shown).groups()
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    best = max(record["scores"]["spearman"] for record in log if "scores" in record)
    found = STSEvaluator(read_examples(data, texts=[3, 4], label=2))(SentenceEncoder.from_pretrained(folder / "model"))
    assert f"{100 * best:.2f}" == f"{100 * found['spearman']:.2f}" == spearman
    assert f"{100 * found['pearson']:.2f}" == pearson
    flags = ["--texts", "3,4", "--label", "2", "--model", str(folder / "model")]
    assert main(["evaluate", "sts", data, *flags]) == 0
    assert dict(line.split() for line in capsys.readouterr().out.splitlines()[1:]) == {
        "spearman": spearman,
        "pearson": pearson,
    }


@toml
def test_a_toml_file_is_the_flags_and_flags_win(train, model, data, tmp_path):
    (tmp_path / "run.toml").write_text(
        f"""
        model = {json.dumps(model)}
        device = "cpu"
        data = {json.dumps(data)}
        texts = [3, "4"]
        label = 2
        scale = [0, 5]
        objective = "cosine"
        steps = 9
        batch_size = 3
        learning_rate = 1e-2
        by_length = false
        resume = false
        output = {json.dumps(str(tmp_path / "toml"))}
        """,
        encoding="utf-8",
    )
    assert main(["train", str(tmp_path / "run.toml"), "--steps", "4"]) == 0
    folder = train(*COSINE, "--no-by-length")
    assert np.array_equal(vectors(tmp_path / "toml" / "model"), vectors(folder / "model"))
    assert not np.array_equal(vectors(folder / "model"), vectors(train(*COSINE, "--seed", "1", output="b") / "model"))


def test_an_interrupted_training_goes_on_to_the_same_weights(train, model, data, tmp_path, monkeypatch, capsys):
    whole = train(*COSINE, output="whole")
    step, steps = loop.step, []

    def interrupted(*arguments):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", interrupted)
        flags = ["--model", model, "--data", data, "--batch-size", "3", "--learning-rate", "1e-2", "--device", "cpu"]
        capsys.readouterr()
        half = str(tmp_path / "half")
        assert main(["train", *flags, *COSINE, "--steps", "4", "--save-every", "2", "--output", half]) == 130
        assert "--resume goes on" in capsys.readouterr().err
    assert "(--resume) goes on" in refused(capsys, "train", *flags, *COSINE, "--steps", "4", "--output", half)
    train(*COSINE, "--save-every", "2", "--resume", output="half")
    capsys.readouterr()
    assert np.array_equal(vectors(tmp_path / "half" / "model"), vectors(whole / "model"))
    assert "learning_rate was 0.01, is 0.5" in refused(
        capsys, "train", *flags, *COSINE, "--steps", "4", "--output", half, "--resume", "--learning-rate", "0.5"
    )


def test_without_matplotlib_only_the_picture_is_missing(train, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder = train(*COSINE)
    assert (folder / "model" / "config.json").exists()
    assert "pip install matplotlib" in capsys.readouterr().err
    assert not (folder / "loss.png").exists()


def test_the_path_of_the_picture_is_said(train, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr("minibert.training.plot.plot_log", lambda records, path: drawn.append((len(records), path)))
    folder = train(*COSINE)
    assert drawn == [(4, folder / "loss.png")]
    assert str(folder / "loss.png") in capsys.readouterr().out


def test_what_was_cut_off_is_said(train, capsys):
    train(*COSINE, "--max-seq-length", "6")
    assert "column 1: texts longer than 6 tokens: 2; tokens cut off at their ends: 3" in capsys.readouterr().err


def test_of_torchruns_processes_only_the_first_speaks(train, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    train(*COSINE)
    assert capsys.readouterr() == ("", "")


def test_progress_is_shown_on_a_terminal(model, data, tmp_path):
    flags = ["--model", model, "--data", data, *COSINE, "--device", "cpu", "--epochs", "2", "--batch-size", "3"]
    shown = on_terminal("train", *flags, "--output", str(tmp_path / "run"))
    assert "4/4" in shown
    assert "loss=" in shown


def test_triplets_and_retrieval_are_evaluated(data, model, capsys):
    assert main(["evaluate", "triplets", data, "--texts", "3,4,5", "--model", model, "--device", "cpu"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["evaluate", "retrieval", data, "--texts", "3,4", "--model", model, "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{model}, pooling mean, retrieval on rows.tsv\n")
    assert "ndcg@10" in shown


def test_what_an_evaluation_cuts_off_is_said(data, model, tmp_path, capsys):
    rows = f"the cat\t{'a ' * 60}\t{'b ' * 70}\n"
    (tmp_path / "long.tsv").write_text(rows, encoding="utf-8")
    flags = ["triplets", str(tmp_path / "long.tsv"), "--texts", "1,2,3", "--model", model, "--device", "cpu"]
    done = subprocess.run([*MINIBERT, "evaluate", *flags], capture_output=True, timeout=60, check=True, text=True)
    lines = done.stderr.splitlines()
    assert any("texts longer than 40 tokens: 2; tokens cut off at their ends: 54" in line for line in lines)
    assert all(line.startswith("minibert: ") for line in lines)
    assert main(["evaluate", *flags, "--truncation", "silent"]) == 0
    assert capsys.readouterr().err == ""
    assert "too long" in refused(capsys, "evaluate", *flags, "--truncation", "error")


@toml
def test_the_examples_of_the_help_can_be_typed(tmp_path):
    parser = argparse.ArgumentParser()
    add_flags(parser)
    commands, rest = EXAMPLES.split("run.toml has")
    typed = re.findall(r"minibert train (.*)", commands.replace("\\\n", ""))
    assert len(typed) == 6
    for line in typed:
        _parser().parse_args(["train", *shlex.split(re.sub("  +(flags win|go on|on two).*", "", line))])
    keys = re.findall(r"^  (\w+ = .*)$", rest, re.MULTILINE)
    (tmp_path / "run.toml").write_text("\n".join(keys), encoding="utf-8")
    assert read_toml(parser, tmp_path / "run.toml")["scale"] == [0, 5]
    assert read_toml(parser, tmp_path / "run.toml")["texts"] == [6, 7]
    assert len(keys) == 11


@toml
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch = 3", "there is no setting 'epoch' (did you mean 'epochs'?)"),
        ("by_lenght = false", "there is no setting 'by_lenght' (did you mean 'by_length'?)"),
        ("help = true", "there is no setting 'help'"),
        ("epochs = 'many'", "epochs = 'many': could not convert string to float: 'many'"),
        ("batch_size = 3.5", "batch_size = 3.5: invalid literal for int() with base 10: '3.5'"),
        ("seed = true", "seed = True: true and false are for switches"),
        ("fused = 1", "fused = 1: true and false are for switches"),
        ("device = ['cpu']", "device = ['cpu']: must be one value"),
        ("data = {file = 'x'}", "data = {'file': 'x'}: must be one value"),
        ("matryoshka = [32, 8.5]", "matryoshka = [32, 8.5]: invalid literal"),
        ("objective = 'cosinus'", "objective = 'cosinus': must be one of softmax, cosine, triplet"),
        ("scale = [5]", "scale = [5]: must be 2 values"),
        ("epochs = ", "run.toml: Invalid value"),
    ],
)
def test_what_is_wrong_in_a_toml_file_is_said_with_its_name(text, said, tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    message = refused(capsys, "train", str(path))
    assert said in message
    assert str(path) in message


def test_a_python_without_toml_is_told_to_use_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tomllib", None)
    (tmp_path / "run.toml").write_text("epochs = 1", encoding="utf-8")
    message = refused(capsys, "train", str(tmp_path / "run.toml"))
    assert "Python 3.11" in message
    assert "flags" in message


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--objective", "cosine", "--texts", "3,4"], "needs --label"),
        (
            ["--objective", "cosine", "--texts", "3,4", "--label", "1"],
            "line 1: the label 'entailment' is not a finite number",
        ),
        (
            ["--objective", "cosine", "--texts", "3,4", "--label", "2"],
            "rows.tsv: scores go from 0 to 5, and cosines from -1 to 1: say on which scale they are, as --scale 0,5",
        ),
        (["--objective", "cosine", "--texts", "3,9", "--label", "2"], "line 1: 5 columns"),
        (["--objective", "softmax", "--texts", "3,4", "--label", "2"], "the label '5' is not one of entailment"),
        (["--objective", "softmax", "--texts", "3,4", "--label", "1", "--terms", "w"], "terms must be"),
        (["--objective", "triplet", "--texts", "3,4"], "Triplet takes 3 columns"),
        (["--objective", "triplet", "--texts", "3,4,5", "--dev-kind", "nli"], "--objective softmax"),
        (["--objective", "triplet", "--texts", "3,4,5", "--dev-kind", "retrieval"], "which columns"),
        (["--objective", "cosine", "--texts", "3,4", "--label", "2", "--epochs", "0"], "epochs must be above 0"),
        (["--texts", "3,4"], "needs --objective, or objective = ..."),
        (["--objective", "cosine"], "needs --texts"),
        ([*COSINE, "--evaluate-every", "0"], "--evaluate-every must be a whole number, at least 1, not 0"),
        ([*COSINE, "--save-every", "-2"], "--save-every must be a whole number, at least 1, not -2"),
        ([*COSINE, "--max-seq-length", "0"], "--max-seq-length must be a whole number, at least 1, not 0"),
        ([*COSINE, "--margin", "1"], "--margin is of --objective triplet, not of cosine"),
        ([*COSINE, "--terms", "u,v"], "--terms is of --objective softmax, not of cosine"),
        ([*PAIRS, "--margin", "0"], "--margin is of --objective triplet"),
        ([*PAIRS, "--temperature", "0"], "--temperature must be above 0, and finite, not 0.0"),
        ([*PAIRS, "--temperature", "nan"], "--temperature must be above 0"),
        ([*COSINE, "--dev", "/no/such/file"], "/no/such/file: No such"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_can_not_be_trained_is_said(flags, said, model, data, tmp_path, capsys):
    folder = ["--model", model, "--device", "cpu", "--output", str(tmp_path / "run")]
    assert said in refused(capsys, "train", "--data", data, "--dev", data, *folder, *flags)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_with_its_step(model, data, tmp_path, capsys):
    folder = ["--model", model, "--device", "cpu", "--output", str(tmp_path / "run")]
    flags = [*COSINE, "--warmup", "0", "--learning-rate", "1e38", "--steps", "9"]
    assert "training stopped at step" in refused(capsys, "train", "--data", data, *folder, *flags)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sts", "/no/such/file.tsv"], "/no/such/file.tsv"),
        (["triplets", "x.tsv"], "say which columns hold the texts"),
        (["sts", "x.tsv", "--texts", "1,2"], "and the label"),
        (["retrieval", "x.tsv", "--texts", "1,2", "--label", "3"], "--label is of sts: retrieval reads none"),
        (["triplets", "/no/such/file", "--texts", "1,2,3"], "/no/such/file: No such"),
    ],
)
def test_what_can_not_be_evaluated_is_said(arguments, said, capsys):
    assert said in refused(capsys, "evaluate", *arguments)


def test_new_weights_come_from_the_seed(train):
    flags = ["--objective", "softmax", "--texts", "3,4", "--label", "1"]
    first = train(*flags, output="a")
    torch.rand(3)
    assert np.array_equal(vectors(first / "model"), vectors(train(*flags, output="b") / "model"))
