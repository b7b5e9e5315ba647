"""tools/paper: the tables of Sentence-BERT, with a tiny model on tiny files."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_folder import TEXTS, write_encoder

sys.path.append(str(Path(__file__).parent.parent / "tools"))

from paper import table6, table7
from paper.model import small_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    modules = [("Pooling", {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}), ("Normalize", {})]
    return write_encoder(tmp_path_factory.mktemp("encoder"), *modules)


@pytest.fixture
def files(tmp_path):
    """SNLI, and the STS Benchmark's train and dev parts."""
    pairs = [(first, second) for first in TEXTS[:3] for second in TEXTS[3:] if second]
    words = ["entailment", "neutral", "contradiction"]
    nli = "".join(f"{words[i % 3]}\t{first}\t{second}\n" for i, (first, second) in enumerate(pairs))
    sts = "".join(f"genre\tfile\tyear\t{i}\t{i % 6}\t{first}\t{second}\n" for i, (first, second) in enumerate(pairs))
    paths = [tmp_path / name for name in ("snli.tsv", "sts-train.csv", "sts-dev.csv")]
    for path, text in zip(paths, (nli, sts, sts), strict=True):
        path.write_text(text, encoding="utf-8")
    return [str(path) for path in paths]


def test_the_small_model_is_the_first_layers_and_its_vectors_are_as_pooled(folder):
    encoder = small_encoder(folder, 1, "mean")
    assert len(encoder.model.layers) == 1
    states = encoder.encode(TEXTS[0], output_value="token_embeddings")
    assert np.allclose(encoder.encode(TEXTS[0]), states.mean(0), atol=1e-5)
    assert encoder.encode(TEXTS[0]).dot(encoder.encode(TEXTS[0])) > 1.1  # not of length 1


@pytest.mark.parametrize("layers", [0, 3])
def test_layers_that_are_not_there(folder, layers):
    with pytest.raises(ValueError, match=f"has 2 layers, so there can be 1 to 2, not {layers}"):
        small_encoder(folder, layers)


def test_table_6_has_every_row_with_the_papers_figure(folder, files, capsys):
    arguments = [*files, "--model", str(folder), "--layers", "1", "--steps", "2", "--seeds", "2"]
    assert table6.main(arguments) == 0
    output = capsys.readouterr()
    assert output.out.startswith("A small-scale re-run, not a reproduction: 1 layers of ")
    rows = [re.split(r"  +", line.strip()) for line in output.out.splitlines()]
    assert [row[:1] + row[3:4] + row[5:] for row in rows if row[0] in table6.POOLINGS] == [
        ["mean", "80.78", "87.44"],
        ["max", "79.07", "69.92"],
        ["cls", "79.80", "86.62"],
    ]
    assert [row[2] for row in rows if row[0].startswith("(")] == [f"{x:.2f}" for x in table6.CONCATENATIONS.values()]
    assert output.err.count("seed 1") == 3 + 3 + 6  # the mean of u, v, |u-v| is in both halves


def test_table_7_races_three_ways_to_the_same_vectors(folder, files, capsys):
    assert table7.main([files[1], "--model", str(folder), "--layers", "2", "--rounds", "1"]) == 0
    rows = [re.split(r"  +", line.strip()) for line in capsys.readouterr().out.splitlines()]
    names = [row[0] for row in rows if row[0] in table7.WAYS]
    assert names == ["given order", "sorted", "minibert"]
    assert [row[3:] for row in rows if row[0] == "sorted"] == [["83", "+89 %", "2042", "+48 %"]]


def test_table_7_refuses_a_way_that_gives_other_vectors(folder, monkeypatch):
    monkeypatch.setitem(table7.WAYS, "sorted", lambda encoder, sentences: encoder.encode(sentences[::-1]))
    with pytest.raises(ValueError, match="sorted gives other vectors"):
        table7.race(small_encoder(folder, 2), TEXTS, 1)


def test_the_sorted_way_puts_the_vectors_back_in_their_places(folder):
    encoder = small_encoder(folder, 2)
    assert np.allclose(table7.by_length(encoder, TEXTS * 20), encoder.encode(TEXTS * 20), atol=1e-5)
