"""Vectors in fewer bytes: against slow loops, number by number."""

import math

import numpy as np
import pytest

from minibert.vectors import PRECISIONS, quantize_embeddings

VECTORS = np.random.default_rng(0).standard_normal((20, 19)).astype(np.float32)


def bits(vector):
    """Eight dimensions to a byte, the first the highest bit; what is missing at the end is 0."""
    padded = [*(x > 0 for x in vector), *[False] * (-len(vector) % 8)]
    return [
        sum(bit << (7 - i) for i, bit in enumerate(padded[start : start + 8])) for start in range(0, len(padded), 8)
    ]


def levels(vectors, ranges=None):
    """0 to 255 between the lowest and the highest of each dimension."""
    low, high = ranges if ranges is not None else (vectors.min(0), vectors.max(0))
    steps = [(h - low_) / np.float32(255) or np.float32(1) for low_, h in zip(low, high, strict=True)]
    return [
        [min(255, max(0, math.floor((x - low_) / step))) for x, low_, step in zip(row, low, steps, strict=True)]
        for row in vectors
    ]


def test_float32_is_left_as_it_is():
    assert np.array_equal(quantize_embeddings(VECTORS, "float32"), VECTORS)


def test_ubinary_is_a_bit_for_each_dimension_above_0():
    found = quantize_embeddings(VECTORS, "ubinary")
    assert (found.dtype, found.shape) == (np.uint8, (20, 3))
    assert found.tolist() == [bits(row) for row in VECTORS]


def test_binary_is_the_same_less_128():
    found = quantize_embeddings(VECTORS, "binary")
    assert found.dtype == np.int8
    assert found.tolist() == [[byte - 128 for byte in bits(row)] for row in VECTORS]


def test_0_is_no_bit():
    assert quantize_embeddings(np.array([[0.0, -0.0, 1e-30, -1e-30]]), "ubinary").tolist() == [[0b00100000]]


@pytest.mark.parametrize(("precision", "less"), [("uint8", 0), ("int8", 128)])
def test_each_dimension_s_range_is_cut_into_steps(precision, less):
    found = quantize_embeddings(VECTORS, precision)
    assert found.dtype == np.dtype(precision)
    assert found.tolist() == [[level - less for level in row] for row in levels(VECTORS)]
    assert (found.min(), found.max()) == (-less, 255 - less)


@pytest.mark.parametrize(("precision", "less"), [("uint8", 0), ("int8", 128)])
def test_values_outside_of_given_ranges_stay_at_the_ends(precision, less):
    ranges = np.stack([np.full(19, -0.5), np.full(19, 0.5)]).astype(np.float32)
    found = quantize_embeddings(VECTORS, precision, ranges)
    assert found.tolist() == [[level - less for level in row] for row in levels(VECTORS, ranges)]


def test_a_dimension_that_is_always_the_same_gives_no_division_by_0():
    assert quantize_embeddings(np.ones((3, 2), np.float32), "uint8").tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("vectors", [VECTORS[0], VECTORS[:1]])
@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_one_vector_does_not_tell_ranges(precision, vectors):
    with pytest.raises(ValueError, match=f"{precision} needs the range of each dimension"):
        quantize_embeddings(vectors, precision)
    ranges = np.stack([VECTORS.min(0), VECTORS.max(0)])
    expected = quantize_embeddings(VECTORS, precision)[:1].reshape(vectors.shape)
    assert np.array_equal(quantize_embeddings(vectors, precision, ranges), expected)


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_one_vector_may_be_cut_to_bits(precision):
    assert np.array_equal(quantize_embeddings(VECTORS[0], precision), quantize_embeddings(VECTORS, precision)[0])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_vectors_give_none(precision):
    found = quantize_embeddings(VECTORS[:0], precision)
    assert found.shape == (0, 3 if "binary" in precision else 19)
    assert found.dtype == quantize_embeddings(VECTORS, precision).dtype


def test_what_is_given_stays_as_it_was():
    before = VECTORS.copy()
    for precision in PRECISIONS:
        quantize_embeddings(VECTORS, precision)
    assert np.array_equal(VECTORS, before)


def test_an_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="float32, int8, uint8, binary, ubinary, not 'int4'"):
        quantize_embeddings(VECTORS, "int4")
