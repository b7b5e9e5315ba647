"""The model that the package carries: there without a network, small, with CLS pooling, and always the same."""

import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from minibert import Bert, SentenceEncoder, Tokenizer
from minibert.checkpoint import builtin
from minibert.checkpoint.hub import DEFAULT_MODEL, open_files
from minibert.checkpoint.weights import open_weights
from minibert.pooling import Normalize, Pooling

TEXTS = ["A man is eating food.", "Someone has a meal.", "The sky is blue."]
# The first eight numbers of each vector, by the weights that `tools/make_builtin` left.
FIRST = [
    [0.027524, 0.010348, -0.011657, 0.037718, -0.087047, -0.047083, 0.096791, -0.027317],
    [0.000857, 0.036054, -0.013562, 0.041198, -0.141364, -0.019462, 0.133323, -0.044263],
    [0.005881, 0.050654, 0.013445, -0.023415, 0.069316, -0.028135, 0.070028, -0.042948],
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


def test_fewer_bits_on_the_disk_are_computed_with_in_float32():
    model = Bert.from_pretrained(DEFAULT_MODEL)
    assert {str(value.dtype) for value in model.parameters()} == {"torch.float32"}
    stored = open_weights(open_files(DEFAULT_MODEL))
    narrow = {name for name, tensor in stored.items() if tensor.dtype == torch.float8_e4m3fn}
    assert [name.removeprefix("bert.") for name in narrow] == ["embeddings.word_embeddings.weight"]
    assert {str(tensor.dtype) for name, tensor in stored.items() if name not in narrow} == {"torch.float16"}


def test_every_word_in_english_letters_can_be_spelt():
    tokenizer = Tokenizer.from_pretrained(DEFAULT_MODEL)
    words = "zyzzyva qwertyuiop 31415 don't? naïve (x+y)=z; @home #1 $5 50% a_b \\ ^ ~ | <tag> `code` [list] {set}"
    assert "[UNK]" not in tokenizer.tokenize(words)


def test_the_card_says_what_a_reader_must_know():
    card = (builtin.FOLDER / "README.md").read_text(encoding="utf-8")
    for word in ("language: en", "CC BY-SA 4.0", "Spearman", "tools/make_builtin", "## Limits"):
        assert word in card
