"""Finished vectors: four measures of similarity and quantized embeddings, each against slow loops."""

import math

import numpy as np
import pytest
import torch

from minibert.util import normalize_embeddings, pairwise_angle_sim
from minibert.vectors import PRECISIONS, SIMILARITIES, quantize_embeddings, similarity, similarity_pairwise

VECTORS = np.random.default_rng(0).standard_normal((20, 19)).astype(np.float32)
RANGES = np.stack([VECTORS.min(0), VECTORS.max(0)])
CODE_FORMS = [np.asarray, torch.from_numpy, list, lambda codes: list(torch.from_numpy(codes)), lambda codes: codes[0]]

A = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 7)))
B = torch.from_numpy(np.random.default_rng(1).standard_normal((5, 7)))
LOOPS = {
    "cosine": lambda a, b: sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b),
    "dot": lambda a, b: sum(x * y for x, y in zip(a, b, strict=True)),
    "euclidean": lambda a, b: -math.dist(a, b),
    "manhattan": lambda a, b: -sum(abs(x - y) for x, y in zip(a, b, strict=True)),
}
every_measure = pytest.mark.parametrize("measure", LOOPS)


def test_there_are_these_four():
    assert list(SIMILARITIES) == list(LOOPS)


@every_measure
def test_every_vector_with_every_other(measure):
    expected = torch.tensor([[LOOPS[measure](a, b) for b in B.tolist()] for a in A.tolist()], dtype=torch.float64)
    torch.testing.assert_close(similarity(A, B, measure), expected, rtol=0, atol=1e-13)


@every_measure
def test_pair_by_pair(measure):
    expected = torch.tensor([LOOPS[measure](a, b) for a, b in zip(A.tolist(), B.tolist(), strict=False)]).double()
    found = similarity_pairwise(A, B[:4], measure)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found, similarity(A, B[:4], measure).diagonal())


@every_measure
def test_each_unit_vector_is_most_similar_to_itself(measure):
    vectors = torch.nn.functional.normalize(A, dim=1)  # a longer vector could have a greater dot product
    table = similarity(vectors, vectors, measure)
    assert torch.equal(table.argmax(1), torch.arange(4))


def test_the_cosine_is_the_default():
    assert torch.equal(similarity(A, B), similarity(A, B, "cosine"))
    assert torch.equal(similarity_pairwise(A, B[:4]), similarity_pairwise(A, B[:4], "cosine"))


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


FORMS = {
    "array": lambda x: x.numpy(),
    "list of tensors": list,
    "list of arrays": lambda x: list(x.numpy()),
    "lists of numbers": lambda x: x.tolist(),
    "negative strides": lambda x: x.numpy()[::-1].copy()[::-1],  # which torch does not take
    "columns of a wider one": lambda x: np.hstack([x.numpy(), x.numpy()])[:, :7],
    "read only": lambda x: read_only(x.numpy()),  # as np.load(..., mmap_mode="r") gives, of which torch warns
}


@pytest.mark.parametrize("form", FORMS)
def test_vectors_may_have_any_usual_form(form):
    found = similarity(FORMS[form](A), FORMS[form](B))
    torch.testing.assert_close(found.double(), similarity(A, B), rtol=0, atol=1e-6)


def test_one_vector_is_a_set_of_one():
    assert torch.equal(similarity(A[0], B), similarity(A[:1], B))
    assert similarity(A[0], B[0]).shape == (1, 1)
    assert similarity_pairwise(A[0], B[0]).shape == (1,)


def test_integers_are_taken_as_numbers():
    a, b = np.array([[1, 2], [3, 4]], np.int16), np.array([[100, 100]], np.int64)
    assert similarity(a, b, "dot").tolist() == [[300.0], [700.0]]


@pytest.mark.parametrize("compare", [similarity, similarity_pairwise])
@pytest.mark.parametrize("precision", PRECISIONS[1:])
@pytest.mark.parametrize("form", CODE_FORMS)
def test_codes_are_not_compared_as_if_they_were_numbers(compare, precision, form):
    codes = form(quantize_embeddings(VECTORS, precision, RANGES))
    for a, b in ((codes, codes), (codes, VECTORS[:1]), (VECTORS[:1], codes)):
        with pytest.raises(ValueError, match=f"these vectors are .*{'u' * (precision[0] == 'u')}int8, codes"):
            compare(a, b)


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_bits_are_compared_as_the_error_says(precision):
    codes = quantize_embeddings(VECTORS, precision)
    with pytest.raises(ValueError, match="these vectors are") as refused:
        similarity(codes, codes)
    bits = eval(str(refused.value).partition("'manhattan': ")[2])[:, : VECTORS.shape[1]]
    apart = [[int(((a > 0) != (b > 0)).sum()) for b in VECTORS] for a in VECTORS]
    assert similarity(bits, bits, "manhattan").tolist() == [[-float(count) for count in row] for row in apart]


def test_two_dtypes_meet_in_the_wider_one():
    assert similarity(A, B.float()).dtype == torch.float64
    assert similarity(A.bfloat16(), B.float()).dtype == torch.float32


def test_a_zero_vector_is_similar_to_nothing():
    assert similarity(torch.zeros(1, 7), A.float()).tolist() == [[0.0] * 4]
    for dtype in (torch.float16, torch.bfloat16):  # in float16 torch's own normalize makes it NaN
        zero = torch.zeros(1, 7, dtype=dtype)
        assert similarity(zero, A.to(dtype)).tolist() == [[0.0] * 4]
        assert similarity_pairwise(zero, zero).tolist() == [0.0]
        assert pairwise_angle_sim(zero, zero).tolist() == [0.0]
        assert normalize_embeddings(zero).tolist() == [[0.0] * 7]


@every_measure
def test_float16_vectors_are_compared_in_float32(measure):
    """Products of 300 are infinite in float16, and so are differences of 40,000 and -40,000."""
    a, b = torch.tensor([[300.0, 300, 1], [40000, 1, 0]]), torch.tensor([[300.0, -300, 1], [-40000, 1, 0]])
    expected = similarity_pairwise(a, b, measure)
    for dtype in (torch.float16, torch.bfloat16):
        a, b = a.to(dtype), b.to(dtype)
        assert similarity_pairwise(a, b, measure).dtype == similarity(a, b, measure).dtype == torch.float32
    a, b = a.half(), b.half()
    torch.testing.assert_close(similarity_pairwise(a, b, measure), expected, rtol=1e-2, atol=1e-5)
    torch.testing.assert_close(similarity(a, b, measure).diagonal(), expected, rtol=1e-2, atol=1e-5)


@every_measure
def test_similarities_have_gradients(measure):
    a, b = A.clone().requires_grad_(), B.clone().requires_grad_()
    (similarity(a, b, measure).sum() + similarity_pairwise(a, b[:4], measure).sum()).backward()
    assert a.grad.isfinite().all()
    assert b.grad.abs().sum(1).min() > 0


@pytest.mark.parametrize("compare", [similarity, similarity_pairwise])
def test_an_unknown_measure_is_refused_with_the_known_ones(compare):
    with pytest.raises(ValueError, match="cosine, dot, euclidean, manhattan, not 'cos'"):
        compare(A, B, "cos")


@pytest.mark.parametrize("compare", [similarity, similarity_pairwise])
def test_vectors_of_different_widths_are_refused_with_both(compare):
    with pytest.raises(ValueError, match="different widths: 7 and 6"):
        compare(A, B[:, :6])


def test_pairs_need_as_many_on_both_sides():
    with pytest.raises(ValueError, match="not 4 and 5"):
        similarity_pairwise(A, B)


@pytest.mark.parametrize("form", [torch.zeros(2, 2, 2), np.zeros((2, 2, 2)), torch.tensor(1.0)])
def test_other_shapes_are_refused_with_the_shape(form):
    with pytest.raises(ValueError, match="expected vectors"):
        similarity(form, A)


# --- In fewer bytes


def bits(vector):
    """Return eight dimensions a byte, the first in the highest bit, with zeros after the last."""
    padded = [*(x > 0 for x in vector), *[False] * (-len(vector) % 8)]
    return [
        sum(bit << (7 - i) for i, bit in enumerate(padded[start : start + 8])) for start in range(0, len(padded), 8)
    ]


def levels(vectors, ranges=None):
    """Return 0 to 255 between the lowest and the highest value of each dimension."""
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


def test_0_gives_bit_0():
    assert quantize_embeddings(np.array([[0.0, -0.0, 1e-30, -1e-30]]), "ubinary").tolist() == [[0b00100000]]


@pytest.mark.filterwarnings("ignore:.*these ranges are of")
@pytest.mark.parametrize(("precision", "less"), [("uint8", 0), ("int8", 128)])
def test_each_dimension_s_range_is_cut_into_steps(precision, less):
    found = quantize_embeddings(VECTORS, precision)
    assert found.dtype == np.dtype(precision)
    assert found.tolist() == [[level - less for level in row] for row in levels(VECTORS)]
    assert (found.min(), found.max()) == (-less, 255 - less)


@pytest.mark.parametrize(("precision", "less"), [("uint8", 0), ("int8", 128)])
def test_values_outside_the_given_ranges_are_clipped(precision, less):
    ranges = np.stack([np.full(19, -0.5), np.full(19, 0.5)]).astype(np.float32)
    found = quantize_embeddings(VECTORS, precision, ranges)
    assert found.tolist() == [[level - less for level in row] for row in levels(VECTORS, ranges)]


@pytest.mark.filterwarnings("ignore:.*these ranges are of")
def test_a_constant_dimension_gives_no_division_by_0():
    assert quantize_embeddings(np.ones((3, 2), np.float32), "uint8").tolist() == [[0, 0]] * 3


@pytest.mark.filterwarnings("ignore:.*these ranges are of")
@pytest.mark.parametrize("vectors", [VECTORS[0], VECTORS[:1]])
@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_one_vector_has_no_ranges(precision, vectors):
    with pytest.raises(ValueError, match=rf"{precision} needs the range of each dim.*minibert\.quantize_embeddings"):
        quantize_embeddings(vectors, precision)
    ranges = np.stack([VECTORS.min(0), VECTORS.max(0)])
    expected = quantize_embeddings(VECTORS, precision)[:1].reshape(vectors.shape)
    assert np.array_equal(quantize_embeddings(vectors, precision, ranges), expected)


def test_ranges_of_few_vectors_are_said():
    with pytest.warns(UserWarning, match="these ranges are of 20 vectors only"):
        quantize_embeddings(VECTORS, "int8")
    quantize_embeddings(np.resize(VECTORS, (100, 19)), "int8")
    with pytest.raises(ValueError, match=r"ranges must be \(2, 19\)"):
        quantize_embeddings(VECTORS, "int8", RANGES[:, :-1])


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_one_vector_may_be_packed_into_bits(precision):
    assert np.array_equal(quantize_embeddings(VECTORS[0], precision), quantize_embeddings(VECTORS, precision)[0])


@pytest.mark.filterwarnings("ignore:.*these ranges are of")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_vectors_give_no_vectors(precision):
    found = quantize_embeddings(VECTORS[:0], precision)
    assert found.shape == (0, 3 if "binary" in precision else 19)
    assert found.dtype == quantize_embeddings(VECTORS, precision).dtype


@pytest.mark.filterwarnings("ignore:.*these ranges are of")
def test_the_input_is_not_changed():
    before = VECTORS.copy()
    for precision in PRECISIONS:
        quantize_embeddings(VECTORS, precision)
    assert np.array_equal(VECTORS, before)


def test_an_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="float32, int8, uint8, binary, ubinary, not 'int4'"):
        quantize_embeddings(VECTORS, "int4")


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_what_is_no_finite_float_has_no_code(precision):
    vectors = np.resize(VECTORS, (100, 19))
    assert np.array_equal(
        quantize_embeddings(torch.tensor(vectors), precision), quantize_embeddings(vectors, precision)
    )
    for odd in (np.nan, np.inf, -np.inf):  # one NaN would make the ranges, and so every text's codes, nonsense
        damaged = vectors.copy()
        damaged[3, 5] = odd
        with pytest.raises(ValueError, match="vector 3 has a NaN or infinity"):
            quantize_embeddings(damaged, precision)
    for wrong in (quantize_embeddings(vectors, "int8"), vectors[None], vectors.astype(np.int64)):
        with pytest.raises(ValueError, match=f"{precision} is for floats"):
            quantize_embeddings(wrong, precision)


@pytest.mark.parametrize("ranges", [RANGES[::-1], RANGES[0], np.full_like(RANGES, np.nan), np.vstack([RANGES, RANGES])])
def test_ranges_that_are_none_are_refused(ranges):
    with pytest.raises(ValueError, match=r"ranges must be \(2, 19\)"):
        quantize_embeddings(VECTORS, "int8", ranges)


@pytest.mark.parametrize("vectors", ["a text", ["a text"], [], [[1.0, 2.0], [1.0]], {"a": 1}, np.array(["a"]), None, 5])
def test_what_is_not_numbers_is_not_compared(vectors):
    with pytest.raises(ValueError, match="expected vectors of numbers, of one width"):
        similarity(vectors, VECTORS)


def test_lists_are_compared_alike_under_any_default_dtype_and_device():
    expected = similarity(A.tolist(), B.tolist())
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            assert torch.equal(similarity(A.tolist(), B.tolist()), expected)
    finally:
        torch.set_default_dtype(torch.float32)
