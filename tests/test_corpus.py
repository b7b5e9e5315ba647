"""Files in, shards out: every form of source and sink, bad rows, the report, the command."""

import csv
import gzip
import io
import json
import pickle
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_folder import MEAN, write_encoder

from minibert import SentenceEncoder, quantize_embeddings
from minibert.bulk import Embedder, JobError, embed_corpus
from minibert.bulk import sources as sources_module
from minibert.bulk.ray import Part, _gather
from minibert.bulk.sources import Position, Window
from minibert.cli import main
from minibert.tables import LONGEST, BadRow, read_rows
from minibert.vectors import find_ranges

TEXTS = ["the cat sat", "hello", "", "a man eats food", "日本 and more", "the world"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("model"), ("Pooling", MEAN))


@pytest.fixture(scope="module")
def encoder(model):
    return SentenceEncoder.from_pretrained(model)


def content(folder, ending="npy"):
    ids = [json.loads(file.read_text())["id"] for file in sorted(folder.glob("shard-*.json"))]
    return list(chain(*ids)), np.concatenate([np.load(file) for file in sorted(folder.glob(f"shard-??????.{ending}"))])


def write(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


LINES = "".join(f"{text}\n" for text in TEXTS)
TABLES = {
    "x.txt": (LINES, {}),
    "x.txt.gz": (LINES, {}),
    "x.jsonl": ("".join(json.dumps({"n": i, "t": text}) + "\n" for i, text in enumerate(TEXTS)), {"column": "t"}),
    "x.csv.gz": ("n,t\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(TEXTS)), {"column": "t"}),
    "x.tsv": ("".join(f"{i}\t{text}\n" for i, text in enumerate(TEXTS)), {"column": 2}),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_source_gives_the_vectors_of_encode_and_the_lines_as_ids(encoder, tmp_path, name):
    text, options = TABLES[name]
    path = write(tmp_path / name, text)
    report = embed_corpus(encoder, path, tmp_path / "out", shard_rows=4, **options)
    ids, vectors = content(tmp_path / "out")
    assert np.allclose(vectors, encoder.encode(TEXTS), atol=1e-6)
    first = 2 if name == "x.csv.gz" else 1
    assert ids == [f"{path}:{first + i}" for i in range(len(TEXTS))]
    assert (report.texts, report.shards, report.rejected, report.resumed) == (6, 2, 0, 0)
    assert report.tokens == sum(len(ids) for ids in encoder.tokenizer(TEXTS)["input_ids"])
    if options:
        column = "n" if isinstance(options["column"], str) else 1
        embed_corpus(encoder, path, tmp_path / "ids", id_column=column, **options)
        assert content(tmp_path / "ids")[0] == ["0", "1", "2", "3", "4", "5"]


def test_many_files_by_patterns_in_order(encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "sub/c.txt", "[x].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, name)
    (tmp_path / "sub.txt").mkdir()
    embed_corpus(encoder, ["[x].txt", "?.txt", "sub/**"], "out", keep_texts=True)
    found = json.loads((tmp_path / "out" / "shard-000000.json").read_text())
    assert found == {
        "id": ["[x].txt:1", "a.txt:1", "b.txt:1", "sub/c.txt:1"],
        "text": ["[x].txt", "a.txt", "b.txt", "sub/c.txt"],
    }


RAY = {"engine": "ray", "output_format": "parquet"}


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (["none.txt"], {}, "No such file"),
        (["none*.txt"], {}, "No such file"),
        (["x.txt", "*.txt"], {}, "x.txt: this file is given twice"),
        (["."], {}, "this is a folder"),
        (["x.csv"], {}, r"is a table: give the column that holds the texts \(--column NAME\)"),
        (["x.txt"], {"column": "t"}, "a file of lines has no columns"),
        (["x.json"], {"column": "t"}, "JSON lines are read from .jsonl"),
        (["x.csv"], {"column": "z"}, "x.csv: there is no column 'z', only 't'"),
        (["-"], {"column": "t", "input_format": "parquet"}, "can't be read from stdin"),
        (["x.txt"], {"precision": "int4"}, "precision must be one of float32"),
        (["x.txt"], {"copy": "float16", "output_format": "jsonl"}, "a copy is for output_format='npy'"),
        (["x.txt"], {"prompt_name": "none"}, "the model has no prompt 'none'"),
        (["x.txt"], {"shard_rows": 0}, "shard_rows must be"),
        (["x.txt"], {"engine": "spark"}, "engine must be one of local, ray"),
        (["x.txt"], {"engine": "ray"}, "engine='ray' writes output_format='parquet', not 'npy'"),
        (["x.txt"], {**RAY, "precision": "int8"}, "engine='ray' has no int8"),
        (["x.txt"], RAY, r"engine='ray' needs Ray: pip install \"minibert-encoder\[ray\]\""),
        ([], {}, "no files are given"),
    ],
)
def test_what_is_wrong_with_the_sources_is_said_before_any_work(encoder, tmp_path, monkeypatch, names, options, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("x.txt", "x.csv", "x.json"):
        write(tmp_path / name, "t\n")
    with pytest.raises((ValueError, OSError), match=said):
        embed_corpus(encoder, names, "out", **options)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "ubinary"])
def test_every_sink_and_precision(encoder, tmp_path, precision):
    texts = [f"the cat {i} sat" for i in range(120)]
    path = write(tmp_path / "x.txt", "\n".join(texts))
    wanted = encoder.encode(texts, batch_invariant=True)
    stored = wanted.astype(np.float16) if precision == "float16" else quantize_embeddings(wanted, precision)
    for form in ("npy", "safetensors", "jsonl"):
        out = tmp_path / form
        copy = "float16" if form == "npy" else None
        embed_corpus(encoder, path, out, output_format=form, precision=precision, copy=copy)
        if form == "npy":
            found = content(out)[1]
            assert np.allclose(np.load(out / "shard-000000.float16.npy"), wanted, atol=1e-3)
        elif form == "safetensors":
            found = load_file(out / "shard-000000.safetensors")["embedding"]
        else:
            rows = [json.loads(line) for line in (out / "shard-000000.jsonl").read_text().splitlines()]
            assert rows[2]["id"] == f"{path}:3"
            found = np.array([row["embedding"] for row in rows]).astype(stored.dtype)
        assert found.dtype == stored.dtype
        assert np.array_equal(found, stored)


def test_ranges_of_int8_are_those_of_the_first_shard(encoder, tmp_path):
    texts = [f"the cat {i} sat" for i in range(110)]
    path = write(tmp_path / "x.txt", "\n".join(texts))
    embed_corpus(encoder, path, tmp_path / "out", precision="int8", shard_rows=100)
    vectors = encoder.encode(texts, batch_invariant=True)
    ranges = np.stack([vectors[:100].min(0), vectors[:100].max(0)])
    assert np.array_equal(np.load(tmp_path / "out" / "ranges.npy"), ranges)
    assert np.array_equal(content(tmp_path / "out")[1], quantize_embeddings(vectors, "int8", ranges))


def test_prompts_dimensions_and_length_are_those_of_encode(encoder, tmp_path):
    path = write(tmp_path / "x.txt", LINES)
    options = {"prompt": "query: ", "truncate_dim": 8, "normalize_embeddings": True}
    embed_corpus(encoder, path, tmp_path / "out", **options)
    assert np.allclose(content(tmp_path / "out")[1], encoder.encode(TEXTS, **options), atol=1e-6)


BAD = {  # form -> rows, each with what is said of it; None: a good one
    "txt": [
        (b"good", None),
        (b"\xff\xfe", "not UTF-8 (invalid start byte at byte 0)"),
        (b"a\0b", "has a NUL character"),
        (b"x" * (LONGEST + 1), f"longer than {LONGEST} bytes"),
        (b"", None),
        (b"last", None),
    ],
    "jsonl": [
        (b'{"t": "good"}', None),
        (b'{"t": "go', "not JSON (Unterminated string"),
        (b"[1]", "not a JSON object such as"),
        (b'{"u": "x"}', "there is no column 't', only 'u'"),
        (b'{"t": null}', "column 't' must hold a text, not None"),
        (b'{"t": 5}', "column 't' must hold a text, not 5"),
        (b'{"t": "\\ud800"}', "column 't' is not valid Unicode"),
        (b'{"t": "\\u0000"}', "column 't' has a NUL character"),
        (b'{"t": ' + b"[" * 200_000, "not JSON (maximum recursion"),
        (b'{"t": "\xff"}', "not UTF-8"),
        (b'{"t": "last"}', None),
    ],
    "csv": [
        (b"n,t", None),
        (b"0,good", None),
        (b"1", "1 columns, where at least 2 were expected"),
        (b'2,"a"b', "not CSV"),
        (b'3,"two\nlines"', None),
        (b'4,"two\n\xfflines"', "not UTF-8"),
        (b'5,"never closed', "not CSV"),
        (b"6,good", None),
        (b'7,"nor this one', "not CSV (unexpected end of data)"),
        (b"8,good", None),
    ],
}


@pytest.mark.parametrize("form", BAD)
@pytest.mark.parametrize("shard_rows", [1, 16])
def test_bad_rows_stop_or_are_skipped_with_their_line_and_the_counts_add_up(encoder, tmp_path, form, shard_rows):
    rows = BAD[form]
    path = write(tmp_path / f"x.{form}", b"\n".join(row for row, _ in rows))
    options = {"column": None if form == "txt" else "t", "shard_rows": shard_rows}
    lines = np.cumsum([1] + [row.count(b"\n") + 1 for row, _ in rows]).tolist()
    wrong = [(line, said) for line, (_, said) in zip(lines, rows, strict=False) if said]
    with pytest.raises(ValueError, match=rf"x\.{form}, line {wrong[0][0]}: ") as caught:
        embed_corpus(encoder, path, tmp_path / "stop", **options)
    assert wrong[0][1] in str(caught.value)
    report = embed_corpus(encoder, path, tmp_path / "out", on_error="skip", **options)
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [(reject["file"], reject["line"]) for reject in rejects] == [(str(path), line) for line, _ in wrong]
    for reject, (_, said) in zip(rejects, wrong, strict=True):
        assert said in reject["reason"]
    header = form == "csv"
    assert (report.rejected, report.texts) == (len(wrong), len(rows) - len(wrong) - header)


def test_a_quote_too_many_costs_its_own_row_only():
    many = csv.field_size_limit() // 5
    lines = [b't\n"never closed\n', b"good\n" * many, b'"nor this one\n', b"good\n" * 3]
    rows = list(read_rows(io.BytesIO(b"".join(lines)), "x.csv", "csv", ["t"]))
    bad = [number for number, row in rows if isinstance(row, BadRow)]
    assert bad == [2, many + 3]
    assert [number for number, _ in rows] == list(range(2, many + 7))


def test_a_very_long_line_is_not_read_into_memory(tmp_path):
    class File:
        """50 MB without an end of line, which are never in memory at once."""

        left, most = 50 << 20, 0

        def readline(self, size):
            self.most = max(self.most, size)
            size = min(size, self.left)
            self.left -= size
            return b"x" * size

    file = File()
    [(line, bad)] = read_rows(file, "x.txt", "text")
    assert line == 1
    assert "longer than" in str(bad)
    assert file.most < 5 << 20


def test_a_damaged_archive_stops_whatever_is_asked_for(encoder, tmp_path):
    path = tmp_path / "x.txt.gz"
    path.write_bytes(gzip.compress(LINES.encode() * 1000)[:-20])
    with pytest.raises(ValueError, match=r"x\.txt\.gz: not a gzip file, or damaged"):
        embed_corpus(encoder, path, tmp_path / "out", on_error="skip")


def test_windows_are_bounded_in_letters(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(sources_module, "LETTERS", 10)
    seen = []
    encode = SentenceEncoder.encode
    monkeypatch.setattr(SentenceEncoder, "encode", lambda *a, **o: seen.append(len(a[1])) or encode(*a, **o))
    embed_corpus(encoder, write(tmp_path / "x.txt", "hello\n" * 7), tmp_path / "out", shard_rows=5)
    assert seen == [0, 2, 2, 1, 2, 0]


def test_a_text_that_the_model_refuses_is_said_by_its_row(model, tmp_path):
    strict = SentenceEncoder.from_pretrained(model, truncation="error")
    path = write(tmp_path / "x.txt", "hello\n" + "the cat " * 50)
    with pytest.raises(ValueError, match=r"among .*x\.txt:1 to .*x\.txt:2: texts longer than 40 tokens"):
        embed_corpus(strict, path, tmp_path / "out")


def test_several_processes_keep_the_order(encoder, tmp_path):
    path = write(tmp_path / "x.txt", "".join(f"the cat {i}\n" for i in range(50)))
    reports = [
        embed_corpus(encoder, path, tmp_path / str(n), shard_rows=4, processes=n, keep_texts=True) for n in (1, 2)
    ]
    assert reports[0].tokens == reports[1].tokens
    for file in (tmp_path / "1").glob("shard-*"):
        assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes()
    assert len(list((tmp_path / "2").iterdir())) == len(list((tmp_path / "1").iterdir())) == 27


# --- What Ray Data runs; tests/optional/test_ray.py runs it there


def test_the_actor_class_adds_vectors_to_a_table(encoder):
    pyarrow = pytest.importorskip("pyarrow")
    texts = [f"the cat {i} sat" for i in range(120)]
    table, vectors = pyarrow.table({"t": texts, "n": range(120)}), encoder.encode(texts, truncate_dim=8)
    found = Embedder(encoder, "t", truncate_dim=8)(table)
    assert found.schema == table.schema.append(pyarrow.field("embedding", pyarrow.list_(pyarrow.float32(), 8)))
    assert np.allclose(np.array(found["embedding"].to_pylist()), vectors, atol=1e-6)
    with pytest.raises(ValueError, match="int8 needs ranges here"):
        Embedder(encoder, precision="int8")
    ranges = find_ranges(vectors, "int8")
    found = Embedder(encoder, "t", truncate_dim=8, precision="int8", ranges=ranges)(table)
    near = np.array(found["embedding"].to_pylist()) - quantize_embeddings(vectors, "int8", ranges).astype(int)
    assert np.abs(near).max() <= 1


def test_a_window_that_is_missing_is_noticed(tmp_path):
    parts = [Part(0, i, Window([], [], Position()), [], 0, {"rows": 1} if i < 2 else {}) for i in range(3)]
    for lost in range(3):
        with pytest.raises(JobError, match="Ray has lost a part"):
            _gather(tmp_path, [part for part in parts if part.number != lost], 1, False)


def test_a_bad_row_can_be_sent_from_another_process():
    bad = BadRow("x.parquet", 3, "a reason", "parquet")
    sent = pickle.loads(pickle.dumps(bad))
    assert (str(sent), sent.file, sent.line, sent.reason) == ("x.parquet, row 3: a reason", "x.parquet", 3, "a reason")


# --- The command


def test_the_command_prints_a_report(model, tmp_path, capsys):
    path = write(tmp_path / "x.jsonl", '{"t": "the cat"}\nnothing\n{"t": "' + "the cat " * 50 + '"}\n')
    line = [
        "embed-corpus",
        str(path),
        "--field",
        "t",
        "--on-error",
        "skip",
        "-o",
        str(tmp_path / "out"),
        "-m",
        str(model),
    ]
    assert main([*line, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report.pop("seconds") > 0
    assert report.pop("texts_per_second") > 0
    assert report == {
        "texts": 2, "tokens": 44, "truncated": 1, "rejected": 1, "shards": 1, "resumed": 0,
    }  # fmt: skip
    assert main(line) == 0
    assert "resumed" in capsys.readouterr().out


def test_lines_of_stdin(model, tmp_path):
    line = [
        sys.executable,
        "-m",
        "minibert",
        "embed-corpus",
        "-",
        "-o",
        str(tmp_path / "out"),
        "-m",
        str(model),
        "--json",
    ]
    done = subprocess.run(line, input=LINES.encode(), capture_output=True, check=True)
    assert json.loads(done.stdout)["texts"] == 6
    assert content(tmp_path / "out")[0][5] == "stdin:6"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "none.txt: No such file or directory"),
        (["--engine", "ray"], "engine='ray' needs Ray: pip install \"minibert-encoder[ray]\""),
    ],
)
def test_wrong_arguments_cost_no_import_of_torch(tmp_path, flags, said):
    code = (
        "import sys\nfrom minibert.cli import main\nsys.modules['ray'] = None\n"
        f"print(main(['embed-corpus', 'none.txt', '-o', {str(tmp_path)!r}, *{flags}]), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
    assert done.stderr == f"minibert: {said}\n"
