"""Examples from files: the right columns and labels, and one error that says where a file is wrong."""

import gzip
import json
import re
import sys

import numpy as np
import pytest
import torch

from minibert.training.reading import NLI_CLASSES, read_examples, read_pairs

ROWS = [("2.5", "A man eats.", 'Someone, somewhere, "eats".'), ("5", "the cat", "日本語"), ("0", "", "a world")]
FIRST, SECOND = [row[1] for row in ROWS], [row[2] for row in ROWS]


def write(folder, name, text):
    path = folder / name
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def quoted(cell):
    return '"' + cell.replace('"', '""') + '"'


TSV = "score\tfirst\tsecond\n" + "".join("\t".join(row) + "\n" for row in ROWS)
CSV = "score,first,second\r\n" + "".join(",".join(map(quoted, row)) + "\r\n" for row in ROWS)
JSONL = "".join(json.dumps({"second": c, "more": 1, "score": float(a), "first": b}) + "\n" for a, b, c in ROWS)


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(("name", "text"), [("x.tsv", TSV), ("x.csv", CSV), ("x.jsonl", JSONL), ("X.CSV", CSV)])
def test_every_form_of_text_gives_the_same_columns_and_labels(tmp_path, name, text, packed):
    examples = read_examples(write(tmp_path, name + packed, text), texts=["first", "second"], label="score")
    assert list(examples.columns) == [FIRST, SECOND]
    assert torch.equal(examples.labels, torch.tensor([2.5, 5, 0]))


def test_columns_come_in_the_order_asked_for_and_labels_only_if_asked_for(tmp_path):
    examples = read_examples(write(tmp_path, "x.tsv", TSV), texts=["second", "first", "second"])
    assert list(examples.columns) == [SECOND, FIRST, SECOND]
    assert examples.labels is None


def test_columns_by_number_count_from_one_and_there_is_no_header(tmp_path):
    path = write(tmp_path, "x.tsv", TSV.split("\n", 1)[1])
    examples = read_examples(path, texts=[2, 3], label=1)
    assert list(examples.columns) == [FIRST, SECOND]
    assert examples.labels.tolist() == [2.5, 5, 0]


def test_a_tab_separated_file_has_no_quoting_and_its_last_line_needs_no_end(tmp_path):
    examples = read_examples(write(tmp_path, "x.tsv", '"one\ttwo"\n\'three\t"four'), texts=[1, 2])
    assert list(examples.columns) == [['"one', "'three"], ['two"', '"four']]


def test_only_line_feeds_end_a_line(tmp_path):
    odd = "a\u2028b\x85c\x0cd\x1ce"  # str.splitlines would make five lines of it
    assert read_examples(write(tmp_path, "x.tsv", f"{odd}\tx\r\ny\tz\n"), texts=[1]).columns == [[odd, "y"]]


def test_a_quoted_cell_may_hold_line_ends_and_later_places_are_still_right(tmp_path):
    path = write(tmp_path, "x.csv", 'a,"two\nlines"\nb\n')
    assert read_examples(write(tmp_path, "y.csv", 'a,"two\nlines"\n'), texts=[2]).columns == [["two\nlines"]]
    with pytest.raises(ValueError, match=r"x\.csv, line 3: 1 columns"):
        read_examples(path, texts=[2])


def test_a_byte_order_mark_is_no_text(tmp_path):
    for name, text in (("x.tsv", TSV), ("x.csv", CSV)):
        path = write(tmp_path, name, "\ufeff" + text)
        assert read_examples(path, texts=["first"], label="score").labels.tolist() == [2.5, 5, 0]


def test_another_form_than_the_name_says_can_be_told(tmp_path):
    assert read_examples(write(tmp_path, "x.csv", TSV), texts=["first"], form="tsv").columns == [FIRST]


def test_a_scale_becomes_nought_to_one(tmp_path):
    examples = read_examples(write(tmp_path, "x.tsv", TSV), texts=["first"], label="score", scale=(0, 5))
    assert examples.labels.tolist() == [0.5, 1, 0]
    assert examples.labels.dtype == torch.float32


def test_words_become_classes_and_pairs_without_a_majority_are_left_out(tmp_path):
    lines = "".join(f"{word}\ttext of {word}\n" for word in ("neutral", "-", "contradiction", "entailment"))
    examples = read_examples(write(tmp_path, "x.tsv", lines), texts=[2], label=1, classes=NLI_CLASSES)
    assert examples.labels.tolist() == [1, 2, 0]
    assert examples.labels.dtype == torch.long
    assert examples.columns == [["text of neutral", "text of contradiction", "text of entailment"]]


def test_any_words_can_be_classes_and_so_can_numbers(tmp_path):
    path = write(tmp_path, "x.jsonl", '{"t": "a", "l": 1}\n{"t": "b", "l": 2}\n')
    assert read_examples(path, texts=["t"], label="l", classes=["2", "1"]).labels.tolist() == [1, 0]


def test_read_pairs_reads_the_sts_benchmark_as_published(tmp_path):
    path = write(tmp_path, "sts-dev.csv", 'genre\tfile\t2012\t1\t4.25\tA "man".\tA man.\textra\n')
    scores, first, second = read_pairs(path)
    assert np.array_equal(scores, np.array([4.25]))
    assert (first, second) == (['A "man".'], ["A man."])


def damaged_gzip():
    return gzip.compress(b"a\tb\n" * 1000, mtime=0)[:-20]


@pytest.mark.parametrize(
    ("name", "content", "options", "said"),
    [
        ("x.tsv", "", {}, "the file has no examples"),
        ("x.csv", "", {}, "the file has no examples"),
        ("x.jsonl", "", {"texts": ["a"]}, "the file has no examples"),
        ("x.tsv", "a\tb\n", {"texts": ["a"]}, "the file has no examples"),
        ("x.tsv", "", {"texts": ["a"]}, "the file has no examples"),
        ("x.tsv", "a\tb\na\n", {}, "line 2: 1 columns, where at least 2 were expected"),
        ("x.tsv", "a\tb\n\na\tb\n", {}, "line 2: 1 columns"),
        ("x.csv", "a,b\na\n", {}, "line 2: 1 columns"),
        ("x.csv", 'a,"b\n', {}, "line 1: not CSV"),
        ("x.tsv", b"a\tb\nc\tcaf\xe9\n", {}, "line 2: not UTF-8"),
        ("x.csv", b"a,b\nc,caf\xe9\n", {}, "line 2: not UTF-8"),
        ("x.jsonl", b'{"a": "caf\xe9"}\n', {"texts": ["a"]}, "line 1: not UTF-8"),
        ("x.tsv", "a\tb\nc\td\n", {"texts": ["z"]}, "no column 'z', only 'a', 'b'"),
        ("x.jsonl", '{"a": "b"}\n{"b": "c"}\n', {"texts": ["a"]}, "line 2: there is no column 'a', only 'b'"),
        ("x.jsonl", '{"a": "b"}\n{"a": \n', {"texts": ["a"]}, "line 2: not JSON"),
        ("x.jsonl", '["a"]\n', {"texts": ["a"]}, "line 1: not a JSON object"),
        ("x.jsonl", '{"a": null}\n', {"texts": ["a"]}, "line 1: column 'a' must hold a text, not None"),
        ("x.jsonl", '{"a": "b"}\n', {}, "line 1: there is no column 1, only 'a'"),
        ("x.tsv", "1\ta\n6\tb\n", {"texts": [2], "label": 1, "scale": (0, 5)}, "line 2: the score 6 is not on the"),
        ("x.tsv", "1\ta\n-1\tb\n", {"texts": [2], "label": 1, "scale": (0, 5)}, "scale from 0 to 5"),
        ("x.tsv", "score\ta\n", {"texts": [2], "label": 1}, "line 1: the label 'score' is not a finite number"),
        ("x.tsv", "nan\ta\n", {"texts": [2], "label": 1}, "line 1: the label 'nan' is not a finite number"),
        ("x.jsonl", '{"a": "b", "l": null}\n', {"texts": ["a"], "label": "l"}, "the label None is not a finite number"),
        ("x.tsv", "maybe\ta\n", {"texts": [2], "label": 1, "classes": ["yes", "no"]}, "'maybe' is not one of yes, no"),
        ("x.tsv", "a\tb\n", {"texts": [0]}, "there is no column 0"),
        ("x.tsv", "a\tb\n", {"texts": []}, "texts must be the columns"),
        ("x.tsv", "a\tb\n", {"texts": "ab"}, "texts must be the columns"),
        ("x.tsv", "a\tb\n", {"texts": 1}, "texts must be the columns"),
        ("x.tsv", "a\tb\n", {"scale": (0, 5)}, "name their column"),
        ("x.tsv", "1\tb\n", {"texts": [2], "label": 1, "scale": (5, 0)}, "not from 5 to 0"),
        ("x.tsv", "1\tb\n", {"texts": [2], "label": 1, "scale": (0, 1), "classes": ["1"]}, "not both"),
        ("x.xlsx", "a\tb\n", {}, "or the form must be given"),
        ("x.tsv", "a\tb\n", {"form": "excel"}, "or the form must be given"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path, name, content, options, said):
    path = write(tmp_path, name, content)
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        read_examples(path, **{"texts": [1, 2]} | options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [damaged_gzip(), b"no gzip at all", damaged_gzip()[:500] + b"x" * 40])
def test_a_damaged_gzip_is_said(tmp_path, content):
    (tmp_path / "x.tsv.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.tsv\.gz.*gzip"):
        read_examples(tmp_path / "x.tsv.gz", texts=[1])


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_examples(tmp_path / "nowhere.tsv", texts=[1])


def test_without_pyarrow_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        read_examples(write(tmp_path, "x.parquet", b"PAR1"), texts=["a"])
