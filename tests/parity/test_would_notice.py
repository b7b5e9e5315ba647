"""The comparison of test_page.py would notice: twelve mistakes that are easily made, each made on purpose."""

import math

import pytest
import torch
from helpers import TINY, random_batch
from layer_diff import differences
from parity.pair import EXACT, assert_same_all_the_way, make_pair

from minibert.model import Activation, LayerNorm

MISTAKES = {}


def mistake(make):
    """Note down a function that spoils a Bert. The reference is left as it is."""
    MISTAKES[make.__name__] = torch.no_grad()(make)
    return MISTAKES[make.__name__]


def norms(ours):
    return [module for module in ours.modules() if isinstance(module, LayerNorm)]


@mistake
def tanh_gelu_for_erf(ours):
    for layer in ours.layers:
        layer.feed_forward.activation = Activation("gelu_new")


@mistake
def eps_1e_5_for_1e_12(ours):
    for norm in norms(ours):
        norm.eps = 1e-5


@mistake
def unbiased_deviation(ours):
    for norm in norms(ours):
        norm.forward = lambda x, n=norm: (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True) * n.weight + n.bias


@mistake
def scores_not_divided(ours):
    for layer in ours.layers:
        layer.attention.core.register_forward_pre_hook(lambda _, qkv: (qkv[0] * math.sqrt(TINY.head_size), *qkv[1:]))


@mistake
def scores_divided_by_sqrt_of_hidden_size(ours):
    for layer in ours.layers:
        layer.attention.core.register_forward_pre_hook(
            lambda _, a: (a[0] / math.sqrt(TINY.num_attention_heads), *a[1:])
        )


@mistake
def mask_ignored(ours):
    for layer in ours.layers:
        layer.register_forward_pre_hook(lambda _, x_mask: (x_mask[0], None))


@mistake
def mask_of_minus_ten(ours):
    for layer in ours.layers:
        layer.attention.core.register_forward_pre_hook(lambda _, a: (*a[:3], None, a[3].double() * 10 - 10))


@mistake
def token_types_dropped(ours):
    ours.embeddings.token_type.weight.zero_()


@mistake
def positions_off_by_one(ours):
    table = ours.embeddings.position.weight
    table.copy_(table.roll(-1, dims=0))


@mistake
def biases_dropped(ours):
    for linear in (module for module in ours.modules() if isinstance(module, torch.nn.Linear)):
        linear.bias.zero_()


@mistake
def query_and_key_swapped(ours):
    for attention in (layer.attention for layer in ours.layers):
        attention.query, attention.key = attention.key, attention.query


@mistake
def the_two_norms_swapped(ours):
    for layer in ours.layers:
        layer.attention_norm, layer.feed_forward_norm = layer.feed_forward_norm, layer.attention_norm


BATCH = random_batch(TINY, (9, 5, 1))


def largest(pair):
    return max(differences(*pair, BATCH).values())


def test_there_are_twelve():
    assert len(MISTAKES) == 12


@pytest.mark.parametrize("make", MISTAKES.values(), ids=MISTAKES)
def test_each_mistake_is_noticed(make):
    pair = make_pair()
    make(pair.ours)
    with pytest.raises(AssertionError, match="is the first to differ"):
        assert_same_all_the_way(pair, BATCH)
    assert largest(pair) > 1e-6  # and not narrowly: ten thousand times the tolerance


def test_without_a_mistake_nothing_is_noticed():
    assert_same_all_the_way(make_pair(), BATCH)


@pytest.mark.parametrize("make", [tanh_gelu_for_erf, unbiased_deviation, scores_not_divided, the_two_norms_swapped])
def test_the_first_layer_that_differs_is_named(make):
    """A mistake in the last layer only is not blamed on an earlier one."""
    pair = make_pair()
    spoiled = make_pair().ours
    make(spoiled)
    pair.ours.layers[-1] = spoiled.layers[-1]
    with pytest.raises(AssertionError, match=r"^layers\.1 is the first to differ"):
        assert_same_all_the_way(pair, BATCH)


@pytest.mark.parametrize("make", [the_two_norms_swapped, biases_dropped])
def test_with_fresh_weights_it_would_not_be_noticed(make):
    """Why all weights are drawn wide: in a fresh BERT all norms are alike, and all biases 0."""
    pair = make_pair(wide=False)
    make(pair.ours)
    assert largest(pair) < EXACT
