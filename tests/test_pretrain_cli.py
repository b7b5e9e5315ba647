"""`minibert pretrain`: from a text file to a model with a masked-LM head, and one line where that can't be."""

import json
import re
import shlex
import shutil

import pytest
from documents import DOCS
from tiny_folder import MEAN, TEXTS, write_encoder

from minibert import BertForMaskedLM
from minibert.cli import _parser, main
from minibert.cli.pretrain import EXAMPLES, shape


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_encoder(tmp_path_factory.mktemp("tiny"), ("Pooling", MEAN)))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return str(path)


@pytest.fixture
def pretrain(model, text, tmp_path):
    """Run it for a few steps, with more flags; gives the exit status and the output folder."""

    def run(*flags, steps=4):
        folder = tmp_path / "run"
        common = ["--model", model, "--length", "20", "--steps", str(steps), "--batch-size", "2", "--device", "cpu"]
        return main(["pretrain", text, "--output", str(folder), *common, *flags]), folder

    return run


def test_a_text_makes_a_model_that_is_measured(pretrain, text, capsys):
    status, folder = pretrain("--dev", text, "--line-by-line")
    assert status == 0
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if "pip install matplotlib" not in line]
    assert lines == [
        "minibert: blocks 5, steps 4",
        "minibert: the masked-LM head is new, because the checkpoint has none",
    ]
    assert re.match(rf"{folder}/model: the best model, of step [1-4]: perplexity \d+\.\d\d, accuracy \d", said.out)
    assert BertForMaskedLM.from_pretrained(folder / "model").report.complete
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "loss" in record] == [1, 2, 3, 4]


def test_a_fresh_model_of_another_shape(pretrain, capsys):
    status, folder = pretrain("--fresh", "--shape", "num_hidden_layers=1,hidden_size=16")
    assert status == 0
    config = BertForMaskedLM.from_pretrained(folder / "model").config
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (1, 16, 99)
    assert "the model after the last step" in capsys.readouterr().out


def test_a_shape_has_values_as_config_json_has_them():
    text = "hidden_act=relu, num_hidden_layers=2,layer_norm_eps=1e-6,tie_word_embeddings=false,pad_token_id=null"
    assert shape(text) == {
        "hidden_act": "relu",
        "num_hidden_layers": 2,
        "layer_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "pad_token_id": None,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "num_hidden_layers",
            "'num_hidden_layers' is not FIELD=VALUE, where a FIELD is one of vocab_size, ",
        ),
        ("layers=2", "'layers=2' is not FIELD=VALUE, where a FIELD is one of"),
        ("hidden_size=wide", "hidden_size takes int, not 'wide'"),
        ("pad_token_id=none", "pad_token_id takes int | None, not 'none'"),
    ],
)
def test_what_is_wrong_in_a_shape_is_named(text, said, capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "text.txt", "-o", "out", "--fresh", "--shape", text])
    assert f"argument --shape: {said}" in " ".join(capsys.readouterr().err.split())


def test_a_training_killed_before_its_first_checkpoint_begins_anew(pretrain, capsys):
    _, folder = pretrain()
    expected = (folder / "log.jsonl").read_text()
    (folder / "checkpoint.pt").unlink()
    shutil.rmtree(folder / "model")
    (folder / "log.jsonl").write_text(expected.splitlines()[0] + '\n{"step": 2, "lo')
    assert pretrain("--resume")[0] == 1
    assert "Start without resume" in capsys.readouterr().err
    assert pretrain()[0] == 0
    logs = expected, (folder / "log.jsonl").read_text()
    before, after = ([json.loads(line).get("loss") for line in log.splitlines()] for log in logs)
    assert before == after


def test_a_folder_in_use_is_left_alone_unless_resumed(pretrain, capsys):
    _, folder = pretrain()
    before = (folder / "log.jsonl").read_text()
    assert pretrain()[0] == 1
    assert "holds a training already: resume=True (--resume) goes on" in capsys.readouterr().err
    assert (folder / "log.jsonl").read_text() == before
    assert pretrain("--resume")[0] == 0
    assert pretrain("--resume", "--share", "0.3")[0] == 1
    assert "share was 0.15, is 0.3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--length", "41"], "a block of 41 tokens is longer than the 40 positions"),
        (["--shape", "hidden_size=16"], "hidden_size can be chosen for a fresh model only"),
        (["--share", "2"], "above 0 and at most 1"),
        (["--steps", "0"], "steps must be a whole number, at least 1, not 0"),
    ],
    ids=str,
)
def test_what_can_not_be_is_one_line(pretrain, flags, words, capsys):
    status, folder = pretrain(*flags)
    assert status == 1
    assert re.fullmatch(f"minibert: .*{words}.*\n", capsys.readouterr().err)
    assert not folder.exists()


def test_an_empty_text_is_one_line(pretrain, text, capsys):
    open(text, "w").close()
    assert pretrain()[0] == 1
    assert re.fullmatch(r"minibert: .*text\.txt: the file is empty.*\n", capsys.readouterr().err)


def test_the_examples_of_the_help_are_true(tmp_path, monkeypatch, capsys):
    """Each is run, for one step."""
    monkeypatch.chdir(tmp_path)
    for name in ("text.txt", "held-out.txt"):
        (tmp_path / name).write_text("A man is eating food.\nSomeone has lunch.", encoding="utf-8")
    commands = re.findall(r"^  minibert (pretrain \S+.*?)(?:   .*)?$", EXAMPLES, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert main([*shlex.split(command), "--steps", "1", "--batch-size", "1", "--device", "cpu"]) == 0, command
    config = BertForMaskedLM.from_pretrained("runs/new/model").config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 128, 4)


def test_the_commands_in_the_docs_can_be_typed():
    commands = re.findall(r"^\$ minibert (pretrain .*)$", (DOCS / "training.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        _parser().parse_args(shlex.split(command))
