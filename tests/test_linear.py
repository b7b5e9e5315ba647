"""Prepared products: torch's numbers in each arithmetic, with oneDNN and without; and no weight out of date."""

import copy
import platform
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from helpers import TINY, random_batch, widen
from tiny_folder import TEXTS, write_encoder
from torch import nn
from torch.nn.utils import parametrize

from minibert import Bert, SentenceEncoder
from minibert.fast import arithmetic, attention, int8, linear
from minibert.fast.arithmetic import ARITHMETICS
from minibert.fast.linear import Product, Watched
from minibert.fast.prepare import prepare, restore
from minibert.model import Activation

# Rounding, relative to numbers of about 10.
MEASURE = arithmetic.times_float32.__wrapped__
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.1, "int8": 0.2}


@pytest.fixture(params=[True, False], ids=["oneDNN", "plain"])
def onednn(request, monkeypatch):
    """Both sides of the capability checks."""
    if not request.param:
        monkeypatch.setattr(linear, "onednn_computes", lambda _: False)
        monkeypatch.setattr(int8, "onednn_computes_int8", lambda: False)
        monkeypatch.setattr(int8, "prepack_rounds", lambda: False)
    return request.param


def layers(*outs, inside=48, bias=True, seed=0):
    return [widen(nn.Linear(inside, out, bias=bias), seed + i) for i, out in enumerate(outs)]


def random(*shape, seed=7):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def multiply(name, x, *made, activation=None):
    with torch.inference_mode():
        product = Product(ARITHMETICS[name])
        assert product.stands_for(*made)
        return product.packed.multiply(x, activation)


@pytest.mark.parametrize("activation", [None, *Activation.formulas])
@pytest.mark.parametrize("name", ARITHMETICS)
@pytest.mark.parametrize("shape", [(1, 48), (3, 5, 48), (64, 48)], ids=str)
def test_a_product_is_the_layers_side_by_side(name, activation, shape, onednn):
    made, x = layers(16, 24, 7), random(*shape)
    expected = torch.cat([layer(x) for layer in made], -1)
    if activation:
        expected = Activation.formulas[activation](expected)
    result = multiply(name, x, *made, activation=activation)
    assert result.shape == expected.shape
    assert (result.float() - expected).abs().max() < TOLERANCE[name]


def test_the_machine_at_hand_was_asked(onednn):
    """So that "oneDNN" above means it where torch has it, and the plain side is really the other one."""
    assert int8.prepack_rounds() == onednn  # torch has had it for years
    packed = ARITHMETICS["float32"](torch.ones(3, 32), torch.ones(3))
    assert (packed.weight.layout is not torch.strided) == (onednn and linear.onednn_computes(torch.float32))


@pytest.mark.parametrize("name", ARITHMETICS)
def test_layers_without_bias(name, onednn):
    made, x = layers(16, 24, bias=False), random(4, 48)
    expected = torch.cat([layer(x) for layer in made], -1)
    assert (multiply(name, x, *made).float() - expected).abs().max() < TOLERANCE[name]


def test_an_operator_with_other_numbers_is_not_used(monkeypatch):
    assert not linear.onednn_computes.__wrapped__(torch.float64)  # it has none
    monkeypatch.setattr(linear, "bend", lambda x, _: x + 0.01)
    assert not linear.onednn_computes.__wrapped__(torch.float32)


def zeroed(layer):
    with torch.no_grad():
        layer.weight.zero_()


def zeroed_data(layer):
    layer.weight.data.zero_()


def data_assigned(layer):
    layer.weight.data = torch.zeros_like(layer.weight)


def parameter_assigned(layer):
    layer.weight = nn.Parameter(torch.zeros_like(layer.weight))


def loaded(layer):
    layer.load_state_dict({name: torch.zeros_like(value) for name, value in layer.state_dict().items()})


def state_dict_written(layer):
    layer.state_dict()["weight"].zero_()


def trained(layer):
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer.weight.grad = layer.weight.detach().clone()
    optimizer.step()


def trained_by_a_fused_optimizer(layer):
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1.0, fused=True)
    layer.weight.grad = layer.weight.detach().clone()
    optimizer.step()


def one_row(layer):
    layer.weight.data[:] = 0


CHANGES = [
    zeroed,
    zeroed_data,
    data_assigned,
    parameter_assigned,
    loaded,
    state_dict_written,
    trained,
    trained_by_a_fused_optimizer,
    one_row,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_a_changed_weight_is_noticed(change, twice):
    layer, product, x = layers(16)[0], Product(ARITHMETICS["float32"]), random(2, 48)
    with torch.inference_mode():
        assert product.stands_for(layer)
        assert product.packed.multiply(x).abs().max() > 1
    if twice:  # also a weight that has been changed before
        with torch.no_grad():
            layer.weight.add_(1.0)
        with torch.inference_mode():
            assert product.stands_for(layer)
    change(layer)
    with torch.inference_mode():
        assert product.stands_for(layer)
        assert (product.packed.multiply(x) - layer(x)).abs().max() < 1e-5


def test_nothing_is_laid_out_again_without_need():
    layer, product = layers(16)[0], Product(ARITHMETICS["float32"])
    with torch.inference_mode():
        assert product.stands_for(layer)
        before = product.packed
        assert product.stands_for(layer)
        assert product.packed is before


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.register_forward_hook(lambda *_: None),
        lambda layer: layer.register_forward_pre_hook(lambda *_: None),
        lambda layer: layer.register_full_backward_hook(lambda *_: None),
        lambda layer: setattr(layer, "forward", lambda x: x),
        lambda layer: parametrize.register_parametrization(layer, "weight", nn.Identity()),
        lambda layer: layer.double(),
        lambda layer: layer.to("meta"),
    ],
    ids=["hook", "pre-hook", "backward hook", "forward", "parametrized", "float64", "elsewhere"],
)
def test_where_it_may_not_stand_in_it_does_not(change):
    layer, product = layers(16)[0], Product(ARITHMETICS["float32"])
    change(layer)
    assert not product.stands_for(layer)


def test_weights_of_inference_mode_count_no_changes_and_are_left_to_torch():
    with torch.inference_mode():
        layer = nn.Linear(4, 4)
        assert not Product(ARITHMETICS["float32"]).stands_for(layer)


# --- the sub-layers


def both(name="float32"):
    page = widen(Bert(TINY)).eval()
    fast = copy.deepcopy(page)
    prepare(fast, name)
    return page, fast


@pytest.fixture(autouse=True)
def _any_processor(monkeypatch):
    monkeypatch.setattr(arithmetic, "times_float32", lambda _: 0.5)


@pytest.mark.parametrize("name", ARITHMETICS)
def test_a_prepared_bert_is_near_the_page_and_without_gradients_only(name, onednn):
    page, fast = both(name)
    batch = random_batch(TINY, (9, 5, 1), seed=1)
    with torch.no_grad():
        apart = (fast(**batch)[0] - page(**batch)[0]).abs().max()
    assert apart < {"float32": 1e-4, "bfloat16": 1, "int8": 1}[name]
    assert (apart > 1e-3) == (name != "float32")  # so it is that arithmetic
    assert (fast(**batch)[0] - page(**batch)[0]).abs().max() < 1e-4  # with gradients the page's own, in float32


@pytest.mark.parametrize("name", ["attention.query", "attention.out", "feed_forward.up", "feed_forward.activation"])
def test_a_hook_inside_a_sub_layer_fires_and_what_it_gives_counts(name):
    _, fast = both()
    batch = random_batch(TINY, (9, 5), seed=2)
    with torch.no_grad():
        before = fast(**batch)[0]
        handle = fast.layers[1].get_submodule(name).register_forward_hook(lambda _, __, y: torch.zeros_like(y))
        assert (fast(**batch)[0] - before).abs().max() > 1e-3
        handle.remove()
        assert torch.equal(fast(**batch)[0], before)


@pytest.mark.parametrize("name", ["attention.value", "attention.out", "feed_forward.down", "feed_forward.activation"])
def test_a_part_put_in_place_of_one_inside_computes(name):
    class Zero(nn.Module):
        def forward(self, x):
            return torch.zeros(*x.shape[:-1], {"feed_forward.activation": x.shape[-1]}.get(name, 32))

    page, fast = both()
    for model in (page, fast):
        model.layers[0].set_submodule(name, Zero())
    with torch.no_grad():
        batch = random_batch(TINY, (9, 5), seed=3)
        assert (fast(**batch)[0] - page(**batch)[0]).abs().max() < 1e-4


def test_values_wider_than_queries_are_not_cut_as_if_they_were_not():
    page, fast = both()
    for model in (page, fast):
        attention = model.layers[0].attention
        attention.value, attention.out = layers(128, inside=32)[0], layers(32, inside=128)[0]  # 4 heads of 8 -> 16 of 8

        class Core(nn.Module):
            def forward(self, q, k, v, mask=None, bias=None):
                return v

        attention.core = Core()
    with torch.no_grad():
        batch = random_batch(TINY, (9, 5), seed=3)
        assert (fast(**batch)[0] - page(**batch)[0]).abs().max() < 1e-4


@pytest.mark.parametrize("shape", [(1, 1, 1, 9), (1, 1, 9, 9), (3, 4, 1, 9), (3, 1, 1, 9)], ids=str)
def test_a_core_takes_any_mask_that_broadcasts(shape):
    page, fast = (model.layers[0].attention.core for model in both())
    q, k, v = (random(3, 4, 9, 8, seed=seed) for seed in range(3))
    mask = random(*shape, seed=4) > -1
    with torch.no_grad():
        assert (fast(q, k, v, mask) - page(q, k, v, mask)).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_elsewhere_than_on_the_cpu_attention_is_one_call_without_windows(dtype, monkeypatch):
    monkeypatch.setattr(attention, "_mix_windows", None)
    core = both()[1].layers[0].attention.core
    q = torch.empty(64, 4, 7, 8, dtype=dtype, device="meta")
    with torch.no_grad():
        mixed = core(q, q, q, torch.empty(64, 1, 1, 7, dtype=torch.bool, device="meta"))
    assert (mixed.shape, mixed.dtype) == (q.shape, dtype)


@pytest.mark.parametrize("name", ARITHMETICS)
def test_a_core_of_ones_own_gets_float32(name):
    class Core(nn.Module):
        def forward(self, q, k, v, mask=None, bias=None):
            assert q.dtype == k.dtype == v.dtype == torch.float32
            return v

    _, fast = both(name)
    fast.layers[0].attention.core = Core()
    with torch.no_grad():
        fast(**random_batch(TINY, (9, 5), seed=4))


def test_autocast_is_the_callers():
    _, fast = both()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast.layers[0].attention(random(1, 4, 32)).dtype == torch.bfloat16


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("length", [1, 3, 8, 15, 16, 17])
def test_short_texts_computed_as_one_do_not_see_each_other(count, length):
    page, fast = both()
    batch = random_batch(TINY, [length] * count, seed=5)
    with torch.no_grad():
        assert (fast(batch["input_ids"])[0] - page(batch["input_ids"])[0]).abs().max() < 1e-4
        padded = random_batch(TINY, [max(1, length - i % 3) for i in range(count)], seed=6)
        padded["attention_mask"][-1] = 0  # a text of nothing
        assert (fast(**padded)[0] - page(**padded)[0]).abs().max() < 1e-4


def test_restore_leaves_nothing_behind():
    _, fast = both("int8")
    with torch.no_grad():
        fast(**random_batch(TINY, (9,), seed=7))
    assert any(type(value) is Watched for value in fast.parameters())
    restore(fast)
    assert {type(value) for value in fast.parameters()} == {nn.Parameter}
    assert not any("products" in vars(part) for part in fast.modules())


def test_an_unknown_arithmetic_is_refused():
    with pytest.raises(ValueError, match="float32, bfloat16, int8, not 'int4'"):
        prepare(Bert(TINY), "int4")


# --- int8


def test_constant_rows_and_extreme_numbers_stay_finite(onednn):
    layer = layers(16)[0]
    x = torch.stack([torch.zeros(48), torch.full((48,), 3.0), random(48) * 1e6, random(48) * 1e-6])
    result = multiply("int8", x, layer)
    exact = layer(x)
    assert result.isfinite().all()
    assert ((result - exact).abs().amax(-1) < 0.02 * exact.abs().amax(-1)).all()


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
def test_what_is_no_number_stays_none(number, onednn):
    layer, x = layers(16)[0], random(3, 48)
    others = multiply("int8", x, layer)[[0, 2]]
    x[1, 7] = number
    result = multiply("int8", x, layer)
    assert result[1].isnan().all()
    assert torch.equal(result[[0, 2]], others)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", [name for name, _ in Bert(TINY, pooler=False).named_parameters()])
def test_a_weight_that_is_no_number_is_not_lost(name, number):
    page, fast = both("int8")
    for model in (page, fast):
        with torch.no_grad():
            model.get_parameter(name).view(-1)[-1] = number
    batch = random_batch(TINY, (9, 9), seed=8)
    batch["input_ids"][1, 4] = TINY.vocab_size - 1
    with torch.no_grad():
        lost = ~page(**batch)[0].isfinite()
        result = fast(**batch)[0]
    assert not result[lost].isfinite().any()


def test_a_tokens_numbers_do_not_depend_on_its_neighbours():
    layer, x = layers(16)[0], random(5, 48)
    loud = torch.cat([x, 100 * x])
    assert torch.equal(multiply("int8", x, layer), multiply("int8", loud, layer)[:5])


def test_a_weight_row_of_zeros(onednn):
    layer = layers(16)[0]
    with torch.no_grad():
        layer.weight[3] = 0
    result = multiply("int8", random(4, 48), layer)
    assert (result[:, 3] - layer.bias[3]).abs().max() < 1e-6


# --- as dtype


@pytest.fixture
def folder(tmp_path):
    return write_encoder(tmp_path)


@pytest.mark.parametrize("name", ["bfloat16", "int8", torch.bfloat16])
def test_by_dtype_the_weights_stay_float32(folder, name):
    encoder = SentenceEncoder.from_pretrained(folder, dtype=name, device="cpu")
    exact = SentenceEncoder.from_pretrained(folder, device="cpu")
    assert {value.dtype for value in encoder.parameters()} == {torch.float32}
    apart = np.abs(encoder.encode(TEXTS) - exact.encode(TEXTS)).max()
    assert 1e-4 < apart < 0.5
    assert f"the linear layers compute in {str(name).removeprefix('torch.')}" in encoder.report.notes
    restore(encoder)
    assert np.abs(encoder.encode(TEXTS) - exact.encode(TEXTS)).max() < 1e-5


@pytest.mark.parametrize("options", [{"prepared": False}, {"device": "meta"}], ids=str)
def test_int8_elsewhere_is_refused(folder, options):
    with pytest.raises(ValueError, match="int8 is an arithmetic of prepared encoders on the CPU"):
        SentenceEncoder.from_pretrained(folder, dtype="int8", **options)


def test_a_slow_processor_is_reported_with_what_was_measured(folder, monkeypatch):
    monkeypatch.setattr(arithmetic, "times_float32", lambda _: 2.345)
    with pytest.warns(UserWarning, match=r"bfloat16 makes products 2.3 times as slow as float32 on this processor"):
        SentenceEncoder.from_pretrained(folder, dtype="bfloat16", device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SentenceEncoder.from_pretrained(folder, device="cpu")


def test_the_measurement_measures():
    assert 0.01 < MEASURE("bfloat16") < 100


def test_loading_in_inference_mode_gives_weights_like_any(folder):
    with torch.inference_mode():
        encoder = SentenceEncoder.from_pretrained(folder, dtype="bfloat16", device="cpu")
        assert not any(value.is_inference() for value in encoder.parameters())
        encoder.encode(TEXTS)
    assert isinstance(encoder.model.layers[0].attention.query.weight, Watched)  # laid out, not passed over


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_memory_that_was_freed_is_used_again():
    """In a process of its own, counted in pages that the system had to give."""
    program = """
import resource, torch
from minibert.fast.linear import keep_memory
torch.set_num_threads(1)
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(2**18) + 1  # a megabyte, twice
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = pages()
keep_memory()
pages()
print(before, pages())
"""
    run = [sys.executable, "-c", program]
    found = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True).stdout
    before, after = map(int, found.split())
    assert after < before / 10
