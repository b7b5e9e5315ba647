"""The search for tokens of a corpus is exact, is kept in a folder, and says where heads look."""

import errno
import json
import os

import numpy as np
import pytest
import torch
from tiny_folder import MEAN, TEXTS, write_encoder

from minibert import SentenceEncoder
from minibert.bulk.job import JobError
from minibert.config import FileError
from minibert.research import capture, prune_heads
from minibert.research.corpus import Match, TokenIndex, word_at
from minibert.truncation import TooLongError

LINES = [*TEXTS, "a dog eats the mat", "the cat is on the dog", "who eats food", "a b c d e f g h"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("tiny"), ("Pooling", MEAN))


@pytest.fixture(scope="module")
def encoder(folder):
    return SentenceEncoder.from_pretrained(folder, device="cpu")


def brute_force(encoder, place, heads=None):
    """Line, position and vector of every token, by capture."""
    with capture(encoder, place) as values:
        encoder.encode(LINES, fast=False)
    rows = []
    for line, value in enumerate(values[place]):
        x = value if heads is None else torch.cat([value[head] for head in heads], dim=-1)
        rows += [(line, position, vector) for position, vector in enumerate(x)]
    return rows


@pytest.mark.parametrize(("layer", "heads"), [(0, None), (1, None), (0, 2), (1, [3, 0])], ids=str)
def test_the_nearest_are_those_of_brute_force(encoder, layer, heads):
    index = TokenIndex.build(encoder, LINES, layer=layer, heads=heads)
    numbers = None if heads is None else sorted([heads] if isinstance(heads, int) else heads)
    place = f"layers.{layer}" if heads is None else f"layers.{layer}.attention.core"
    rows = brute_force(encoder, place, numbers)
    vectors = torch.stack([vector for *_, vector in rows])
    queries = vectors[[3, 17, 40]]
    cosines = torch.nn.functional.cosine_similarity(queries[:, None], vectors[None], dim=-1)
    for matches, scores in zip(index.search(queries, len(rows)), cosines, strict=True):
        assert {match[:2] for match in matches} == {row[:2] for row in rows}
        place_of = {row[:2]: i for i, row in enumerate(rows)}
        for match in matches:
            assert match.score == pytest.approx(float(scores[place_of[match[:2]]]), abs=1e-5)
        assert [match.score for match in matches] == sorted((match.score for match in matches), reverse=True)


def test_a_match_has_its_token_and_word(encoder):
    index = TokenIndex.build(encoder, LINES, layer=1)
    vectors = index.vectors_of("the world")
    assert vectors.shape == (4, 32)
    [nearest] = index.search(vectors[2], 1)
    assert nearest == [Match(5, 2, "world", "world", pytest.approx(1, abs=1e-5))]
    assert index.tokens(5) == ["[CLS]", "the", "world", "[SEP]"]
    assert index.search(np.empty((0, 32), np.float32)) == []
    with pytest.raises(ValueError, match="width 8, and the corpus is of width 32"):
        index.search(vectors[:, :8])


def test_a_word_is_put_together_from_its_pieces():
    tokens = ["[CLS]", "em", "##bed", "##ding", "s", "##", "[SEP]"]
    assert [word_at(tokens, i) for i in range(7)] == ["[CLS]", *["embedding"] * 3, "s", "s", "[SEP]"]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_every_token_of_the_last_layer_is_there_whatever_the_pooling_reads(folder, pooling):
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu", pooling=pooling)
    index = TokenIndex.build(encoder, LINES, layer=1)
    expected = torch.stack([vector for *_, vector in brute_force(encoder, "layers.1")])
    assert np.allclose(index.vectors, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5)


def test_where_heads_look(encoder, monkeypatch):
    index = TokenIndex.build(encoder, LINES, layer=0)
    places = [(7, 2), (0, 5), (7, 5), (4, 1), (0, 0)]  # line 4 is empty: [CLS] [SEP]
    monkeypatch.setattr(encoder, "_max_seq_length", 4)  # the lines stay as they were
    found = index.attended(places)
    monkeypatch.undo()
    with capture(encoder, "layers.*.attention.core.probs") as values:
        encoder.encode(LINES)
    assert [part.shape for part in found] == [(2, 5, 4)] * 2
    for layer, best in enumerate(found):
        for i, (line, position) in enumerate(places):
            probs = values[f"layers.{layer}.attention.core.probs"][line][:, position]
            assert best[0, i].tolist() == probs.argmax(-1).tolist()
            if line != 4:
                assert best[1, i].tolist() == (probs[:, 1:-1].argmax(-1) + 1).tolist()
    assert [part.shape for part in index.attended([])] == [(2, 0, 4)] * 2


def test_layers_of_different_heads(folder):
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu")
    prune_heads(encoder, {0: [1]})
    assert [part.shape[2] for part in TokenIndex.build(encoder, LINES, layer=0).attended([(0, 1)])] == [3, 4]
    with pytest.raises(ValueError, match="layer 0 has no head 3, only 0 to 2"):
        TokenIndex.build(encoder, LINES, layer=0, heads=3)


def test_a_folder_is_opened_again_without_computing(encoder, tmp_path, monkeypatch):
    first = TokenIndex.build(encoder, LINES, layer=1, heads=[1], folder=tmp_path / "index")
    with monkeypatch.context() as patched:
        patched.setattr(encoder, "_compute", None)
        second = TokenIndex.build(encoder, LINES, layer=1, heads=[1], folder=tmp_path / "index")
    assert isinstance(second.vectors, np.memmap)
    assert np.array_equal(first.vectors, second.vectors)
    queries = first.vectors[:3]
    assert (
        first.search(queries)
        == second.search(queries)
        == TokenIndex.build(encoder, LINES, layer=1, heads=[1]).search(queries)
    )


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"layer": 0}, r"options\.layer: 1, and now 0"),
        ({"heads": [0, 2]}, r"options\.heads: \[\], and now \[0, 2\]"),
        ({"lines": [*LINES, "hello"]}, r"sources\.lines: 10, and now 11"),
        ({"lines": [*LINES[:-1], "hello"]}, r"sources\.sha256: "),
        ({"lines": [LINES[-1], *LINES[:-1]]}, r"sources\.sha256: "),
        ({"pooling": "cls"}, r"model\.sha256: "),
    ],
    ids=str,
)
def test_the_folder_of_another_index_is_refused_by_name(folder, encoder, tmp_path, changed, named):
    given = {"lines": LINES, "layer": 1, "folder": tmp_path}
    TokenIndex.build(encoder, **given)
    before = (tmp_path / "vectors.npy").read_bytes()
    other = SentenceEncoder.from_pretrained(folder, device="cpu", pooling=changed.get("pooling", "mean"))
    given |= {name: value for name, value in changed.items() if name != "pooling"}
    with pytest.raises(JobError, match=named):
        TokenIndex.build(other, **given)
    assert (tmp_path / "vectors.npy").read_bytes() == before


def test_a_folder_that_was_not_finished_is_computed_anew(encoder, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TokenIndex, "_fill", stop)
        with pytest.raises(KeyboardInterrupt):
            TokenIndex.build(encoder, LINES, layer=0, folder=tmp_path)
    index = TokenIndex.build(encoder, LINES, layer=0, folder=tmp_path)
    assert np.array_equal(index.vectors, TokenIndex.build(encoder, LINES, layer=0).vectors)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system can't reserve a file's room")
def test_a_full_disk_is_an_error_before_anything_is_computed(encoder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        patched.setattr(encoder, "_compute", None)
        with pytest.raises(OSError, match=r"No space left.*vectors\.npy"):
            TokenIndex.build(encoder, LINES, layer=0, folder=tmp_path)
    assert len(TokenIndex.build(encoder, LINES, layer=0, folder=tmp_path).search(np.ones(32, np.float32))[0]) == 10


def test_other_files_in_the_folder_are_left_alone(encoder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(JobError, match="the folder has files"):
        TokenIndex.build(encoder, LINES, layer=0, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"no array"], ids=["empty", "cut", "other"])
def test_a_damaged_file_is_refused_by_name(encoder, tmp_path, damage):
    TokenIndex.build(encoder, LINES, layer=0, folder=tmp_path)
    (tmp_path / "vectors.npy").write_bytes(damage)
    with pytest.raises(FileError, match=r"vectors\.npy"):
        TokenIndex.build(encoder, LINES, layer=0, folder=tmp_path)


def test_vectors_of_another_size_are_refused(encoder, tmp_path):
    TokenIndex.build(encoder, LINES, layer=0, folder=tmp_path)
    np.save(tmp_path / "vectors.npy", np.zeros((len(LINES), 32), np.float32))
    with pytest.raises(FileError, match=r"vectors\.npy: \(10, 32\), and the manifest says"):
        TokenIndex.build(encoder, LINES, layer=0, folder=tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text())["complete"]


@pytest.mark.parametrize(
    ("lines", "options", "error", "said"),
    [
        ([], {"layer": 0}, ValueError, "the corpus has no lines"),
        (["a", 3], {"layer": 0}, TypeError, "text 1 is of type int"),
        (["a", None], {"layer": 0}, TypeError, "text 1 is None"),
        ({"a": 1}, {"layer": 0}, TypeError, "not dict"),
        (["a"], {"layer": 2}, ValueError, "there is no layer 2, only 0 to 1"),
        (["a"], {"layer": -1}, ValueError, "there is no layer -1"),
        (["a"], {"layer": 0, "heads": [0, 4]}, ValueError, "layer 0 has no head 4, only 0 to 3"),
        (["a"], {"layer": 0, "heads": "0"}, TypeError, "heads must be whole numbers"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(encoder, lines, options, error, said):
    with pytest.raises(error, match=said):
        TokenIndex.build(encoder, lines, **options)


def test_a_line_that_is_too_long_is_cut_and_counted_or_refused(encoder, monkeypatch):
    lines = ["hello", "a " * 50]
    monkeypatch.setattr(encoder, "truncation", "report")
    index = TokenIndex.build(encoder, lines, layer=0)
    assert index.truncation.lost == {1: 12}
    assert len(index.tokens(1)) == 40
    monkeypatch.setattr(encoder, "truncation", "error")
    with pytest.raises(TooLongError, match="the first is text 1"):
        TokenIndex.build(encoder, lines, layer=0)
