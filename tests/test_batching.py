"""Batches by length: none lost, none too large, and the cheapest there are."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibert.batches import (
    CPU_TOKENS,
    GPU_TOKENS,
    LEAST_TOKENS,
    OVERHEAD,
    cpu_tokens,
    plan,
    plan_batches,
    plan_even,
)
from minibert.config import BertConfig

some_lengths = st.lists(st.integers(1, 60), max_size=40).map(np.array)
bounds = {"max_tokens": st.integers(1, 200), "max_texts": st.none() | st.integers(1, 10)}
quietly = settings(deadline=None, derandomize=True, max_examples=200)


def cost(batches, lengths):
    """Padded tokens, and the overhead of each batch."""
    return sum(len(rows) * lengths[rows].max() + OVERHEAD for rows in batches)


@given(lengths=some_lengths, **bounds)
@quietly
def test_every_text_is_in_exactly_one_batch(lengths, max_tokens, max_texts):
    batches = plan_batches(lengths.astype(int), max_tokens=max_tokens, max_texts=max_texts)
    assert all(len(rows) for rows in batches)
    assert sorted(np.concatenate([[], *batches]).tolist()) == list(range(len(lengths)))


@given(lengths=some_lengths, **bounds)
@quietly
def test_no_batch_is_larger_than_allowed(lengths, max_tokens, max_texts):
    for rows in plan_batches(lengths.astype(int), max_tokens=max_tokens, max_texts=max_texts):
        assert len(rows) == 1 or len(rows) * lengths[rows].max() <= max_tokens
        assert len(rows) <= (max_texts or len(lengths))


@given(lengths=some_lengths, **bounds)
@quietly
def test_the_longest_come_first(lengths, max_tokens, max_texts):
    batches = plan_batches(lengths.astype(int), max_tokens=max_tokens, max_texts=max_texts)
    assert (np.diff(lengths[np.concatenate([[], *batches]).astype(int)]) <= 0).all()


def cheapest(lengths, max_tokens, max_texts):
    """Every way to cut between different lengths is tried; a group too large is cut into even batches."""
    distinct = sorted(set(lengths.tolist()))
    costs = []
    for cuts in range(2 ** (len(distinct) - 1)):
        groups, group = [], []
        for place, length in enumerate(distinct):
            group += [length] * lengths.tolist().count(length)
            if cuts >> place & 1 or length == distinct[-1]:
                groups.append(group)
                group = []
        total = 0
        for group in groups:
            most = min(max(1, max_tokens // max(group)), max_texts or len(group))
            total += len(group) * max(group) + OVERHEAD * -(-len(group) // most)
        costs.append(total)
    return min(costs)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9).map(np.array), **bounds)
@quietly
def test_no_other_cuts_are_cheaper(lengths, max_tokens, max_texts):
    batches = plan_batches(lengths, max_tokens=max_tokens, max_texts=max_texts)
    assert cost(batches, lengths) <= cheapest(lengths, max_tokens, max_texts)


def test_a_few_lengths_that_are_nearly_alike_share_a_batch():
    assert [sorted(rows) for rows in plan_batches(np.array([10, 11, 10]), max_tokens=100)] == [[0, 1, 2]]


def test_lengths_far_apart_do_not():
    assert [sorted(rows) for rows in plan_batches(np.array([3, 100, 3, 101]), max_tokens=1000)] == [[1, 3], [0, 2]]


def test_none_make_no_batch():
    assert plan_batches(np.zeros(0, dtype=int), max_tokens=100) == []


def test_alike_texts_keep_their_order_for_torch():
    """Indices must be an array that torch takes: it knows no negative strides."""
    for rows in plan_batches(np.array([5, 5, 7, 7]), max_tokens=10):
        assert rows.strides[0] > 0


@pytest.mark.parametrize("budget", [*CPU_TOKENS, GPU_TOKENS])
def test_on_lengths_as_they_are_in_life_padding_hardly_exists(budget):
    """Sentences of 23 tokens on average, with a long tail."""
    lengths = np.random.default_rng(0).lognormal(3.0, 0.5, 10_000).astype(int).clip(3, 256)
    assert 20 < lengths.mean() < 25
    batches = plan_batches(lengths, max_tokens=budget)
    padded = sum(len(rows) * lengths[rows].max() for rows in batches)
    assert padded < 1.02 * lengths.sum()
    in_the_order_given = sum(32 * lengths[start : start + 32].max() for start in range(0, 10_000, 32))
    assert in_the_order_given > 1.8 * lengths.sum()  # what it saves


# --- where padding costs attention only

even = {"count": st.integers(1, 8), "max_texts": st.none() | st.integers(1, 10)}


@given(lengths=st.lists(st.integers(0, 300), max_size=40).map(np.array), **even)
@quietly
def test_even_batches_have_every_text_once_the_longest_first(lengths, count, max_texts):
    batches = plan_even(lengths.astype(int), count=count, max_texts=max_texts)
    assert all(0 < len(rows) <= (max_texts or len(rows)) for rows in batches)
    places = np.concatenate([[], *batches]).astype(int)
    assert sorted(places.tolist()) == list(range(len(lengths)))
    assert (np.diff(lengths[places]) <= 0).all()


@given(lengths=st.lists(st.integers(24, 30), min_size=20, max_size=40).map(np.array), count=st.integers(1, 4))
@quietly
def test_even_batches_are_even(lengths, count):
    batches = plan_even(lengths, count=count)
    tokens = [int(lengths[rows].sum()) for rows in batches]
    assert len(batches) == count
    assert max(tokens) - min(tokens) <= 2 * 30


def test_a_long_text_does_not_make_short_ones_pad_to_its_length():
    lengths = np.array([8] * 30 + [256])
    assert [len(rows) for rows in plan_even(lengths, count=1)] == [1, 30]
    assert [len(rows) for rows in plan_even(np.array([8] * 30 + [12]), count=1)] == [31]


def test_few_texts_make_few_batches():
    assert [rows.tolist() for rows in plan_even(np.array([5, 7]), count=8)] == [[1], [0]]
    assert plan_even(np.zeros(0, dtype=int), count=3) == []


def test_a_million_texts_are_planned_in_a_moment():
    lengths = np.random.default_rng(0).integers(3, 512, 1_000_000)
    began = time.monotonic()
    plan_batches(lengths, max_tokens=CPU_TOKENS[0])
    plan_even(lengths, count=10_000)
    assert time.monotonic() - began < 20


def test_small_models_have_larger_batches():
    fewest, most = CPU_TOKENS
    assert cpu_tokens(BertConfig()) == fewest
    assert cpu_tokens(BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)) == fewest
    assert cpu_tokens(BertConfig(hidden_size=384, num_hidden_layers=3, intermediate_size=256)) == most
    assert fewest < cpu_tokens(BertConfig(hidden_size=384, num_hidden_layers=4, intermediate_size=1024)) < most


# --- plans of a call

PADDINGS = ["free", "costs", "none"]
calls = {"workers": st.integers(1, 4), "max_texts": st.none() | st.integers(1, 10), "alone": st.booleans()}
any_lengths = st.lists(st.integers(0, 300), max_size=40).map(lambda lengths: np.array(lengths, dtype=int))


@pytest.mark.parametrize("padding", PADDINGS)
@given(lengths=any_lengths, **calls)
@quietly
def test_a_plan_has_every_text_once_within_its_bounds(padding, lengths, workers, max_texts, alone):
    batches = plan(lengths, BertConfig(), max_texts=max_texts, workers=workers, padding=padding, alone=alone)
    assert sorted(np.concatenate([[], *batches]).astype(int).tolist()) == list(range(len(lengths)))
    assert all(0 < len(rows) <= (1 if alone else max_texts or len(rows)) for rows in batches)
    assert all(rows.strides[0] >= 0 for rows in batches)


@given(lengths=any_lengths, **calls)
@quietly
def test_without_padding_a_batch_is_of_one_length_the_longest_first(lengths, workers, max_texts, alone):
    batches = plan(lengths, BertConfig(), max_texts=max_texts, workers=workers, padding="none", alone=False)
    assert all(len(set(lengths[rows])) == 1 for rows in batches)
    assert (np.diff([lengths[rows[0]] for rows in batches]) <= 0).all()
    bound = min(CPU_TOKENS[0], max(LEAST_TOKENS, -(-int(lengths.sum()) // workers)))
    assert all(len(rows) == 1 or int(lengths[rows].sum()) <= bound for rows in batches)


def test_without_padding_texts_of_one_length_share_a_batch():
    lengths = np.array([5, 9, 5, 7, 5, 9])
    batches = plan(lengths, BertConfig(), max_texts=None, workers=2, padding="none", alone=False)
    assert [sorted(rows.tolist()) for rows in batches] == [[1, 5], [3], [0, 2, 4]]
    batches = plan(lengths, BertConfig(), max_texts=2, workers=2, padding="none", alone=False)
    assert sorted(map(len, batches)) == [1, 1, 2, 2]


def test_many_texts_without_padding_are_cut_for_the_workers():
    lengths = np.full(64, 10)
    batches = plan(lengths, BertConfig(), max_texts=None, workers=4, padding="none", alone=False)
    assert len(batches) >= 4
    assert max(len(rows) for rows in batches) * 10 <= max(LEAST_TOKENS, 160)


@pytest.mark.parametrize("padding", PADDINGS)
def test_no_texts_and_one_text_are_planned(padding):
    nothing = plan(np.zeros(0, dtype=int), BertConfig(), max_texts=None, workers=2, padding=padding, alone=False)
    assert nothing == []
    (one,) = plan(np.array([7]), BertConfig(), max_texts=None, workers=2, padding=padding, alone=False)
    assert one.tolist() == [0]


def test_alone_each_text_is_a_batch_in_the_order_given():
    batches = plan(np.array([5, 9, 7]), BertConfig(), max_texts=None, workers=2, padding="free", alone=True)
    assert [rows.tolist() for rows in batches] == [[0], [1], [2]]


def test_a_gpu_has_larger_batches():
    lengths = np.full(4000, 20)
    options = {"max_texts": None, "workers": 1, "alone": False, "padding": "costs"}
    on_gpu, here = (plan(lengths, BertConfig(), on_gpu=place, **options) for place in (True, False))
    assert max(len(rows) * 20 for rows in here) <= CPU_TOKENS[0] < max(len(rows) * 20 for rows in on_gpu) <= GPU_TOKENS


def test_where_padding_is_free_each_worker_has_as_many_tokens():
    lengths = np.random.default_rng(0).integers(20, 30, 1000)
    batches = plan(lengths, BertConfig(), max_texts=None, workers=3, padding="free", alone=False)
    tokens = [int(lengths[rows].sum()) for rows in batches]
    assert len(batches) % 3 == 0
    assert max(tokens) - min(tokens) <= 2 * 30
    assert max(tokens) <= CPU_TOKENS[0]
