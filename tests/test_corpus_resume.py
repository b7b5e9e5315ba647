"""A corpus that is killed, whenever that is, and goes on, has the bytes of one that was not."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_folder import MEAN, write_encoder

from minibert import SentenceEncoder
from minibert.bulk import JobError, embed_corpus
from minibert.bulk import corpus as corpus_module
from minibert.checkpoint.atomic import locked

SCRIPT = Path(__file__).with_name("killed_corpus.py")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("model"), ("Pooling", MEAN))


@pytest.fixture(scope="module")
def encoder(model):
    return SentenceEncoder.from_pretrained(model)


def killed(way, model, texts, place, **options):
    line = [sys.executable, str(SCRIPT), way, str(model), str(texts), str(place), repr(options)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_before_any_of_its_writes(model, tmp_path):
    rows = [json.dumps({"text": f"the cat {i}", "name": i}) for i in range(3)]
    (tmp_path / "x.jsonl").write_text("\n".join(["no JSON", *rows, '{"text": null, "name": 0}']))
    options = {"column": "text", "id_column": "name", "shard_rows": 2, "on_error": "skip", "keep_texts": True}
    count = killed("write", model, tmp_path / "x.jsonl", tmp_path, precision="int8", copy="float16", **options)
    assert count > 20
    whole = tmp_path / "whole"
    assert json.loads((whole / "manifest.json").read_text())["rows"] == 3
    assert [json.loads(line)["line"] for line in (whole / "rejects.jsonl").read_text().splitlines()] == [1, 5]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_times(model, tmp_path):
    (tmp_path / "x.txt").write_text("".join(f"the cat {i} sat on the {'mat ' * (i % 9)}\n" for i in range(3000)))
    killed("time", model, tmp_path / "x.txt", tmp_path, shard_rows=300)
    assert json.loads((tmp_path / "whole" / "manifest.json").read_text())["shards"] == 10


def write_texts(folder, count=10):
    path = folder / "x.txt"
    path.write_text("".join(f"the cat {i}\n" for i in range(count)))
    return path


def fail_after(monkeypatch, shards):
    """Let the write of a later shard fail, as on a full disk."""
    write = corpus_module.write_shard

    def failing(folder, shard, *rest):
        if shard == shards:
            raise OSError(28, "No space left on device")
        write(folder, shard, *rest)

    monkeypatch.setattr(corpus_module, "write_shard", failing)


def test_a_full_disk_is_named_and_the_job_goes_on_later(encoder, tmp_path, monkeypatch):
    path = write_texts(tmp_path)
    with monkeypatch.context() as patch:
        fail_after(patch, 2)
        with pytest.raises(OSError, match="No space left") as caught:
            embed_corpus(encoder, path, tmp_path / "out", shard_rows=3)
        assert caught.value.filename == str(tmp_path / "out")
    report = embed_corpus(encoder, path, tmp_path / "out", shard_rows=3)
    assert (report.texts, report.resumed, report.shards) == (10, 6, 4)
    assert embed_corpus(encoder, path, tmp_path / "out", shard_rows=3).resumed == 10
    found = np.concatenate([np.load(file) for file in sorted((tmp_path / "out").glob("*.npy"))])
    assert np.allclose(found, encoder.encode([f"the cat {i}" for i in range(10)]), atol=1e-6)


def stopped_job(encoder, tmp_path, monkeypatch):
    path = write_texts(tmp_path)
    with monkeypatch.context() as patch:
        fail_after(patch, 1)
        with pytest.raises(OSError, match="No space"):
            embed_corpus(encoder, path, tmp_path / "out", shard_rows=3)
    return path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shard_rows": 4}, "options.shard_rows: 3, and now 4"),
        ({"truncate_dim": 8}, "options.truncate_dim: null, and now 8"),
        ({"prompt": "query: "}, 'options.prompt: null, and now "query: "'),
        ({"precision": "float16"}, 'options.precision: "float32", and now "float16"'),
    ],
)
def test_other_options_are_refused_and_named(encoder, tmp_path, monkeypatch, options, said):
    path = stopped_job(encoder, tmp_path, monkeypatch)
    with pytest.raises(JobError, match=said):
        embed_corpus(encoder, path, tmp_path / "out", **{"shard_rows": 3, **options})


def test_another_model_is_refused(encoder, model, tmp_path, monkeypatch):
    path = stopped_job(encoder, tmp_path, monkeypatch)
    other = SentenceEncoder.from_pretrained(model)
    other.model.layers[0].attention.query.bias.data[3] += 1
    with pytest.raises(JobError, match=r"model.sha256: .*, and now "):
        embed_corpus(other, path, tmp_path / "out", shard_rows=3)
    with pytest.raises(JobError, match=r'model\.computed\.all: null, and now "page"'):
        embed_corpus(SentenceEncoder.from_pretrained(model, fast=False), path, tmp_path / "out", shard_rows=3)
    with pytest.raises(JobError, match=r"model\.sha256"):
        embed_corpus(SentenceEncoder.from_pretrained(model, pooling="cls"), path, tmp_path / "out", shard_rows=3)


def test_changed_input_is_refused(encoder, tmp_path, monkeypatch):
    path = stopped_job(encoder, tmp_path, monkeypatch)
    path.write_text(path.read_text().replace("cat 9", "dog 9"))
    with pytest.raises(JobError, match=r"sources\..*x\.txt\.sha256"):
        embed_corpus(encoder, path, tmp_path / "out", shard_rows=3)
    (tmp_path / "y.txt").write_text("more")
    with pytest.raises(JobError, match=r"sources\..*y\.txt: null, and now"):
        embed_corpus(encoder, [path, tmp_path / "y.txt"], tmp_path / "out", shard_rows=3)


def test_a_change_deep_in_a_long_file_is_seen(tmp_path):
    from minibert.bulk.sources import WHOLE, Source

    path = tmp_path / "x.txt"
    with path.open("wb") as file:
        file.truncate(WHOLE + 5)
    before = Source(str(path), "text").fingerprint()
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    assert Source(str(path), "text").fingerprint() != before


def test_a_folder_of_other_files_and_one_in_use_are_refused(encoder, tmp_path):
    path = write_texts(tmp_path)
    with pytest.raises(JobError, match="has files, and no manifest"):
        embed_corpus(encoder, path, tmp_path)
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out") as mine:
        if mine:
            with pytest.raises(JobError, match="another process writes there"):
                embed_corpus(encoder, path, tmp_path / "out")


def test_a_stop_at_a_bad_row_goes_on_with_skip(encoder, tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"a\nb\nc\xff\nd\n")
    with pytest.raises(ValueError, match=r"x\.txt, line 3: not UTF-8"):
        embed_corpus(encoder, path, tmp_path / "out", shard_rows=1)
    report = embed_corpus(encoder, path, tmp_path / "out", shard_rows=1, on_error="skip")
    assert (report.texts, report.resumed, report.rejected) == (3, 2, 1)


def test_stdin_must_begin_as_before(encoder, tmp_path, monkeypatch):
    def run(text):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        return embed_corpus(encoder, "-", tmp_path / "out", shard_rows=2)

    with monkeypatch.context() as patch:
        fail_after(patch, 2)
        with pytest.raises(OSError, match="No space"):
            run("a\nb\nc\nd\ne\n")
    with pytest.raises(ValueError, match="stdin: the first 4 rows are not those"):
        run("a\nb\nc\nx\ne\n")
    with pytest.raises(ValueError, match="stdin: 3 rows, where the last run has read 4"):
        run("a\nb\nc\n")
    report = run("a\nb\nc\nd\ne\n")
    assert (report.texts, report.resumed) == (5, 4)
    assert json.loads((tmp_path / "out" / "shard-000002.json").read_text()) == {"id": ["stdin:5"]}
    assert run("a\nb\nc\nd\ne\n").resumed == 5
    with pytest.raises(ValueError, match="stdin: the first 5 rows are not those"):
        run("a\nb\nc\nd\nx\n")
    with pytest.raises(ValueError, match="complete, and the input now has more rows"):
        run("a\nb\nc\nd\ne\nf\n")
