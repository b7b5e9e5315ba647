"""Fused parts compute what the page computes, are plain parts in plain sight, and leave a user's own parts alone."""

import copy
import dataclasses
import pickle

import pytest
import torch
from fast_helpers import fast_layers
from helpers import MINILM, TINY, random_batch, widen
from torch import nn

from minibert import Bert, SentenceEncoder
from minibert.config import ACTIVATIONS, POSITION_TYPES
from minibert.fused import FUSED, FusedActivation, FusedAttention, FusedLayerNorm, fuse, fused, unfuse
from minibert.model import Activation, LayerNorm, ScaledDotProductAttention


def both(config=TINY, dtype=torch.float64):
    """The page, and the same weights with fused parts."""
    page = widen(Bert(config)).to(dtype).eval()
    return page, fuse(copy.deepcopy(page))


def count(model):
    return sum(type(part) in FUSED.values() for part in model.modules())


ALL = 5 + 2 + 2  # norms, activations, cores


@pytest.mark.parametrize("position_type", POSITION_TYPES)
@pytest.mark.parametrize("hidden_act", ACTIVATIONS)
@pytest.mark.parametrize("lengths", [(9, 9, 9), (9, 5, 1), (40, 3), (1,)], ids=str)
def test_fused_parts_equal_the_page(position_type, hidden_act, lengths):
    config = dataclasses.replace(
        TINY, hidden_act=hidden_act, position_embedding_type=position_type, layer_norm_eps=1e-3
    )
    page, model = both(config)
    batch = random_batch(config, lengths, seed=1)
    assert count(model) == ALL
    for mine, theirs in zip(model(**batch), page(**batch), strict=True):
        assert (mine - theirs).abs().max() < 1e-10


@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_new"])
def test_in_float32_they_are_near_the_page_with_gradients(hidden_act):
    page, model = both(dataclasses.replace(TINY, hidden_act=hidden_act), torch.float32)
    batch = random_batch(TINY, (9, 5, 1), seed=1)
    mine, theirs = model(**batch), page(**batch)
    assert (mine.last_hidden_state - theirs.last_hidden_state).abs().max() < 1e-5
    for output in (mine, theirs):
        (output.last_hidden_state.square().mean() + output.pooler_output.sum()).backward()
    for (name, ours), other in zip(model.named_parameters(), page.parameters(), strict=True):
        assert (ours.grad - other.grad).abs().max() < 1e-4 * (1 + other.grad.abs().max()), name


def test_gradients_equal_those_of_the_page():
    page, model = both()
    batch = random_batch(TINY, (9, 5, 1), seed=4)
    for each in (page, model):
        each(**batch).last_hidden_state.square().sum().backward()
    for (name, mine), theirs in zip(model.named_parameters(), page.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            assert (mine.grad - theirs.grad).abs().max() < 1e-8 * (1 + theirs.grad.abs().max()), name


def test_a_mask_for_each_pair_of_positions_equals_the_page():
    page, model = both()
    ids = random_batch(TINY, (9, 9), seed=2)["input_ids"]
    mask = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    assert (model(ids, mask)[0] - page(ids, mask)[0]).abs().max() < 1e-10


@pytest.mark.parametrize("each_pair", [False, True])
@pytest.mark.parametrize("position_type", POSITION_TYPES)
def test_gradients_of_queries_without_keys_equal_those_of_the_page(position_type, each_pair):
    """By the lowest number as mask, torch's kernel sends S times as much to the values."""
    page, model = both(dataclasses.replace(TINY, position_embedding_type=position_type))
    ids = random_batch(TINY, (9, 9), seed=3)["input_ids"]
    mask = torch.arange(9) < torch.tensor([[5], [0]])  # the second text has no token
    mask = mask[:, None] & mask[..., None] if each_pair else mask
    weights = torch.randn(2, 9, TINY.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for each in (page, model):
        (each(ids, mask).last_hidden_state * weights).sum().backward()
    for (name, mine), theirs in zip(model.named_parameters(), page.parameters(), strict=True):
        if theirs.grad is not None:
            assert (mine.grad - theirs.grad).abs().max() < 1e-8 * (1 + theirs.grad.abs().max()), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("weights", ["float32", "the same"])
def test_gradients_of_a_norm_are_summed_in_float32(dtype, weights):
    """torch's own sum of 10,000 ones is 256 in bfloat16 and 2048 in float16, for each thread."""
    norm = FusedLayerNorm(8, 1e-12)
    norm = norm if weights == "float32" else norm.to(dtype)
    x = torch.randn(10_000, 8, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    out = norm(x)
    out.sum(dtype=torch.float32).backward()
    assert out.dtype == x.grad.dtype == dtype
    assert norm.bias.grad.dtype == norm.bias.dtype
    assert (norm.bias.grad - 10_000).abs().max() <= 10_000 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_row_that_is_all_padding_is_finite_and_equals_the_page(dtype):
    page, model = both(dtype=dtype)
    ids = random_batch(TINY, (9, 9), seed=3)["input_ids"]
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1] = False
    mine, theirs = model(ids, mask)[0], page(ids, mask)[0]
    assert mine.isfinite().all()
    if dtype == torch.float64:
        assert (mine - theirs).abs().max() < 1e-10


@pytest.mark.parametrize("shape", [(1, 1, 1, 9), (1, 1, 9, 9), (3, 4, 1, 9), (3, 1, 1, 9)], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_a_core_takes_any_mask_that_broadcasts(shape, biased):
    page, core = (model.layers[0].attention.core for model in both())
    generator = torch.Generator().manual_seed(7)
    q, k, v = torch.randn(3, 3, 4, 9, 8, generator=generator)
    mask = torch.randn(*shape, generator=generator) > -1
    bias = torch.randn(3, 4, 9, 9, generator=generator) if biased else None
    assert (core(q, k, v, mask, bias) - page(q, k, v, mask, bias)).abs().max() < 1e-5
    assert (core(q, k, v, None, bias) - page(q, k, v, None, bias)).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_elsewhere_than_on_the_cpu_attention_is_one_call(dtype, monkeypatch):
    monkeypatch.setattr(ScaledDotProductAttention, "forward", None)  # not called
    core = fuse(Bert(TINY).eval()).layers[0].attention.core
    q = torch.empty(64, 4, 7, 8, dtype=dtype, device="meta")
    attended = core(q, q, q, torch.empty(64, 1, 1, 7, dtype=torch.bool, device="meta"))
    assert (attended.shape, attended.dtype) == (q.shape, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_in_16_bits_come_from_float32_on_the_cpu(dtype, masked):
    """The 16-bit kernel's are much slower there, and not as exact."""
    core = fuse(Bert(TINY).eval()).layers[0].attention.core
    mask = (torch.arange(7) < 5)[None, None, None] if masked else None
    wide = torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(0)).to(dtype).float().requires_grad_()
    expected = core(*wide, mask)
    expected.square().sum().backward()
    narrow = wide.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        found = core(*narrow, mask)
    found.square().sum().backward()
    assert found.dtype == narrow.grad.dtype == dtype
    assert torch.equal(found, expected.to(dtype))
    assert (narrow.grad.float() - wide.grad).abs().max() < torch.finfo(dtype).eps * wide.grad.abs().max()


def test_dropout_in_training_is_the_pages():
    config = dataclasses.replace(TINY, attention_probs_dropout_prob=1.0)
    core = fuse(Bert(config)).layers[0].attention.core
    q = torch.randn(1, 4, 5, 8)
    assert type(core) is FusedAttention
    assert core.train()(q, q, q).abs().max() == 0
    assert core.eval()(q, q, q).abs().max() > 0


def test_autocast_is_the_callers():
    _, model = both(dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.layers[0].attention(torch.randn(1, 4, 32)).dtype == torch.bfloat16


# --- in plain sight


def test_they_are_seen_in_print_and_unfuse_gives_the_page_back():
    model = widen(Bert(TINY))
    shown, names, weights = str(model), [name for name, _ in model.named_modules()], list(model.parameters())
    keys = list(model.state_dict())
    assert fuse(model) is model
    assert str(model) == shown.replace("LayerNorm", "FusedLayerNorm").replace("Activation", "FusedActivation").replace(
        "ScaledDotProductAttention", "FusedAttention"
    )
    assert [name for name, _ in model.named_modules()] == names
    assert all(a is b for a, b in zip(model.parameters(), weights, strict=True))
    assert list(model.state_dict()) == keys
    assert count(model) == ALL
    assert count(fuse(model)) == ALL  # a second time changes nothing
    assert unfuse(model) is model
    assert str(model) == shown
    assert count(model) == 0
    assert all(a is b for a, b in zip(model.parameters(), weights, strict=True))
    assert {type(part).__module__ for part in model.modules()} == {
        "minibert.model",
        "torch.nn.modules.linear",
        "torch.nn.modules.sparse",
        "torch.nn.modules.dropout",
    }


def test_a_fused_part_is_by_its_contract_a_part_of_the_page():
    model = fuse(Bert(TINY))
    assert isinstance(model.embeddings.norm, LayerNorm)
    assert isinstance(model.layers[0].feed_forward.activation, Activation)
    assert isinstance(model.layers[0].attention.core, ScaledDotProductAttention)


def test_a_weight_that_changes_after_fusing_counts():
    page, model = both()
    batch = random_batch(TINY, (9, 5), seed=8)
    for each in (page, model):
        with torch.no_grad():
            each.layers[0].attention_norm.weight.mul_(-2)
        each.layers[1].feed_forward_norm.bias = nn.Parameter(torch.ones(32, dtype=torch.float64))
        each.embeddings.norm.eps = 0.5
    assert (model(**batch)[0] - page(**batch)[0]).abs().max() < 1e-10


def test_fused_for_the_duration_of_a_with():
    model = Bert(TINY)
    model.layers[0].attention_norm = before = FusedLayerNorm(32, 1e-12)
    with fused(model):
        assert count(model) == ALL
    assert count(model) == 1
    assert model.layers[0].attention_norm is before  # was fused before
    with pytest.raises(KeyError), fused(model):
        raise KeyError
    assert count(model) == 1


def test_fused_leaves_what_was_replaced_meanwhile():
    model = Bert(TINY)
    with fused(model):
        model.layers[0].attention_norm = nn.Identity()
    assert type(model.layers[0].attention_norm) is nn.Identity
    assert count(model) == 0


def test_fused_puts_the_very_same_parts_back():
    model = Bert(TINY)
    before = list(model.modules())
    with fused(model):
        assert count(model) == ALL
    assert all(a is b for a, b in zip(model.modules(), before, strict=True))


def test_what_is_done_to_a_fused_part_meanwhile_lasts():
    model, seen = Bert(TINY), []
    norm, activation = model.layers[0].attention_norm, model.layers[0].feed_forward.activation
    with fused(model):
        model.layers[0].attention_norm.register_forward_hook(lambda *_: seen.append(1))
        model.layers[0].attention_norm.eps = 0.5
        model.layers[0].feed_forward.activation.forward = torch.sin
        model.eval()
    assert count(model) == 0
    assert model.layers[0].attention_norm is norm
    assert norm.eps == 0.5
    assert not norm.training
    assert activation.forward is torch.sin
    model(**random_batch(TINY, (4,), seed=7))
    assert seen == [1]


def test_a_part_in_two_places_stays_one():
    model = Bert(TINY)
    model.layers[1].attention_norm = model.layers[0].attention_norm
    fuse(model)
    assert model.layers[1].attention_norm is model.layers[0].attention_norm
    assert type(model.layers[0].attention_norm) is FusedLayerNorm


def test_fused_models_are_copied_pickled_and_saved(tmp_path):
    _, model = both(dtype=torch.float32)
    batch = random_batch(TINY, (9, 5), seed=8)
    expected = model(**batch).last_hidden_state
    model.save_pretrained(tmp_path)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert count(other) == ALL
        assert torch.equal(other(**batch).last_hidden_state, expected)
    assert (Bert.from_pretrained(tmp_path)(**batch).last_hidden_state - expected).abs().max() < 1e-4


# --- a user's own


def test_what_a_user_has_replaced_stays():
    class MyNorm(LayerNorm):
        def forward(self, x):
            return x

    class MyCore(nn.Module):
        def forward(self, q, k, v, mask, bias):
            return v

    model = Bert(TINY)
    model.layers[0].attention_norm = MyNorm(32, 1e-12)
    model.layers[1].attention.core = MyCore()
    model.layers[0].feed_forward.activation.forward = torch.sin
    model.layers[1].feed_forward_norm.register_forward_hook(lambda *_: None)
    fuse(model)
    assert type(model.layers[0].attention_norm) is MyNorm
    assert type(model.layers[1].attention.core) is MyCore
    assert type(model.layers[0].feed_forward.activation) is Activation
    assert type(model.layers[1].feed_forward_norm) is LayerNorm
    assert count(model) == ALL - 4
    model.layers[0].attention.core = ScaledDotProductAttention(0.0)
    assert type(model.layers[0].attention.core) is ScaledDotProductAttention
    unfuse(model)
    assert type(model.layers[0].attention_norm) is MyNorm


@pytest.mark.parametrize("formula", [torch.sin, nn.PReLU()])
def test_a_formula_of_ones_own_is_computed(formula):
    page, model = both(dtype=torch.float32)
    for each in (page, model):
        each.layers[0].feed_forward.activation.formula = formula
    assert type(model.layers[0].feed_forward.activation) is FusedActivation
    batch = random_batch(TINY, (9, 5), seed=8)
    assert (model(**batch)[0] - page(**batch)[0]).abs().max() < 1e-5


@pytest.mark.parametrize("tap", ["scores", "probs"])
def test_whoever_watches_a_tap_sees_the_pages_values(tap):
    page, model = both()
    batch = random_batch(TINY, (9, 5), seed=5)
    seen = {}
    for name, each in (("page", page), ("fused", model)):
        part = each.get_submodule(f"layers.1.attention.core.{tap}")
        part.register_forward_hook(lambda _, __, value, name=name: seen.update({name: value}))
        each(**batch)
    assert (seen["fused"] - seen["page"]).abs().max() < 1e-10


def test_a_hook_on_all_modules_of_torch_is_called_for_the_taps_too():
    _, model = both()
    seen = set()
    handle = nn.modules.module.register_module_forward_hook(lambda part, *_: seen.add(part))
    try:
        model(**random_batch(TINY, (9, 5), seed=5))
    finally:
        handle.remove()
    assert {model.layers[1].attention.core.scores, model.layers[1].attention.core.probs} <= seen


def test_whoever_changes_a_tap_changes_the_result():
    _, model = both()
    batch = random_batch(TINY, (9, 5), seed=6)
    before = model(**batch).last_hidden_state
    model.layers[1].attention.core.probs.register_forward_hook(lambda _, __, probs: probs.roll(1, dims=1))
    assert (model(**batch).last_hidden_state - before).abs().max() > 1e-3
    _, other = both()
    other.layers[1].attention.core.probs = nn.Softmax(dim=-1)  # a part put in the tap's place
    assert (other(**batch).last_hidden_state - before).abs().max() > 1e-6
    _, patched = both()
    patched.layers[1].attention.core.scores.forward = torch.zeros_like
    assert (patched(**batch).last_hidden_state - before).abs().max() > 1e-3


def test_a_hook_on_a_fused_norm_fires():
    _, model = both()
    seen = []
    model.layers[0].attention_norm.register_forward_hook(lambda *_: seen.append(1))
    model(**random_batch(TINY, (4,), seed=7))
    assert seen == [1]
    assert type(model.layers[0].attention_norm) is FusedLayerNorm


# --- encoders


def test_only_an_encoder_elsewhere_than_on_the_cpu_is_fused_by_loading(monkeypatch):
    monkeypatch.setattr("minibert.encoder.find_device", torch.device)  # meta stands for a GPU
    assert count(Bert.from_pretrained(MINILM)) == 0
    assert count(SentenceEncoder.from_pretrained(MINILM, device="cpu")) == 0
    assert count(SentenceEncoder.from_pretrained(MINILM, device="meta", fast=False)) == 0
    assert count(SentenceEncoder.from_pretrained(MINILM, device="meta")) == 13 + 6 + 6


def test_an_encoder_with_fused_parts_has_a_stack_all_the_same():
    encoder = SentenceEncoder.from_pretrained(MINILM, device="cpu")
    texts = ["Short.", "A sentence of middling length, with a comma."]
    expected = encoder.encode(texts)
    fuse(encoder.model)
    with fast_layers(encoder) as calls:
        assert abs(encoder.encode(texts, fast=True) - expected).max() < 1e-6
    assert len(calls) == 6
    assert abs(encoder.encode(texts, fast=False) - expected).max() < 1e-5
