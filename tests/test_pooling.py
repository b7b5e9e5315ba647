"""Token vectors -> one vector: each mode against a slow loop, for any padding; Dense and Normalize."""

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_folder import write_cross_encoder
from torch import nn

from minibert import CrossEncoder
from minibert.pooling import DENSE_ACTIVATIONS, POOLINGS, Dense, Normalize, Pooling

D = 5
# One dimension of one text: its numbers x and the positions p of its tokens, from 1 -> one number.
LOOPS = {
    "cls": lambda x, p: x[0],
    "max": lambda x, p: max(x),
    "mean": lambda x, p: sum(x) / len(x),
    "mean_sqrt_len_tokens": lambda x, p: sum(x) / math.sqrt(len(x)),
    "weightedmean": lambda x, p: sum(position * number for position, number in zip(p, x, strict=True)) / sum(p),
    "lasttoken": lambda x, p: x[-1],
}
every_mode = pytest.mark.parametrize("mode", LOOPS)
GARBAGE = (0.0, 1e30, -1e30, math.nan, math.inf, -math.inf)


def slowly(mode, text, prompt=0):
    """Pool one text by loops, without its first `prompt` tokens. (tokens, D) -> (D,)"""
    if len(text) <= prompt:
        return torch.zeros(D, dtype=torch.float64)
    places = range(prompt + 1, len(text) + 1)
    return torch.tensor([LOOPS[mode](text[prompt:, d].tolist(), places) for d in range(D)], dtype=torch.float64)


def pad(texts, sides, garbage=0.0, width=None):
    """Return texts as (B, S, D) and mask (B, S), each padded on its side with garbage."""
    width = width or max(map(len, texts))
    x = torch.full((len(texts), width, D), garbage, dtype=torch.float64)
    mask = torch.zeros(len(texts), width, dtype=torch.bool)
    for row, (text, side) in enumerate(zip(texts, sides, strict=True)):
        place = slice(0, len(text)) if side == "right" else slice(width - len(text), width)
        x[row, place], mask[row, place] = text, True
    return x, mask


def random_texts(*lengths):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, D, generator=generator, dtype=torch.float64) for length in lengths]


@every_mode
@pytest.mark.parametrize("side", ["right", "left"])
def test_each_mode_is_what_a_slow_loop_computes(mode, side):
    texts = random_texts(7, 1, 4, 2)
    found = POOLINGS[mode](*pad(texts, [side] * 4))
    torch.testing.assert_close(found, torch.stack([slowly(mode, text) for text in texts]), rtol=0, atol=1e-14)


def test_there_are_these_six():
    assert list(POOLINGS) == list(LOOPS)


padded_texts = st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["left", "right"])), min_size=1, max_size=4)


@every_mode
@given(texts=padded_texts, garbage=st.sampled_from(GARBAGE), more=st.integers(0, 3), prompt=st.integers(0, 4))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_padding_changes_nothing_on_either_side_and_with_any_content(mode, texts, garbage, more, prompt):
    lengths, sides = zip(*texts, strict=True)
    rows = random_texts(*lengths)
    x, mask = pad(rows, sides, garbage, width=max(1, *lengths, 0) + more)
    expected = torch.stack([slowly(mode, row, prompt) for row in rows])
    torch.testing.assert_close(Pooling(mode, include_prompt=False)(x, mask, prompt), expected, rtol=0, atol=1e-14)


@every_mode
def test_a_row_of_padding_alone_gives_zeros(mode):
    x, mask = pad(random_texts(3, 0), ["right", "right"], garbage=math.nan)
    assert torch.equal(POOLINGS[mode](x, mask)[1], torch.zeros(D, dtype=torch.float64))


@every_mode
def test_padding_gets_no_gradient_and_tokens_do(mode):
    x, mask = pad(random_texts(4, 2), ["right", "left"], garbage=math.nan)
    x.requires_grad_()
    POOLINGS[mode](x, mask).sum().backward()
    assert torch.equal(x.grad[~mask], torch.zeros_like(x.grad[~mask]))
    for row in (0, 1):
        assert x.grad[row].abs().sum() > 0


@every_mode
def test_gradients_are_those_of_finite_differences(mode):
    x, mask = pad(random_texts(4, 2), ["right", "left"])
    assert torch.autograd.gradcheck(lambda x: POOLINGS[mode](x, mask), x.requires_grad_())


@pytest.mark.parametrize(
    "modes", [("mean", "cls"), ("cls", "mean"), ("max", "max"), tuple(LOOPS), tuple(reversed(LOOPS))]
)
def test_several_modes_are_concatenated_in_the_order_given(modes):
    x, mask = pad(random_texts(4, 2), ["right", "right"])
    found = Pooling(modes)(x, mask)
    assert torch.equal(found, torch.cat([POOLINGS[mode](x, mask) for mode in modes], dim=1))


def test_cls_is_the_raw_first_vector():
    x, mask = pad(random_texts(4, 2), ["right", "right"])
    assert torch.equal(Pooling("cls")(x, mask), x[:, 0])


def test_a_mask_of_numbers_equals_one_of_booleans():
    x, mask = pad(random_texts(4, 2), ["right", "left"])
    for mode in LOOPS:
        assert torch.equal(Pooling(mode)(x, mask.long()), Pooling(mode)(x, mask))


def test_the_prompt_is_pooled_unless_excluded():
    x, mask = pad(random_texts(6, 5), ["right", "right"])
    assert torch.equal(Pooling("mean")(x, mask, 3), Pooling("mean")(x, mask))
    assert torch.equal(Pooling("mean", include_prompt=False)(x, mask), Pooling("mean")(x, mask))
    assert not torch.equal(Pooling("mean", include_prompt=False)(x, mask, 3), Pooling("mean")(x, mask))


@every_mode
def test_half_precision_stays_half_precision(mode):
    x, mask = pad(random_texts(4, 2), ["right", "right"])
    found = POOLINGS[mode](x.bfloat16(), mask)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), POOLINGS[mode](x, mask), rtol=0, atol=0.03)


@pytest.mark.parametrize("modes", ["average", "Mean", "", ["mean", "nothing"], []])
def test_an_unknown_mode_is_refused_with_the_known_ones(modes):
    with pytest.raises(ValueError, match="cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken"):
        Pooling(modes)


# --- Dense


ACTIVATIONS = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "Sigmoid": nn.Sigmoid,
    "GELU": nn.GELU,
}


def test_the_activations_are_these_five():
    assert list(DENSE_ACTIVATIONS) == list(ACTIVATIONS)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("out", [3, 5])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dense_is_a_linear_layer_an_activation_and_perhaps_its_input(activation, out, bias, residual):
    dense = Dense(5, out, bias=bias, activation=activation, residual=residual)
    x = torch.randn(4, 5)
    expected = x @ dense.linear.weight.T
    expected = ACTIVATIONS[activation]()(expected + dense.linear.bias if bias else expected)
    if residual:
        expected = expected + (x if out == 5 else x @ dense.residual.weight.T)
    torch.testing.assert_close(dense(x), expected, rtol=0, atol=1e-6)
    assert sum(p.numel() for p in dense.parameters()) == 5 * out + out * bias + 5 * out * (residual and out != 5)


def test_dense_computes_in_the_precision_of_its_weights():
    assert Dense(5, 3).double()(torch.randn(2, 5)).dtype == torch.float64
    assert Dense(5, 3)(torch.randn(2, 5, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_dense_and_its_activation_can_be_pickled(activation):
    x, dense = torch.randn(2, 5), Dense(5, 3, activation=activation)
    assert torch.equal(pickle.loads(pickle.dumps(dense))(x), dense(x))
    assert pickle.loads(pickle.dumps(DENSE_ACTIVATIONS[activation])) is DENSE_ACTIVATIONS[activation]


def test_a_cross_encoder_without_an_activation_can_be_pickled(tmp_path):
    encoder = CrossEncoder.from_pretrained(write_cross_encoder(tmp_path, 3), device="cpu")  # three labels: raw logits
    again = pickle.loads(pickle.dumps(encoder))
    assert isinstance(again.activation_fn, torch.nn.Identity)
    assert again.predict(("the cat", "sat")).tolist() == encoder.predict(("the cat", "sat")).tolist()


# --- Normalize


def test_normalized_vectors_have_length_1():
    x = torch.randn(4, 5) * torch.tensor([[1e-3], [1.0], [10.0], [1e3]])
    found = Normalize()(x)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(found * x.norm(dim=1, keepdim=True), x)


def test_a_vector_of_zeros_stays_zeros():
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):  # in the last torch's own makes it NaN
        zeros = torch.zeros(2, 5, dtype=dtype)
        assert torch.equal(Normalize()(zeros), zeros)


@pytest.mark.parametrize("size", [1e-6, 1.0, 4000.0])
def test_a_float16_vector_of_any_length_has_a_unit_vector(size):
    """The length of 384 numbers of 4,000 is beyond float16, and the square of 1e-6 is 0 there."""
    x = torch.full((1, 384), size, dtype=torch.float16)
    torch.testing.assert_close(Normalize()(x), torch.full_like(x, 384**-0.5))
