"""The fast parts compute what the page computes, and stay out of the way of whoever changes or watches a part."""

import copy
import dataclasses
import pickle

import pytest
import torch
from helpers import MINILM, TINY, random_batch, widen
from torch import nn

from minibert import Bert, SentenceEncoder
from minibert.config import ACTIVATIONS, POSITION_TYPES
from minibert.fast.attention import KernelAttention
from minibert.fast.kernels import KernelLayerNorm
from minibert.fast.prepare import KERNELS, prepare, restore
from minibert.model import LayerNorm, ScaledDotProductAttention


def both(config=TINY, dtype=torch.float64):
    """The page, and the same weights prepared."""
    page = widen(Bert(config)).to(dtype).eval()
    fast = copy.deepcopy(page)
    prepare(fast)
    return page, fast


def kernels(model):
    return sum(type(part) in KERNELS.values() for part in model.modules())


@pytest.mark.parametrize("position_type", POSITION_TYPES)
@pytest.mark.parametrize("hidden_act", ACTIVATIONS)
@pytest.mark.parametrize("lengths", [(9, 9, 9), (9, 5, 1), (40, 3), (1,)], ids=str)
def test_prepared_equals_the_page(position_type, hidden_act, lengths):
    config = dataclasses.replace(
        TINY, hidden_act=hidden_act, position_embedding_type=position_type, layer_norm_eps=1e-3
    )
    page, fast = both(config)
    batch = random_batch(config, lengths, seed=1)
    # norms, activations, cores, sub-layers, layers, embeddings, encoder, pooler
    assert kernels(fast) == 5 + 2 + 2 + 2 + 2 + 2 + 1 + 1 + 1
    for mine, theirs in zip(fast(**batch), page(**batch), strict=True):
        assert (mine - theirs).abs().max() < 1e-10


def test_a_mask_for_each_pair_of_positions_equals_the_page():
    page, fast = both()
    ids = random_batch(TINY, (9, 9), seed=2)["input_ids"]
    mask = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    assert (fast(ids, mask)[0] - page(ids, mask)[0]).abs().max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_row_that_is_all_padding_is_finite_and_equals_the_page(dtype):
    page, fast = both(dtype=dtype)
    ids = random_batch(TINY, (9, 9), seed=3)["input_ids"]
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1] = False
    mine, theirs = fast(ids, mask)[0], page(ids, mask)[0]
    assert mine.isfinite().all()
    if dtype == torch.float64:
        assert (mine - theirs).abs().max() < 1e-10


def test_gradients_equal_those_of_the_page():
    page, fast = both()
    batch = random_batch(TINY, (9, 5, 1), seed=4)
    for model in (page, fast):
        model(**batch).last_hidden_state.square().sum().backward()
    for (name, mine), theirs in zip(fast.named_parameters(), page.parameters(), strict=True):
        if mine.grad is not None:
            assert (mine.grad - theirs.grad).abs().max() < 1e-8 * (1 + theirs.grad.abs().max()), name


def test_dropout_in_training_is_the_pages():
    config = dataclasses.replace(TINY, attention_probs_dropout_prob=1.0)
    core = Bert(config).layers[0].attention.core
    prepare(core)
    q = torch.randn(1, 4, 5, 8)
    assert type(core) is KernelAttention
    assert core.train()(q, q, q).abs().max() == 0
    assert core.eval()(q, q, q).abs().max() > 0


def test_real_weights_within_1e_5_of_the_page():
    page, fast = SentenceEncoder.from_pretrained(MINILM, prepared=False), SentenceEncoder.from_pretrained(MINILM)
    texts = ["Short.", "A sentence of middling length, with a comma.", "and so on " * 60]
    for mine, theirs in zip(
        fast.encode(texts, output_value="token_embeddings"),
        page.encode(texts, output_value="token_embeddings"),
        strict=True,
    ):
        assert (mine - theirs).abs().max() < 1e-5


def test_only_the_encoder_is_prepared_and_only_if_asked():
    assert kernels(Bert.from_pretrained(MINILM)) == 0
    assert kernels(SentenceEncoder.from_pretrained(MINILM, prepared=False)) == 0
    assert kernels(SentenceEncoder.from_pretrained(MINILM)) == 13 + 6 + 6 + 6 + 6 + 6 + 1 + 1 + 1


def test_names_and_weights_stay_and_restore_gives_the_page_back():
    model = widen(Bert(TINY))
    names, weights = [name for name, _ in model.named_modules()], list(model.parameters())
    prepare(model)
    assert [name for name, _ in model.named_modules()] == names
    assert all(a is b for a, b in zip(model.parameters(), weights, strict=True))
    restore(model)
    assert kernels(model) == 0
    assert {type(part).__module__ for part in model.modules()} == {
        "minibert.model",
        "torch.nn.modules.linear",
        "torch.nn.modules.sparse",
        "torch.nn.modules.dropout",
    }


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
    prepare(model)
    assert type(model.layers[0].attention_norm) is MyNorm
    assert type(model.layers[1].attention.core) is MyCore
    model.layers[0].attention.core = ScaledDotProductAttention(0.0)
    assert type(model.layers[0].attention.core) is ScaledDotProductAttention


@pytest.mark.parametrize("tap", ["scores", "probs"])
def test_whoever_watches_a_tap_sees_the_pages_values(tap):
    page, fast = both()
    batch = random_batch(TINY, (9, 5), seed=5)
    seen = {}
    for name, model in (("page", page), ("fast", fast)):
        part = model.get_submodule(f"layers.1.attention.core.{tap}")
        part.register_forward_hook(lambda _, __, value, name=name: seen.update({name: value}))
        model(**batch)
    assert (seen["fast"] - seen["page"]).abs().max() < 1e-10


def test_a_hook_on_all_modules_of_torch_is_called_for_the_taps_too():
    _, fast = both()
    seen = set()
    handle = nn.modules.module.register_module_forward_hook(lambda part, *_: seen.add(part))
    try:
        fast(**random_batch(TINY, (9, 5), seed=5))
    finally:
        handle.remove()
    assert {fast.layers[1].attention.core.scores, fast.layers[1].attention.core.probs} <= seen


def test_whoever_changes_a_tap_changes_the_result():
    _, fast = both()
    batch = random_batch(TINY, (9, 5), seed=6)
    before = fast(**batch).last_hidden_state
    fast.layers[1].attention.core.probs.register_forward_hook(lambda _, __, probs: probs.roll(1, dims=1))
    assert (fast(**batch).last_hidden_state - before).abs().max() > 1e-3
    _, other = both()
    other.layers[1].attention.core.probs = nn.Softmax(dim=-1)  # a part put in the tap's place
    assert (other(**batch).last_hidden_state - before).abs().max() > 1e-6


def test_a_hook_on_a_norm_still_fires():
    _, fast = both()
    seen = []
    fast.layers[0].attention_norm.register_forward_hook(lambda *_: seen.append(1))
    fast(**random_batch(TINY, (4,), seed=7))
    assert seen == [1]
    assert type(fast.layers[0].attention_norm) is KernelLayerNorm


def test_prepared_models_are_copied_pickled_and_saved(tmp_path):
    _, fast = both(dtype=torch.float32)
    batch = random_batch(TINY, (9, 5), seed=8)
    expected = fast(**batch).last_hidden_state
    fast.save_pretrained(tmp_path)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(other(**batch).last_hidden_state, expected)
    assert (Bert.from_pretrained(tmp_path)(**batch).last_hidden_state - expected).abs().max() < 1e-4
