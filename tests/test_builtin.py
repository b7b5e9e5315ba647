"""The model that the package carries: there without a network, small, with CLS pooling, and always the same."""

import socket
import subprocess
import sys

import numpy as np
import pytest

from minibert import Bert, SentenceEncoder, Tokenizer
from minibert.checkpoint import builtin
from minibert.checkpoint.hub import DEFAULT_MODEL, open_files
from minibert.checkpoint.weights import open_weights
from minibert.pooling import Normalize, Pooling

TEXTS = ["A man is eating food.", "Someone has a meal.", "The sky is blue."]
# The first eight numbers of each vector, by the weights that `tools/make_builtin` left.
FIRST = [
    [0.050115, 0.001353, -0.010450, 0.026810, -0.117321, -0.034278, 0.108329, -0.057670],
    [-0.014311, 0.039589, -0.028847, 0.020915, -0.124091, -0.045127, 0.114347, -0.048056],
    [0.010619, 0.002905, 0.051465, 0.028265, 0.028092, 0.014660, 0.089001, -0.019848],
]


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder.from_pretrained(device="cpu")


def test_it_needs_no_network_at_all(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)  # whoever opens one gets a TypeError
    assert SentenceEncoder.from_pretrained(device="cpu").encode(TEXTS).shape == (3, 384)


def test_the_command_line_takes_it_where_no_model_is_named():
    run = [sys.executable, "-m", "minibert", "embed", "A man is eating food."]
    found = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True).stdout
    assert len(found.split()) >= 384


def test_it_is_at_most_16_megabytes():
    assert sum(path.stat().st_size for path in builtin.FOLDER.rglob("*")) <= 16_000_000


def test_it_pools_by_cls_and_gives_vectors_of_length_1(encoder):
    assert isinstance(encoder.pooling, Pooling)
    assert encoder.pooling.modes == ("cls",)
    assert [type(module) for module in encoder.head] == [Normalize]
    np.testing.assert_allclose(np.linalg.norm(encoder.encode(TEXTS), axis=1), 1, atol=1e-6)


def test_the_vectors_are_those_of_the_published_weights(encoder):
    np.testing.assert_allclose(encoder.encode(TEXTS)[:, :8], FIRST, atol=1e-5)


def test_what_means_the_same_is_nearer(encoder):
    vectors = encoder.encode(TEXTS)
    eating, meal, sky = vectors @ vectors[0]
    assert eating > meal > sky + 0.2


def test_halves_on_the_disk_are_computed_with_in_float32():
    model = Bert.from_pretrained(DEFAULT_MODEL)
    assert {str(value.dtype) for value in model.parameters()} == {"torch.float32"}
    stored = open_weights(open_files(DEFAULT_MODEL))
    assert {str(tensor.dtype) for tensor in stored.values()} == {"torch.float16"}


def test_every_word_in_english_letters_can_be_spelt():
    tokenizer = Tokenizer.from_pretrained(DEFAULT_MODEL)
    words = "zyzzyva qwertyuiop 31415 don't? naïve (x+y)=z; @home #1 $5 50% a_b \\ ^ ~ | <tag> `code` [list] {set}"
    assert "[UNK]" not in tokenizer.tokenize(words)


def test_the_card_says_what_a_reader_must_know():
    card = (builtin.FOLDER / "README.md").read_text(encoding="utf-8")
    for word in ("language: en", "CC BY-SA 4.0", "Spearman", "tools/make_builtin", "## Limits"):
        assert word in card
