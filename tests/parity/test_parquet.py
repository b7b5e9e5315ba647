"""Examples from Parquet, as pyarrow (which minibert reads it with, and does without otherwise) writes it."""

import pyarrow
import pytest
from pyarrow import parquet

from minibert.training.reading import NLI_CLASSES, read_examples


def write(path, **columns):
    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


def test_columns_and_labels_are_read_across_row_groups(tmp_path):
    path = write(
        tmp_path / "x.parquet", b=["1", "2", "3"], more=[None, None, 0], score=[0, 5, 2.5], a=["x", "y", "日本"]
    )
    examples = read_examples(path, texts=["a", "b"], label="score", scale=(0, 5))
    assert examples.columns == [["x", "y", "日本"], ["1", "2", "3"]]
    assert examples.labels.tolist() == [0, 1, 0.5]


def test_labels_may_be_words(tmp_path):
    path = write(tmp_path / "x.parquet", text=["x", "y"], label=["-", "neutral"])
    assert read_examples(path, texts=["text"], label="label", classes=NLI_CLASSES).labels.tolist() == [1]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["z"], "no column 'z', only 'a'"),
        ([1], "there is no column 1, only 'a'"),
        (["a"], "row 3: column 'a' must hold a text, not None"),
    ],
)
def test_what_is_wrong_is_said_with_its_row(tmp_path, texts, said):
    with pytest.raises(ValueError, match=said):
        read_examples(write(tmp_path / "x.parquet", a=["x", "y", None]), texts=texts)


def test_an_empty_table_and_a_damaged_file_are_said(tmp_path):
    with pytest.raises(ValueError, match="the file has no examples"):
        read_examples(write(tmp_path / "x.parquet", a=pyarrow.array([], pyarrow.string())), texts=["a"])
    content = write(tmp_path / "y.parquet", a=["x"] * 100).read_bytes()
    for damaged in (b"", content[:-30], b"no Parquet at all"):
        (tmp_path / "y.parquet").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"y\.parquet"):
            read_examples(tmp_path / "y.parquet", texts=["a"])
