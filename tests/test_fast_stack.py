"""The stack equals the page: every dtype, length and activation, of all tokens and of the first alone."""

import dataclasses

import numpy as np
import pytest
import torch
from fast_helpers import ORDER, STATES, fast_layers, packed, padded, product_rows, random_tokens, stack_of, states
from helpers import TINY, widen

from minibert import Bert
from minibert.config import ACTIVATIONS
from minibert.fast import tokens as fast_tokens
from minibert.fast.decide import decide
from minibert.fast.tokens import attend, attend_first, round_up
from minibert.model import ScaledDotProductAttention

LENGTHS = [
    *((length,) for length in (1, 2, 15, 16, 17, 23, 40)),
    (9, 9, 9),
    (9, 5, 1),
    (40, 3),
    (17, 17, 17, 3),
    (16, 16, 5, 5, 5, 1),
    (12,) * 7 + (11,) * 4 + (2,),
    (40, 24, 24),
    (3, 9, 3),
    (5, 0, 0, 3),
]


def wide(dtype="float32", config=TINY):
    return widen(Bert(config)).to(torch.float64 if dtype == "float64" else torch.float32).eval()


@pytest.fixture(scope="module")
def models():
    """A Bert and its stack by dtype and activation, made once."""
    made = {}

    def get(dtype, hidden_act="gelu"):
        if (dtype, hidden_act) not in made:
            bert = wide(dtype, dataclasses.replace(TINY, hidden_act=hidden_act, layer_norm_eps=1e-3))
            made[dtype, hidden_act] = bert, stack_of(bert, dtype)
        return made[dtype, hidden_act]

    return get


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("hidden_act", ACTIVATIONS)
@pytest.mark.parametrize("dtype", STATES)
def test_the_stack_equals_the_page(dtype, hidden_act, lengths, models):
    bert, stack = models(dtype, hidden_act)
    tokens = random_tokens(lengths, seed=1)
    batch = padded(tokens)
    real = batch["attention_mask"]
    with torch.no_grad():
        expected = bert(**batch).last_hidden_state
    found = states(stack, tokens)
    assert found.shape == expected.shape
    assert (found - expected)[real].abs().max() < STATES[dtype]
    first = states(stack, tokens, first_only=True)
    assert first.shape == (len(lengths), 1, 32)
    assert (first - found[:, :1])[real[:, :1]].abs().max() < ORDER[dtype]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_fewer_bits_are_those_of_that_arithmetic(dtype, models):
    bert, stack = models(dtype)
    tokens = random_tokens((9, 5, 1), seed=1)
    batch = padded(tokens)
    with torch.no_grad():
        apart = (states(stack, tokens) - bert(**batch).last_hidden_state)[batch["attention_mask"]].abs().max()
    assert 1e-3 < apart < STATES[dtype]


@pytest.mark.parametrize("length", [1, 3, 8, 15, 16, 17])
def test_short_texts_that_are_attended_together_do_not_see_each_other(length, models):
    bert, stack = models("float32")
    for count in range(1, 12):
        mixed = [max(1, length - i % 3) for i in range(count)]
        for lengths in ([length] * count, mixed, [*mixed, 0]):  # the last is a text without tokens
            tokens = random_tokens(lengths, seed=5)
            batch = padded(tokens)
            with torch.no_grad():
                expected = bert(**batch).last_hidden_state
            assert (states(stack, tokens) - expected)[batch["attention_mask"]].abs().max() < 1e-4


@pytest.mark.parametrize("dtype", STATES)
def test_the_last_layer_computes_the_first_tokens_only_where_nothing_else_is_read(dtype, models):
    bert, stack = models(dtype)
    tokens = random_tokens((9, 5, 1))
    with fast_layers(bert) as calls:
        states(stack, tokens)
        states(stack, tokens, first_only=True)
    assert calls == [(layer, False) for layer in (*bert.layers, bert.layers[0])] + [(bert.layers[1], True)]


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("dtype", STATES)
def test_no_product_is_made_of_padding(dtype, first_only, models):
    with product_rows() as rows:
        states(models(dtype)[1], random_tokens((9, 5, 1)), first_only=first_only)
    assert max(rows) == round_up(9 + 5 + 1) == 16


@pytest.mark.parametrize("dtype", STATES)
@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize(
    ("lengths", "runs"), [((40, 33), [(1, 40), (1, 33)]), ((33, 8, 8, 8, 1), [(1, 33), (3, 8), (1, 1)])], ids=str
)
def test_no_attention_is_computed_of_padding(dtype, lengths, runs, first_only, models, monkeypatch):
    every, first = [], []
    attend_equal, kernel = fast_tokens._attend_equal, fast_tokens.functional.scaled_dot_product_attention

    def watch_every(q, k, v, beyond):
        every.append((q.shape[0], q.shape[2], k.shape[2]))
        return attend_equal(q, k, v, beyond)

    def watch_kernel(q, k, v, attn_mask=None):
        if q.shape[2] == 1 and attn_mask is None and len(every) >= len(runs):
            first.append((q.shape[0], 1, k.shape[2]))
        return kernel(q, k, v, attn_mask)

    stack, tokens = models(dtype)[1], random_tokens(lengths)
    monkeypatch.setattr(fast_tokens, "_attend_equal", watch_every)
    monkeypatch.setattr(fast_tokens.functional, "scaled_dot_product_attention", watch_kernel)
    states(stack, tokens, first_only=first_only)
    expected = [(texts, length, length) for texts, length in runs]
    assert every == expected * (1 if first_only else 2)
    if first_only:
        assert first[-len(runs) :] == [(texts, 1, length) for texts, length in runs]


def test_all_texts_without_tokens_but_one(models):
    """Their places are there, and hold anything."""
    _, stack = models("float32")
    for lengths in ((0, 0, 5), (5, 0, 0), (0, 5, 0)):
        tokens = random_tokens(lengths, seed=2)
        alone = states(stack, random_tokens((5,), seed=2))
        place = lengths.index(5)
        assert (states(stack, tokens)[place] - alone[0]).abs().max() < 1e-5
        assert (states(stack, tokens, first_only=True)[place, 0] - alone[0, 0]).abs().max() < 1e-5


@pytest.mark.parametrize("first_only", [False, True])
def test_a_last_layer_of_ones_own_is_called_with_all_positions(first_only):
    bert = wide()
    bert.layers[1] = torch.nn.Identity()
    bert.layers[1].forward = lambda x, mask=None: x.flip(1)
    stack, tokens = decide(bert, bert, [], "float32", None).stack, random_tokens((9, 9))
    every, some = states(stack, tokens), states(stack, tokens, first_only=first_only)
    assert torch.equal(some[:, 0], every[:, 0])
    assert some.shape[1] == (1 if first_only else 9)


def test_a_layer_of_ones_own_may_drop_positions():
    bert = wide()
    bert.layers.insert(1, torch.nn.Identity())
    bert.layers[1].forward = lambda x, mask=None: x[:, :4]
    stack, tokens = decide(bert, bert, [], "float32", None).stack, random_tokens((9, 9))
    batch = padded(tokens)
    with torch.no_grad():
        expected = bert(batch["input_ids"], None, batch["token_type_ids"]).last_hidden_state
    with fast_layers(bert) as calls:
        found = states(stack, tokens)
    assert [layer for layer, _ in calls] == [bert.layers[0]]  # the other is not given the positions that were planned
    assert found.shape == (2, 4, 32)
    assert (found - expected).abs().max() < 1e-4


# --- packed tokens


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_packed_tokens_are_unpacked_to_their_places(lengths):
    tokens = random_tokens(lengths)
    texts, batch = packed(tokens), padded(tokens)
    real = batch["attention_mask"]
    assert len(texts.input_ids) == round_up(sum(lengths))
    assert torch.equal(texts.unpack(texts.input_ids[:, None])[..., 0].long()[real], batch["input_ids"][real])
    if len(set(lengths)) > 1:
        assert torch.equal(texts.unpack(texts.positions[:, None])[..., 0][real], real.long().cumsum(1)[real] - 1)
    assert texts.mask is None if len(set(lengths)) == 1 else torch.equal(texts.mask, real)
    tokenful = real[:, 0]
    assert torch.equal(texts.input_ids[texts.first].long()[tokenful], batch["input_ids"][:, 0][tokenful])
    assert texts.token_type_ids is None or torch.equal(
        texts.unpack(texts.token_type_ids[:, None])[..., 0].long()[real], batch["token_type_ids"][real]
    )
    if len(set(lengths)) == 1:
        ids, types = texts.as_page_input()
        assert torch.equal(ids, batch["input_ids"])
        assert torch.equal(types, batch["token_type_ids"])
        x = torch.randn(*ids.shape, 3)
        assert torch.equal(texts.unpack(texts.pack(x)), x)
        assert texts.fit(x, x.shape[-1])
        assert not texts.fit(x, x.shape[-1] + 1)
        assert not any(texts.fit(other, 3) for other in (x[:, :0], (x,), None, x[0]))


def test_some_texts_of_a_call_are_packed_in_the_order_asked_for():
    tokens = random_tokens((3, 5, 2))
    texts = type(packed(tokens))(tokens, np.array([2, 0]))
    assert texts.input_ids[: texts.count].tolist() == [*tokens.ids[8:10], *tokens.ids[:3]]


def test_rows_are_rounded_up_by_a_sixteenth_at_most():
    for count in range(1, 5000):
        assert count <= round_up(count) <= max(count + 1, count * 17 / 16)
        assert round_up(round_up(count)) == round_up(count)
    assert round_up(0) == 0
    assert {round_up(count, 8) for count in range(128, 257)} == {128, 160, 192, 224, 256}  # few programs to keep


# --- attention


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("lengths", [lengths for lengths in LENGTHS if len(lengths) > 1], ids=str)
def test_packed_texts_are_attended_as_each_by_itself(lengths, first_only):
    texts = packed(random_tokens(lengths))
    qkv = torch.randn(len(texts.input_ids), 3 * 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if first_only:
            attended = attend_first(qkv[texts.first, :32], qkv[:, 32:].contiguous(), texts, 8)
        else:
            attended = attend(qkv, texts, 8)
            assert len(attended) == len(qkv)
    page, begin = ScaledDotProductAttention(0.0), 0
    for i, length in enumerate(lengths):
        q, k, v = qkv[begin : begin + length].view(1, length, 3, 4, 8).permute(2, 0, 3, 1, 4)
        expected = page(q, k, v).transpose(1, 2).reshape(length, 32)
        found = attended[i : i + 1] if first_only else attended[begin : begin + length]
        if length:
            assert (found - expected[: len(found)]).abs().max() < 1e-5
        else:  # a text without tokens has nothing to attend to
            assert not found.any()
        begin += length


@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize("lengths", [(40,) * 5, (40, 33, 20, 7, 1), (40, 0, 20, 7, 1)], ids=str)
def test_bfloat16_attention_in_either_dtype_is_the_pages(amx, lengths, monkeypatch):
    monkeypatch.setattr(fast_tokens, "_has_amx", lambda: amx)
    texts = packed(random_tokens(lengths))
    qkv = torch.randn(len(texts.input_ids), 3 * 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.inference_mode():
        found = texts.unpack(attend(qkv, texts, 8))
    assert found.dtype == (torch.bfloat16 if amx else torch.float32)
    real = torch.arange(40) < torch.tensor(lengths)[:, None]
    q, k, v = texts.unpack(qkv).float().view(5, 40, 3, 4, 8).permute(2, 0, 3, 1, 4)
    expected = ScaledDotProductAttention(0.0)(q, k, v, real[:, None, None]).transpose(1, 2).flatten(2)
    assert (found.float() - expected)[real].abs().max() < (0.03 if amx else 1e-5)
