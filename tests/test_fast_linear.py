"""Packed linear layers: torch's numbers in each arithmetic, with oneDNN and without; and 8-bit integers."""

import pytest
import torch
from fast_helpers import packed, padded, random_tokens, stack_of, states
from helpers import TINY, widen
from torch import nn

from minibert import Bert
from minibert.fast import int8, stack
from minibert.fast.decide import ARITHMETICS
from minibert.fast.stack import pack
from minibert.model import Activation

# Rounding, relative to numbers of about 10.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.1, "int8": 0.2}


@pytest.fixture(params=[True, False], ids=["oneDNN", "plain"])
def onednn(request, monkeypatch):
    """Both sides of the capability checks."""
    if not request.param:
        monkeypatch.setattr(stack, "onednn_works", lambda _: False)
        monkeypatch.setattr(int8, "onednn_int8_works", lambda: False)
        monkeypatch.setattr(int8, "prepack_works", lambda: False)
    return request.param


def layers(*outs, inside=48, bias=True, seed=0):
    return [widen(nn.Linear(inside, out, bias=bias), seed + i) for i, out in enumerate(outs)]


def random(*shape, seed=7):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def multiply(name, x, *made, activation=None):
    return pack(ARITHMETICS[name], *made)(x, activation)


@pytest.mark.parametrize("activation", [None, *Activation.formulas])
@pytest.mark.parametrize("name", ARITHMETICS)
@pytest.mark.parametrize("shape", [(1, 48), (15, 48), (64, 48)], ids=str)
def test_a_product_is_the_layers_side_by_side(name, activation, shape, onednn):
    made, x = layers(16, 24, 7), random(*shape)
    expected = torch.cat([layer(x) for layer in made], -1)
    if activation:
        expected = Activation.formulas[activation](expected)
    found = multiply(name, x, *made, activation=activation)
    assert found.shape == expected.shape
    assert (found.float() - expected).abs().max() < TOLERANCE[name]


@pytest.mark.parametrize("name", ARITHMETICS)
def test_a_residual_is_added_and_stays_float32(name, onednn):
    made, x, residual = layers(16), random(5, 48), random(5, 16, seed=8)
    with torch.inference_mode():
        found = pack(ARITHMETICS[name], *made).add(x, residual)
    assert found.dtype == torch.float32
    assert (found - made[0](x) - residual).abs().max() < TOLERANCE[name]


def test_products_of_float64_weights_are_float64(onednn):
    made, x = [layer.double() for layer in layers(16, 24)], random(5, 48).double()
    expected = torch.cat([layer(x) for layer in made], -1)
    assert (multiply("float32", x, *made) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("name", ARITHMETICS)
def test_layers_without_bias(name, onednn):
    made, x = layers(16, 24, bias=False), random(4, 48)
    expected = torch.cat([layer(x) for layer in made], -1)
    assert (multiply(name, x, *made).float() - expected).abs().max() < TOLERANCE[name]


def test_the_machine_at_hand_was_asked(onednn):
    """So that "oneDNN" above means it where torch has it, and the plain side is really the other one."""
    assert int8.prepack_works() == onednn  # torch has had it for years
    made = ARITHMETICS["float32"](torch.ones(3, 32), torch.ones(3))
    assert (made.weight.layout is not torch.strided) == (onednn and stack.onednn_works(torch.float32))


def test_an_operator_with_other_numbers_is_not_used(monkeypatch):
    assert not stack.onednn_works.__wrapped__(torch.float64)  # it has none
    monkeypatch.setattr(stack, "activate", lambda x, _: x + 0.01)
    assert not stack.onednn_works.__wrapped__(torch.float32)


@pytest.mark.parametrize("name", ARITHMETICS)
def test_a_stack_is_near_the_page_with_onednn_and_without(name, onednn):
    bert = widen(Bert(TINY)).eval()
    tokens = random_tokens((9, 5, 1), seed=1)
    real = packed(tokens).mask
    with torch.no_grad():
        apart = (states(stack_of(bert, name), tokens) - bert(**padded(tokens))[0])[real].abs().max()
    assert apart < {"float32": 1e-4, "bfloat16": 1, "int8": 1}[name]
    assert (apart > 1e-3) == (name != "float32")  # so it is that arithmetic


# --- int8


def test_constant_rows_and_extreme_numbers_stay_finite(onednn):
    layer = layers(16)[0]
    x = torch.stack([torch.zeros(48), torch.full((48,), 3.0), random(48) * 1e6, random(48) * 1e-6])
    found = multiply("int8", x, layer)
    exact = layer(x)
    assert found.isfinite().all()
    assert ((found - exact).abs().amax(-1) < 0.02 * exact.abs().amax(-1)).all()


def test_levels_are_the_nearest(onednn):
    rows = torch.cat(
        [random(7, 48) * 10.0 ** torch.arange(-6, 8, 2)[:, None], random(2, 48).abs(), -random(2, 48).abs()]
    )
    levels, step, lowest = int8.to_levels(rows)
    assert levels.dtype == torch.uint8
    back = levels.double() * step + lowest[:, None]
    # Half a step: none is nearer. (torch's operator keeps from dividing by 0 by adding 1e-8 to the range.)
    assert ((back - rows).abs() <= 0.50001 * step + 1e-8).all()
    torch.testing.assert_close(lowest, rows.amin(-1))
    torch.testing.assert_close(step, (rows.amax(-1, keepdim=True) - lowest[:, None]) / 255)


@pytest.mark.parametrize("width", [1, 6, 47])
def test_levels_of_any_width(width, onednn):
    rows = random(3, width)
    levels, step, lowest = int8.to_levels(rows)
    assert ((levels.double() * step + lowest[:, None] - rows).abs() <= 0.50001 * step + 1e-8).all()


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_a_row_with_a_number_that_is_not_finite_gives_nan(number, onednn):
    layer, x = layers(16)[0], random(3, 48)
    others = multiply("int8", x, layer)[[0, 2]]
    x[1, 7] = number
    found = multiply("int8", x, layer)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], others)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", [name for name, _ in Bert(TINY, pooler=False).named_parameters()])
def test_a_weight_that_is_not_finite_is_not_lost(name, number):
    bert = widen(Bert(TINY)).eval()
    with torch.no_grad():
        bert.get_parameter(name).view(-1)[-1] = number
    tokens = random_tokens((9, 9), seed=8)
    tokens.ids[13] = TINY.vocab_size - 1
    with torch.no_grad():
        lost = ~bert(**padded(tokens))[0].isfinite()
    assert not states(stack_of(bert, "int8"), tokens)[lost].isfinite().any()


def test_a_tokens_numbers_do_not_depend_on_its_neighbours():
    layer, x = layers(16)[0], random(5, 48)
    loud = torch.cat([x, 100 * x])
    assert torch.equal(multiply("int8", x, layer), multiply("int8", loud, layer)[:5])


def test_a_weight_row_of_zeros(onednn):
    layer = layers(16)[0]
    with torch.no_grad():
        layer.weight[3] = 0
    found = multiply("int8", random(4, 48), layer)
    assert (found[:, 3] - layer.bias[3]).abs().max() < 1e-6
