"""The command line: a row for every line, whole files or none, one line on stderr when something is wrong."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import MINILM
from terminal import MINIBERT, on_terminal

from minibert import SentenceEncoder
from minibert.cli import main


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder.from_pretrained()


def run(*arguments, **options):
    """A real process: what a shell would see."""
    return subprocess.run([*MINIBERT, *arguments], capture_output=True, timeout=60, check=False, **options)


class Refusal:
    """One line on stderr, nothing on stdout, status 1."""

    def __init__(self, capsys, *arguments):
        self.status = main(arguments)
        out, self.message = capsys.readouterr()
        assert out == ""
        assert self.status == 1
        assert self.message.startswith("minibert: ")
        assert self.message.count("\n") == 1
        assert "Traceback" not in self.message


def test_help_shows_examples():
    process = run("--help")
    assert process.returncode == 0
    assert b"minibert embed --input texts.txt --output vectors.npy" in process.stdout


@pytest.mark.parametrize("command", ["embed", "similarity", "view", "inspect"])
def test_each_command_has_its_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "--revision" in capsys.readouterr().out


def test_without_a_command_the_usage_is_said():
    process = run()
    assert process.returncode == 2
    assert b"usage: minibert" in process.stderr


def test_a_line_in_a_row_out_empty_lines_too(encoder):
    process = run("embed", input="One.\n\nTwo, без перевода строки".encode())
    rows = [json.loads(line) for line in process.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["One.", "", "Two, без перевода строки"]
    expected = encoder.encode(["One.", "", "Two, без перевода строки"])
    assert np.array_equal(np.array([row["embedding"] for row in rows], dtype=np.float32), expected)


def test_windows_line_ends_and_byte_order_marks_are_no_text(tmp_path, capsysbinary):
    source = tmp_path / "texts.txt"
    source.write_bytes("\ufeffone\r\ntwo\r\n".encode())
    assert main(["embed", "--input", str(source)]) == 0
    assert [json.loads(line)["text"] for line in capsysbinary.readouterr().out.splitlines()] == ["one", "two"]


def test_npy_holds_the_vectors(tmp_path, encoder):
    target = tmp_path / "vectors.npy"
    assert main(["embed", "a", "b", "--output", str(target), "--normalize", "--truncate-dim", "64"]) == 0
    assert np.array_equal(np.load(target), encoder.encode(["a", "b"], normalize_embeddings=True, truncate_dim=64))
    assert list(tmp_path.iterdir()) == [target]


def test_jsonl_holds_text_and_whole_numbers_in_a_smaller_precision(tmp_path):
    target = tmp_path / "vectors.jsonl"
    assert main(["embed", "a", "b", "--output", str(target), "--precision", "ubinary"]) == 0
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == ["a", "b"]
    assert all(len(row["embedding"]) == 48 and isinstance(row["embedding"][0], int) for row in rows)


def test_on_a_terminal_the_table_aligns():
    lines = on_terminal("embed", "A man is eating food.", "日本語").splitlines()
    assert lines[0].split() == ["text", "1", "2", "3", "4", "5", "6", "length"]
    assert "… 384" in lines[1]
    assert lines[1].endswith("1.0000")
    # each of the three letters is two columns wide
    assert len(lines[1]) == len(lines[2]) + 3


def test_progress_is_shown_on_a_terminal_for_long_work(tmp_path):
    source = tmp_path / "texts.txt"
    source.write_text("A line of text.\n" * 200)
    assert "200/200" in on_terminal("embed", "--input", str(source), "--output", str(tmp_path / "x.npy"))
    assert b"200/200" not in run("embed", "--input", str(source), "--output", str(tmp_path / "y.npy")).stderr


def test_similarity_is_a_matrix_that_aligns(capsys):
    assert main(["similarity", "A man eats.", "Someone has lunch.", "The sky is blue."]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in lines}) == 1
    scores = np.array([[float(score) for score in line.split()[-3:]] for line in lines[1:]])
    assert np.array_equal(scores, scores.T)
    assert np.array_equal(np.diag(scores), np.ones(3))
    assert scores[0, 1] > scores[0, 2]


def test_inspect_shows_config_parts_pooling_and_report(capsys):
    assert main(["inspect", str(MINILM)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for fact in (
        "hidden_size 384",
        "feed-forward, 6 layers 7,089,408 31.2 %",
        "all 22,713,216 87 MiB",
        "pooling mean",
        "after it Normalize",
        "used 103 tensors",
        "known, left aside embeddings.position_ids",
        "missing none",
    ):
        assert fact in shown


def test_inspect_shows_a_checkpoint_without_a_tokenizer_too(capsys):
    assert main(["inspect", str(Path(__file__).parent / "fixtures" / "relative" / "relative_key")]) == 0
    shown = capsys.readouterr().out
    assert "position_embedding_type       relative_key" in shown
    assert "no tokenizer in the checkpoint" in shown
    assert "embeddings.position_embeddings.weight" in shown  # known, and left aside


def test_view_writes_a_page_and_says_what_was_cut_off(tmp_path, capsys):
    target = tmp_path / "page.html"
    assert main(["view", "word " * 300, "another text", "--output", str(target)]) == 0
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")
    cut, written = capsys.readouterr().err.splitlines()
    assert "longer than 256 tokens: 1; tokens cut off at their ends: 46" in cut
    assert str(target) in written


def test_truncation_is_said_on_stderr_in_one_line(capsys):
    assert main(["embed", "word " * 300]) == 0
    assert "longer than 256 tokens: 1; tokens cut off at their ends: 46" in capsys.readouterr().err


def test_a_warning_is_one_line_without_a_place_in_the_code():
    done = run("embed", "one text", "another", "--precision", "int8")
    assert done.returncode == 0
    assert re.fullmatch(rb"minibert: int8 cuts [^\n]*\n", done.stderr)


def test_truncation_can_be_refused(capsys):
    assert "46 tokens too long" in Refusal(capsys, "embed", "--truncation", "error", "word " * 300).message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["embed", "--model", "/no/such/folder", "x"], "/no/such/folder"),
        (["embed", "--model", "nobody/nothing", "--local-files-only", "x"], "nobody/nothing"),
        (["embed", "--input", "/no/such/file"], "/no/such/file"),
        (["embed", "--input", "/no/such/file", "x"], "not both"),
        (["embed", "--output", "/no/such/folder/x.npy", "x"], "/no/such/folder"),
        (["embed", "--output", "vectors.csv", "x"], ".npy or .jsonl"),
        (["embed", "--output", "-", "--format", "table", "x"], "a table is for the terminal"),
        (["embed", "--prompt", "a", "--prompt-name", "question", "x"], "no prompt 'question'"),
        (["embed", "--model", "", "x"], "the model's name is empty"),
        (["inspect", ""], "the model's name is empty"),
        (["embed", "--pooling", "cup", "x"], "cup"),
        (["embed", "--dtype", "int4", "x"], "int4"),
        (["embed", "--device", "toaster", "x"], "toaster"),
        (["embed", "--batch-size", "0", "x"], "batch_size"),
        (["embed", "--truncate-dim", "0", "x"], "truncate_dim"),
        (["embed", "--prompt-name", "question", "x"], "question"),
        (["embed", "--precision", "int8", "x"], "int8"),
        (["similarity", "alone"], "two texts"),
        (["view", "x", "--output", "/no/such/folder/page.html"], "/no/such/folder"),
        (["inspect", "/no/such/folder"], "/no/such/folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[1:3]),
)
def test_what_is_wrong_is_said_in_one_line(arguments, said, capsys):
    assert said in Refusal(capsys, *arguments).message


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path, capsys):
    source = tmp_path / "latin1.txt"
    source.write_bytes(b"fine\ncaf\xe9\n")
    assert "latin1.txt, line 2" in Refusal(capsys, "embed", "--input", str(source)).message


def test_a_full_disk_leaves_the_old_file_and_no_half_of_a_new_one(tmp_path, monkeypatch, capsys):
    target = tmp_path / "vectors.npy"
    target.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert "No space left" in Refusal(capsys, "embed", "x", "--output", str(target)).message
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk_behind_stdout_is_said():
    with open("/dev/full", "wb") as full:
        process = subprocess.run(
            [*MINIBERT, "embed", "x"], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert process.returncode == 1
    assert process.stderr.count(b"\n") == 1
    assert b"No space left" in process.stderr


def test_a_reader_that_has_had_enough_is_no_error():
    process = subprocess.run(
        f"yes 'some text' | head -3000 | {sys.executable} -m minibert embed | head -1",
        shell=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert json.loads(process.stdout)["text"] == "some text"
    assert process.stderr == b""


def test_an_unknown_flag_is_said_with_the_usage_of_its_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["embed", "a", "--foo"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: minibert embed")
    assert said.endswith("minibert embed: error: unrecognized arguments: --foo\n")


def test_several_poolings_stand_side_by_side(tmp_path):
    target = tmp_path / "x.npy"
    assert main(["embed", "a", "b", "--pooling", "cls,mean", "--output", str(target)]) == 0
    assert np.load(target).shape == (2, 768)


def test_a_name_and_a_form_that_contradict_each_other_are_refused(tmp_path, capsys):
    target = tmp_path / "x.npy"
    assert main(["embed", "a", "--format", "jsonl", "--output", str(target)]) == 1
    assert "x.npy: the name says npy, and --format jsonl: leave out one of them" in capsys.readouterr().err
    assert not target.exists()
