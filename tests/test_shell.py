"""Between a shell and the commands: devices, pipes, links, tables, full disks, signals."""

import errno
import json
import os
import signal
import stat
import subprocess
import threading
import time

import numpy as np
import pytest
from terminal import MINIBERT, on_terminal
from tiny_folder import MEAN, write_encoder

from minibert.checkpoint.atomic import replacing
from minibert.cli import main

BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_encoder(tmp_path_factory.mktemp("tiny"), ("Pooling", MEAN)))


@pytest.fixture
def embed(model, tmp_path, monkeypatch):
    """Run it in a folder of its own, with the tiny model; gives the status."""
    monkeypatch.chdir(tmp_path)
    return lambda *flags: main(["embed", "--model", model, *map(str, flags)])


def shell(model, command, **options):
    """What a shell makes of it, where minibert is $M."""
    line = command.replace("$M", " ".join(MINIBERT)).replace("$TINY", f"--model {model}")
    options = {"capture_output": True, "timeout": 60, "check": False, "env": BUFFERED, **options}
    return subprocess.run(["bash", "-c", line], **options)


def embedded(lines):
    return [json.loads(line)["text"] for line in lines]


# --- Outputs


@pytest.mark.parametrize("name", ["out", "out.npy", "out.jsonl"])
def test_a_pipe_gets_the_vectors_and_stays_a_pipe(embed, tmp_path, name):
    pipe, got = tmp_path / name, []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    assert embed("a cat", "a dog", "-o", pipe) == 0
    reader.join()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]
    assert got[0].startswith(b"\x93NUMPY" if name == "out.npy" else b'{"text": "a cat"')


def test_a_device_stays_a_device(embed, tmp_path):
    link = tmp_path / "null"
    link.symlink_to("/dev/null")  # if it were replaced, only the link would be
    for flags in ([], ["--format", "npy"]):
        assert embed("a cat", "-o", link, *flags) == 0
        assert link.is_symlink()
    assert main(["view", "a cat", "--model", "minibert-tiny", "-o", str(link)]) == 0
    assert list(tmp_path.iterdir()) == [link]


@pytest.mark.parametrize("there", [True, False])
def test_behind_a_link_its_target_is_replaced(embed, tmp_path, there):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "real.npy", tmp_path / "link.npy"
    if there:
        target.write_bytes(b"old")
    link.symlink_to(target)
    assert embed("a cat", "-o", link) == 0
    assert link.is_symlink()
    assert np.load(target).shape == (1, 32)
    assert sorted(tmp_path.rglob("*")) == sorted([target.parent, target, link])


def test_a_file_keeps_its_permissions(embed, tmp_path):
    target = tmp_path / "private.npy"
    target.touch(0o600)
    assert embed("a cat", "-o", target) == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1"])
def test_standard_output_has_several_names_and_what_was_written_before_stays(model, tmp_path, name):
    log = tmp_path / "log"
    assert shell(model, f"(echo before; $M embed $TINY 'a cat' -o {name}; echo after) >> {log}").returncode == 0
    before, row, after = log.read_text().splitlines()
    assert (before, after) == ("before", "after")
    assert embedded([row]) == ["a cat"]


def test_process_substitution_and_standard_input_by_name(model):
    done = shell(model, "printf 'a cat\na dog' | $M embed $TINY -i - -o >(cat) | cat")
    assert embedded(done.stdout.splitlines()) == ["a cat", "a dog"]
    done = shell(model, "printf 'a cat\na dog' | $M embed $TINY -")
    assert embedded(done.stdout.splitlines()) == ["a cat", "a dog"]
    done = shell(model, "$M embed $TINY -i <(echo a cat) --format npy | cat")
    assert done.stdout.startswith(b"\x93NUMPY")


def test_a_pipe_gives_its_vectors_as_the_lines_come(model):
    command = [*MINIBERT, "embed", "--model", model]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=BUFFERED) as process:
        for text in ("a cat", "", "the dog"):
            process.stdin.write(f"{text}\n")
            process.stdin.flush()
            assert embedded([process.stdout.readline()]) == [text]
        process.stdin.write("no end")
        process.stdin.close()
        assert embedded(process.stdout) == ["no end"]
        assert process.wait(timeout=60) == 0


def test_lines_of_a_pipe_are_counted_from_its_first(model):
    process = subprocess.Popen(
        [*MINIBERT, "embed", "--model", model],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=BUFFERED,
    )
    process.stdin.write(b"\xef\xbb\xbf" + b"word " * 60 + b"\n")
    process.stdin.flush()
    process.stdout.readline()
    out, err = process.communicate(b"word\ncaf\xe9\n")
    assert err == b"minibert: stdin, line 3: not UTF-8 (unexpected end of data at byte 3)\n"
    assert (out, process.returncode) == (b"", 1)


def test_one_report_of_what_was_cut_off_in_all_pieces(model, monkeypatch, capfd):
    pieces = ["a" * 60, "b"], ["c" * 45]
    monkeypatch.setattr("minibert.cli.embed.read_texts", lambda *_, **__: iter(pieces))
    assert main(["embed", "--model", model]) == 0
    assert "longer than 40 tokens: 2; tokens cut off at their ends: 29" in capfd.readouterr().err


# --- Files that were left behind, full disks


def left(folder):
    return sorted(path.name for path in folder.glob(".*"))


def writing_child(model, target):
    """A process that has written to its temporary file, and waits for more lines."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits none
    process = subprocess.Popen([*MINIBERT, "embed", "--model", model, "-o", target], stdin=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    process.stdin.write(b"a cat\n")
    process.stdin.flush()
    end = time.monotonic() + 60
    while not any(path.stat().st_size for path in target.parent.glob(".*/*")) and time.monotonic() < end:
        time.sleep(0.02)
    assert len(left(target.parent)) == 1
    return process


def test_what_a_killed_process_left_behind_is_cleared_by_the_next_one(embed, model, tmp_path):
    target = tmp_path / "vectors.jsonl"
    for name in (".vectors.jsonl", ".saving", ".saving.jsonl", ".saving.12345678"):
        (tmp_path / name).touch()
    (tmp_path / "child").mkdir()
    with writing_child(model, tmp_path / "child" / "vectors.jsonl") as child:
        child.kill()
    (name,) = left(tmp_path / "child")
    os.rename(tmp_path / "child" / name, tmp_path / name)
    before = left(tmp_path)
    assert embed("a dog", "-o", target) == 0
    assert set(before) - set(left(tmp_path)) == {name}
    assert embedded(target.read_text().splitlines()) == ["a dog"]


def test_a_process_that_still_writes_keeps_its_file(embed, model, tmp_path):
    target = tmp_path / "vectors.jsonl"
    with writing_child(model, target) as child:
        assert embed("a dog", "-o", target) == 0
        assert len(left(tmp_path)) == 1
        child.communicate()
        assert child.returncode == 0
    assert embedded(target.read_text().splitlines()) == ["a cat"]
    assert left(tmp_path) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_no_temporary_file(model, tmp_path, number, status):
    with writing_child(model, tmp_path / "vectors.jsonl") as child:
        child.send_signal(number)
        assert child.wait(timeout=60) == status
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
@pytest.mark.parametrize("form", ["npy", "jsonl"])
def test_a_full_disk_is_said_with_the_files_name(embed, tmp_path, capsys, form):
    link = tmp_path / "full"
    link.symlink_to("/dev/full")
    assert embed("a cat", "-o", link, "--format", form) == 1
    assert capsys.readouterr().err == f"minibert: {link}: No space left on device\n"


def test_a_disk_that_gets_full_is_said_with_the_files_name(tmp_path):
    target = tmp_path / "x.npy"
    target.write_bytes(b"old")

    def write(error):
        with replacing(target):
            raise error

    for error in (OSError(errno.ENOSPC, "full"), OSError(errno.EACCES, "no", str(tmp_path / ".saving.abc/x.npy"))):
        with pytest.raises(OSError, match=r"(full|no): '.*/x\.npy'$"):
            write(error)
    with pytest.raises(OSError, match="another"):
        write(OSError(errno.ENOENT, "no", "another"))
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
@pytest.mark.parametrize("command", ["embed $TINY 'a cat'", "similarity $TINY a b", "inspect minibert-tiny"])
def test_a_full_disk_behind_standard_output_is_one_line(model, command):
    done = shell(model, f"$M {command} > /dev/full")
    assert (done.returncode, done.stderr) == (1, b"minibert: stdout: No space left on device\n")


def test_closed_standard_streams_are_no_traceback(model, tmp_path):
    assert shell(model, f"$M embed $TINY a -o {tmp_path}/x.npy <&- >&-").returncode == 0
    done = shell(model, "$M embed $TINY <&-")
    assert (done.returncode, done.stderr) == (1, b"minibert: stdin: there is no text in it\n")


# --- Tables and wrong inputs

TABLES = {
    "x.csv": 'id,text\n1,"a cat, a dog"\n2,hello\n',
    "X.TSV": "id\ttext\n1\ta cat, a dog\n2\thello\n",
    "x.jsonl": '{"text": "a cat, a dog"}\n{"text": "hello"}\n',
    "x.ndjson": '{"text": "a cat, a dog"}\n{"text": "hello"}\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_by_its_column(embed, tmp_path, model, capsysbinary, name):
    (tmp_path / name).write_text(TABLES[name])
    assert embed("-i", name, "--texts", "text") == 0
    assert embedded(capsysbinary.readouterr().out.splitlines()) == ["a cat, a dog", "hello"]
    (tmp_path / "table").write_text(TABLES[name])
    form = {"x.ndjson": "jsonl"}.get(name, name[2:].lower())
    assert main(["similarity", "-m", model, "-i", "table", "--texts", "text", "--input-format", form]) == 0
    assert b"a cat, a dog" in capsysbinary.readouterr().out


@pytest.mark.parametrize("name", [*TABLES, "x.json", "x.csv.gz", "x.parquet"])
@pytest.mark.parametrize("command", ["embed", "similarity"])
def test_a_table_without_its_column_is_refused(tmp_path, capsys, command, name):
    (tmp_path / name).write_text("id,text")
    assert main([command, "-i", str(tmp_path / name)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"minibert: {tmp_path / name} is a table: --texts COLUMN says which column holds the texts\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-i", "empty"], "empty: there is no text in it"),
        (["-i", "."], ".: Is a directory"),
        (["-i", "nothing"], "nothing: No such file or directory"),
        (["-i", "binary"], "binary, line 1: not UTF-8 (invalid start byte at byte 0)"),
        (["-i", "-", "--texts", "text"], "--texts and --input-format are for a table in a file"),
        (["a", "-o", "."], ".: this is a folder, and the output is a file"),
        (["a", "-o", "folder.npy"], "folder.npy: this is a folder, and the output is a file"),
        (["a", "--dtype", "int4"], "dtype must be one of float32, float64, bfloat16, float16, for an encoder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_newcomers_mistakes_are_one_line(embed, tmp_path, capsys, flags, said):
    (tmp_path / "empty").touch()
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\x00\x10")
    assert embed(*flags) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"minibert: {said}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["embed-corpus", "texts.txt"],
        ["compile"],
        ["train", "--data", "pairs.csv", "--texts", "1,2", "--objective", "in-batch-negatives"],
        ["pretrain", "texts.txt"],
    ],
    ids=lambda command: command[0],
)
def test_a_file_in_the_place_of_an_output_folder_is_said(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("a cat\n")
    (tmp_path / "pairs.csv").write_text("a,b\nc,d\n")
    for output in ("texts.txt", "texts.txt/below"):
        assert main([*command, "-o", output]) == 1
        assert capsys.readouterr().err == "minibert: texts.txt: this is a file, and the output is a folder\n"
    assert (tmp_path / "texts.txt").read_text() == "a cat\n"


def test_a_file_that_may_not_be_written_is_said_by_its_own_name(embed, tmp_path, monkeypatch, capsys):
    def refuse(**name):
        raise PermissionError(errno.EACCES, "Permission denied", "{dir}/{prefix}12345678".format(**name))

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    assert embed("a", "-o", tmp_path / "x.npy") == 1
    assert capsys.readouterr().err == f"minibert: {tmp_path}/x.npy: Permission denied\n"


def test_an_interrupt_anywhere_is_one_line(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("minibert.cli._parser", interrupt)
    assert main(["embed"]) == 130
    assert capsys.readouterr().err == "minibert: stopped\n"


# --- The closest pairs


def test_many_texts_give_pairs_and_few_a_matrix(model, tmp_path, capsys):
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"the cat {i}\n" for i in range(80)))
    assert main(["similarity", "--model", model, "-i", str(path)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 20
    assert "the 20 most similar of 3,160 pairs (--top N shows more)" in err
    assert main(["similarity", "--model", model, "the cat", "a dog", "the cat", "--top", "1"]) == 0
    assert capsys.readouterr().out.split() == ["1.000", "1", "the", "cat", "3", "the", "cat"]
    assert main(["similarity", "--model", model, "a", "b", "--top", "0"]) == 1


def test_the_remaining_time_counts_tokens(model, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("the cat sat\n" * 150)
    shown = on_terminal("embed", "--model", model, "--input", str(path), "--output", str(tmp_path / "x.npy"))
    assert "150/150 texts" in shown
    assert f"{150 * 5}/{150 * 5}" in shown.replace("k", "")
