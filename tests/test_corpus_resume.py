"""A corpus that is killed, whenever that is, and goes on, has the bytes of one that was not."""

import io
import json
import os
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from terminal import MINIBERT
from tiny_folder import MEAN, write_encoder
from torch import nn

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


def killed(way, model, texts, place, *before, **options):
    line = [*before, sys.executable, str(SCRIPT), way, str(model), str(texts), str(place), repr(options)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


SKIPPING = {"column": "text", "id_column": "name", "shard_rows": 2, "on_error": "skip", "keep_texts": True}


def write_rows(folder):
    rows = [json.dumps({"text": f"the cat {i}", "name": i}) for i in range(3)]
    (folder / "x.jsonl").write_text("\n".join(["no JSON", *rows, '{"text": null, "name": 0}']))
    return folder / "x.jsonl"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_before_any_of_its_writes(model, tmp_path):
    count = killed("write", model, write_rows(tmp_path), tmp_path, precision="int8", copy="float16", **SKIPPING)
    assert count > 20
    whole = tmp_path / "whole"
    assert json.loads((whole / "manifest.json").read_text())["rows"] == 3
    assert [json.loads(line)["line"] for line in (whole / "rejects.jsonl").read_text().splitlines()] == [1, 5]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_times(model, tmp_path):
    (tmp_path / "x.txt").write_text("".join(f"the cat {i} sat on the {'mat ' * (i % 9)}\n" for i in range(3000)))
    killed("time", model, tmp_path / "x.txt", tmp_path, shard_rows=300)
    assert json.loads((tmp_path / "whole" / "manifest.json").read_text())["shards"] == 10


@pytest.mark.parametrize("form", ["npy", "parquet", "safetensors", "jsonl"])
def test_on_a_disk_that_is_full_at_any_of_its_writes(model, tmp_path, form):
    own = ["unshare", "--map-root-user", "--mount"]  # mounts of the process alone
    try:
        subprocess.run([*own, "mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user can't mount a disk")
    if form == "parquet":
        pytest.importorskip("pyarrow")
    options = {**SKIPPING, "output_format": form, "precision": "int8", "copy": "float16" if form == "npy" else None}
    assert killed("space", model, write_rows(tmp_path), tmp_path, *own, **options) > 10


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
@pytest.mark.parametrize("form", ["npy", "safetensors"])
def test_the_command_says_where_there_is_no_space_and_goes_on(model, tmp_path, form):
    """A limit on the size of files stands for a full disk: it fails the writes of the second shard."""
    import resource

    rows = (json.dumps({"text": f"the cat {i} " * (1 if i < 4 else 500)}) for i in range(6))
    (tmp_path / "x.jsonl").write_text("\n".join(rows))

    def embed(name, most=resource.RLIM_INFINITY):
        line = [*MINIBERT, "embed-corpus", tmp_path / "x.jsonl", "--model", model, "--column", "text", "--keep-texts"]
        line += ["--format", form, "--shard-rows", "4", "-o", tmp_path / name]
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most))
        return subprocess.run(line, capture_output=True, text=True, timeout=100, check=False, preexec_fn=limit)

    def content(name):
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    assert embed("whole").returncode == 0
    done = embed("out", 7000)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"minibert: {tmp_path / 'out'}: File too large\n"
    whole, left = content("whole"), content("out")
    assert json.loads(left.pop("progress.json"))["shards"] == 1
    assert not json.loads(left.pop("manifest.json"))["complete"]
    assert left == {name: data for name, data in whole.items() if "000000" in name}
    assert embed("out").returncode == 0
    assert content("out") == whole


@pytest.mark.filterwarnings("ignore:int8 cuts")
@pytest.mark.skipif(os.name != "posix", reason="only there is the disk waited for")
def test_a_power_cut_leaves_what_goes_on(encoder, tmp_path, monkeypatch):
    """At any moment the disk has the contents, and the names in a folder, that were waited for; or more names."""
    source, place, numbered = write_rows(tmp_path), tmp_path / "out", {}
    kept, cuts, really_replace = {}, [], os.replace

    def contents():
        files = (path for path in place.iterdir() if path.is_file())
        return {path.name: numbered.get(path.stat().st_ino, b"") for path in files}

    def fsync(handle):
        cuts.extend([dict(kept), contents()])
        status = os.fstat(handle)
        if stat.S_ISREG(status.st_mode):
            numbered[status.st_ino] = os.pread(handle, status.st_size, 0)
            kept.update({name: data for name, data in contents().items() if name in kept})
        elif status.st_ino == place.stat().st_ino:
            kept.clear()
            kept.update(contents())

    def replace(*paths):
        really_replace(*paths)
        cuts.extend([dict(kept), contents()])

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "replace", replace)
        embed_corpus(encoder, source, place, precision="int8", copy="float16", **SKIPPING)
    cuts += [kept, contents()]
    whole, resumed = {path.name: path.read_bytes() for path in place.iterdir()}, set()
    assert kept | {"progress.json": b""} == whole | {"progress.json": b""}
    for number, files in enumerate(each for i, each in enumerate(cuts) if each not in cuts[:i]):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        resumed.add(embed_corpus(encoder, source, folder, precision="int8", copy="float16", **SKIPPING).resumed)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert resumed == {0, 2, 3}
    assert number > 10


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


def test_a_job_without_a_shard_gives_way_to_another(encoder, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("question,answer\nthe cat,a dog\n")
    with pytest.raises(ValueError, match="no column 'questoin'"):
        embed_corpus(encoder, path, tmp_path / "out", column="questoin")
    assert embed_corpus(encoder, path, tmp_path / "out", column="question").texts == 1
    with pytest.raises(JobError, match=r"options\.column"):
        embed_corpus(encoder, path, tmp_path / "out", column="answer")
    (tmp_path / "none.txt").write_text("")
    assert embed_corpus(encoder, tmp_path / "none.txt", tmp_path / "empty").texts == 0
    with pytest.raises(JobError, match=r"sources\."):  # a complete job of no texts is one
        embed_corpus(encoder, path, tmp_path / "empty", column="question")


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


class TopK(nn.Module):
    """Attends to the best k keys. q, k, v (B, H, S, K) -> (B, H, S, K)"""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, q, k, v, mask=None, bias=None):
        scores = q @ k.mT
        least = scores.topk(min(self.most, scores.shape[-1]), -1).values[..., -1:]
        return scores.masked_fill(scores < least, -torch.inf).softmax(-1) @ v


def with_core(model, most):
    encoder = SentenceEncoder.from_pretrained(model)
    for layer in encoder.model.layers:
        layer.attention.core = TopK(most)
    return encoder


def with_formula(model, formula):
    encoder = SentenceEncoder.from_pretrained(model)
    for layer in encoder.model.layers:
        layer.feed_forward.activation.formula = formula
    return encoder


def with_head(model, by):
    encoder = SentenceEncoder.from_pretrained(model)
    encoder.head = nn.Sequential(Times(by))
    return encoder


class Times(nn.Module):
    """Multiplies. (B, D) -> same"""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return self.by * x


@pytest.mark.parametrize(
    ("change", "one", "other"), [(with_core, 1, 8), (with_formula, torch.relu, torch.tanh), (with_head, 2, 3)]
)
def test_a_model_that_was_changed_without_weights_is_another(model, tmp_path, change, one, other):
    (tmp_path / "texts.txt").write_text("a cat\na dog\n")
    embed_corpus(change(model, one), [tmp_path / "texts.txt"], tmp_path / "out")
    assert embed_corpus(change(model, one), [tmp_path / "texts.txt"], tmp_path / "out").resumed == 2
    with pytest.raises(JobError, match="another job"):
        embed_corpus(change(model, other), [tmp_path / "texts.txt"], tmp_path / "out")
