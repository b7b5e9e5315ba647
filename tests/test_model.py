"""What the page promises by itself: padding, training, bad input, small floats, and parts that can be replaced.

That its numbers are BERT's is shown in tests/parity.
"""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from helpers import TINY, random_batch, widen
from torch import nn

from minibert import Bert, BertConfig
from minibert.config import ACTIVATIONS, POSITION_TYPES
from minibert.model import Activation, Encoder, EncoderLayer, LayerNorm, ScaledDotProductAttention

every_position_type = pytest.mark.parametrize("kind", POSITION_TYPES)


def wide(config=TINY, **changes):
    """A Bert in float64 and eval mode, with wide random weights."""
    return widen(Bert(replace(config, **changes))).double().eval()


def assert_close(one, other, below=1e-12):
    assert one.shape == other.shape
    assert (one - other).abs().max().item() < below


# Padding.


@every_position_type
def test_more_padding_changes_no_real_position(kind):
    model = wide(position_embedding_type=kind)
    short = random_batch(TINY, (9, 5, 1))
    long = {name: nn.functional.pad(tensor, (0, 7)) for name, tensor in short.items()}
    real = short["attention_mask"].bool()
    before, after = model(**short), model(**long)
    assert_close(after.last_hidden_state[:, :9][real], before.last_hidden_state[real])
    assert_close(after.pooler_output, before.pooler_output)


@every_position_type
def test_what_stands_in_the_padding_changes_nothing_at_all(kind):
    model = wide(position_embedding_type=kind)
    batch = random_batch(TINY, (9, 5, 1))
    real = batch["attention_mask"].bool()
    other = batch | {"input_ids": batch["input_ids"].where(real, torch.tensor(98))}
    assert not torch.equal(other["input_ids"], batch["input_ids"])
    assert torch.equal(model(**other).last_hidden_state[real], model(**batch).last_hidden_state[real])


@every_position_type
def test_a_sentence_alone_equals_itself_in_a_batch(kind):
    model = wide(position_embedding_type=kind)
    lengths = (9, 5, 1)
    batch = random_batch(TINY, lengths)
    together = model(**batch)
    for i, length in enumerate(lengths):
        alone = model(batch["input_ids"][i : i + 1, :length], None, batch["token_type_ids"][i : i + 1, :length])
        assert_close(alone.last_hidden_state[0], together.last_hidden_state[i, :length])
        assert_close(alone.pooler_output[0], together.pooler_output[i])


def test_a_mask_of_ones_is_no_mask():
    model, batch = wide(), random_batch(TINY, (9, 9))
    assert torch.equal(
        model(batch["input_ids"], batch["attention_mask"]).last_hidden_state,
        model(batch["input_ids"]).last_hidden_state,
    )


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32])
def test_masks_of_every_type_are_one(dtype):
    model, batch = wide(), random_batch(TINY, (9, 5, 1))
    other = batch | {"attention_mask": batch["attention_mask"].to(dtype)}
    assert torch.equal(model(**other).last_hidden_state, model(**batch).last_hidden_state)


def test_a_mask_of_who_may_look_at_whom():
    model, batch = wide(), random_batch(TINY, (6, 6))
    ids = batch["input_ids"]
    looks_back = torch.ones(2, 6, 6, dtype=torch.bool).tril()
    changed = ids.clone()
    changed[:, 4] = (changed[:, 4] + 1) % TINY.vocab_size
    before, after = model(ids, looks_back).last_hidden_state, model(changed, looks_back).last_hidden_state
    assert torch.equal(before[:, :4], after[:, :4])  # these may not look at position 4
    assert ((before[:, 4:] - after[:, 4:]).abs().amax((0, 2)) > 1e-3).all()  # and these do


def test_a_mask_for_keys_is_a_mask_for_every_pair():
    model, batch = wide(), random_batch(TINY, (9, 5, 1))
    mask = batch["attention_mask"]
    pairs = mask[:, None, :].expand(3, 9, 9)
    assert torch.equal(model(**batch | {"attention_mask": pairs}).last_hidden_state, model(**batch).last_hidden_state)


def test_the_mask_holds_however_low_the_real_scores_are():
    core = ScaledDotProductAttention(0.0)
    q, k = torch.tensor([[1e6, 0.0]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0]])  # scores of -7e5, and of 0 in padding
    v = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert torch.equal(core(q, k, v, torch.tensor([True, False])), v[:1])


@pytest.mark.parametrize("fill", [lambda model: model, widen], ids=["fresh", "wide"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@every_position_type
def test_a_row_that_is_all_padding_stays_finite_in_training_too(dtype, kind, fill):
    torch.manual_seed(0)
    model = fill(Bert(replace(TINY, position_embedding_type=kind))).to(dtype)
    output = model(**random_batch(TINY, (9, 0, 5)))
    (output.last_hidden_state.float().mean() + output.pooler_output.float().mean()).backward()
    assert output.last_hidden_state.dtype == dtype
    assert output.last_hidden_state.isfinite().all()
    assert output.pooler_output.isfinite().all()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_a_batch_of_no_rows():
    nothing = torch.zeros(0, 7, dtype=torch.long)
    output = wide()(nothing, nothing, nothing)
    assert output.last_hidden_state.shape == (0, 7, TINY.hidden_size)
    assert output.pooler_output.shape == (0, TINY.hidden_size)


# Training.


@every_position_type
def test_one_training_step_reaches_every_parameter(kind):
    model = wide(position_embedding_type=kind).train()
    weights = torch.linspace(-1, 1, TINY.hidden_size, dtype=torch.float64)
    output = model(**random_batch(TINY, (9, 5, 1)))
    ((output.last_hidden_state @ weights).sum() + (output.pooler_output @ weights).sum()).backward()
    for name, parameter in model.named_parameters():
        largest = parameter.grad.abs().max().item()
        if name.endswith("attention.key.bias") and kind != "relative_key_query":
            assert largest < 1e-12, name  # adds the same to all scores of a query, which softmax does not see
        else:
            assert largest > 1e-6, name


def test_padding_has_no_gradient_in_the_token_table():
    model = wide(pad_token_id=7)
    model(torch.tensor([[5, 7, 6]])).last_hidden_state.square().sum().backward()
    moved = model.embeddings.token.weight.grad.abs().sum(-1).nonzero().flatten()
    assert moved.tolist() == [5, 6]


def test_eval_is_deterministic_and_training_is_not():
    model, batch = wide(), random_batch(TINY, (9, 5, 1))
    assert torch.equal(model(**batch).last_hidden_state, model(**batch).last_hidden_state)
    model.train()
    assert not torch.equal(model(**batch).last_hidden_state, model(**batch).last_hidden_state)


def test_with_attention_dropout_1_nothing_is_gathered():
    model = wide(attention_probs_dropout_prob=1.0).train()
    attention = model.layers[0].attention
    x = torch.randn(2, 5, TINY.hidden_size, dtype=torch.float64)
    assert torch.equal(attention(x), attention.out.bias.expand_as(x))


def test_with_hidden_dropout_1_a_layer_only_normalises():
    model = wide(hidden_dropout_prob=1.0).train()
    layer = model.layers[0]
    x = torch.randn(2, 5, TINY.hidden_size, dtype=torch.float64)
    assert torch.equal(layer(x), layer.feed_forward_norm(layer.attention_norm(x)))
    assert not model.embeddings(torch.ones(2, 5, dtype=torch.long)).any()


def test_dropout_1_is_at_rest_in_eval():
    batch = random_batch(TINY, (9, 5, 1))
    forgetful = wide(hidden_dropout_prob=1.0, attention_probs_dropout_prob=1.0)
    assert torch.equal(forgetful(**batch).last_hidden_state, wide()(**batch).last_hidden_state)


# Bad input is refused at the door, with a message that names it.

IDS = torch.ones(2, 9, dtype=torch.long)
REFUSED = {
    "too long": ((torch.ones(2, 41, dtype=torch.long),), ValueError, r"input_ids .* 1 to 40 tokens.* \(2, 41\)"),
    "no tokens": ((IDS[:, :0],), ValueError, r"input_ids .* 1 to 40 tokens.* \(2, 0\)"),
    "one row without its batch": ((IDS[0],), ValueError, r"input_ids must be \(batch, .* not \(9,\)"),
    "three dimensions": ((IDS[None],), ValueError, r"input_ids must be \(batch, .* not \(1, 2, 9\)"),
    "id of the size of the vocabulary": ((IDS * 99,), ValueError, "input_ids must be from 0 to 98, but .* 99 to 99"),
    "id below 0": ((-IDS,), ValueError, "input_ids must be from 0 to 98, but .* -1 to -1"),
    "float ids": ((IDS.float(),), TypeError, "input_ids must be int64 or int32.*, not torch.float32"),
    "bool ids": ((IDS.bool(),), TypeError, "input_ids must be int64 or int32.*, not torch.bool"),
    "float mask": ((IDS, IDS.float()), TypeError, "attention_mask must be bool or 0/1.*, not torch.float32"),
    "additive mask of integers": ((IDS, IDS * -9), ValueError, "attention_mask must be from 0 to 1, but go.* -9 to -9"),
    "mask of another length": ((IDS, IDS[:, :8]), ValueError, r"attention_mask \(2, 8\) .* \(2, 9\)"),
    "mask of one row": ((IDS, IDS[:1]), ValueError, r"attention_mask \(1, 9\) .* \(2, 9\)"),
    "mask of four dimensions": ((IDS, IDS[:, None, None]), ValueError, r"attention_mask \(2, 1, 1, 9\) .* \(2, 9\)"),
    "mask of half the pairs": ((IDS, torch.ones(2, 9, 8).bool()), ValueError, r"attention_mask \(2, 9, 8\)"),
    "type of the number of types": ((IDS, None, IDS * 3), ValueError, "token_type_ids must be from 0 to 2, but .* 3"),
    "type below 0": ((IDS, None, -IDS), ValueError, "token_type_ids must be from 0 to 2, but .* -1"),
    "float types": ((IDS, None, IDS.float()), TypeError, "token_type_ids must be int64 or int32.*, not torch.float32"),
    "types of one row": ((IDS, None, IDS[:1]), ValueError, r"token_type_ids \(1, 9\) does not fit input_ids \(2, 9\)"),
}


@pytest.mark.parametrize(("given", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_by_name(given, error, words):
    with pytest.raises(error, match=words):
        Bert(TINY)(*given)


def test_ids_at_the_very_ends_are_taken():
    model = wide()
    ends = torch.tensor([[0, 98]])
    assert model(ends, None, torch.tensor([[0, 2]])).last_hidden_state.isfinite().all()
    assert torch.equal(model(ends).last_hidden_state, model(ends.int()).last_hidden_state)
    assert model(torch.ones(1, 40, dtype=torch.long)).last_hidden_state.isfinite().all()


# The layer norm in small floats.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_norm_of_a_constant_is_finite_in_small_floats(dtype):
    """eps 1e-12 is 0 in float16. The gradient there is up to 1e6, beyond float16: infinite then, but never NaN."""
    norm = widen(LayerNorm(32, 1e-12)).to(dtype)
    x = torch.full((1, 1, 32), 3.0, dtype=dtype, requires_grad=True)
    norm(x).float().sum().backward()
    assert torch.equal(norm(x)[0, 0], norm.bias)
    same = x.detach().float().requires_grad_()
    copy.deepcopy(norm).float()(same).sum().backward()
    assert same.grad.isfinite().all()
    assert torch.equal(x.grad, same.grad.to(dtype))


def test_the_norm_of_large_numbers_does_not_overflow_in_float16():
    x = torch.linspace(-60_000, 60_000, 32).to(torch.float16)  # their squares are beyond float16
    norm = LayerNorm(32, 1e-12)
    assert_close(copy.deepcopy(norm).half()(x).float(), norm(x.float()), below=1e-3)


# Parts are replaced by assignment.


def test_attention_is_replaced_by_assignment():
    class OnlyItself(nn.Module):
        def forward(self, q, k, v, mask=None, bias=None):
            return v

    model = wide()
    attention = model.layers[0].attention
    x = torch.randn(2, 5, TINY.hidden_size, dtype=torch.float64)
    before = attention(x)
    attention.core = OnlyItself()
    assert_close(attention(x), attention.out(attention.value(x)))
    assert (attention(x) - before).abs().max().item() > 1e-3
    assert list(attention.state_dict()) == list(wide().layers[0].attention.state_dict())


def test_a_norm_is_replaced_by_assignment():
    model, batch = wide(), random_batch(TINY, (9, 5, 1))
    before = model(**batch).last_hidden_state
    for layer in model.layers:
        torchs_own = nn.LayerNorm(TINY.hidden_size, eps=TINY.layer_norm_eps, dtype=torch.float64)
        torchs_own.load_state_dict(layer.attention_norm.state_dict())
        layer.attention_norm = torchs_own
    assert_close(model(**batch).last_hidden_state, before)
    model.layers[1].feed_forward_norm = nn.Identity()
    assert (model(**batch).last_hidden_state - before).abs().max().item() > 1e-3


def test_layers_are_a_list_that_can_be_cut():
    model = wide(num_hidden_layers=3)
    x, mask = torch.randn(2, 5, TINY.hidden_size, dtype=torch.float64), torch.ones(2, 1, 1, 5, dtype=torch.bool)
    first_two = model.layers[:2]
    assert isinstance(first_two, Encoder)
    assert isinstance(model.layers[-1], EncoderLayer)
    assert torch.equal(first_two(x, mask), model.layers[1](model.layers[0](x, mask), mask))
    model.layers = first_two
    ids = torch.ones(1, 4, dtype=torch.long)
    assert torch.equal(model(ids).last_hidden_state, first_two(model.embeddings(ids)))


def test_values_worth_watching_have_a_name():
    model, batch = wide(), random_batch(TINY, (9, 5, 1))
    seen = {}
    core = model.layers[0].attention.core
    for name in ("scores", "probs"):
        getattr(core, name).register_forward_hook(lambda _, __, value, name=name: seen.update({name: value}))
    model(**batch)
    assert seen["scores"].shape == seen["probs"].shape == (3, 4, 9, 9)
    assert_close(seen["probs"].sum(-1), torch.ones(3, 4, 9, dtype=torch.float64))
    assert not seen["probs"][1, :, :, 5:].any()  # nothing is gathered from padding


# Names, and fresh weights.

NAMES_OUTSIDE = """
embeddings.token.weight
embeddings.position.weight
embeddings.token_type.weight
embeddings.norm.weight
embeddings.norm.bias
pooler.dense.weight
pooler.dense.bias
"""
NAMES_IN_A_LAYER = """
attention.query.weight
attention.query.bias
attention.key.weight
attention.key.bias
attention.value.weight
attention.value.bias
attention.out.weight
attention.out.bias
attention_norm.weight
attention_norm.bias
feed_forward.up.weight
feed_forward.up.bias
feed_forward.down.weight
feed_forward.down.bias
feed_forward_norm.weight
feed_forward_norm.bias
"""


def test_the_names_of_the_weights():
    """Whoever keeps a state dict relies on these: they do not change."""
    assert list(EncoderLayer(TINY).state_dict()) == NAMES_IN_A_LAYER.split()
    outside, layers = NAMES_OUTSIDE.split(), [f"layers.{i}.{n}" for i in range(2) for n in NAMES_IN_A_LAYER.split()]
    assert list(Bert(TINY).state_dict()) == outside[:5] + layers + outside[5:]
    assert list(Bert(TINY, pooler=False).state_dict()) == outside[:5] + layers


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_relative_positions_are_one_table_per_layer(kind):
    absolute, relative = Bert(TINY).state_dict(), Bert(replace(TINY, position_embedding_type=kind)).state_dict()
    assert absolute.keys() - relative.keys() == {"embeddings.position.weight"}
    tables = {f"layers.{i}.attention.relative.distance.weight" for i in range(2)}
    assert relative.keys() - absolute.keys() == tables
    assert {tuple(relative[name].shape) for name in tables} == {(2 * 40 - 1, 8)}


def test_every_activation_of_the_configuration_has_its_formula():
    assert set(Activation.formulas) == set(ACTIVATIONS)


@pytest.mark.parametrize("deviation", [0.02, 0.1])
def test_fresh_weights_are_as_published(deviation):
    torch.manual_seed(0)
    config = BertConfig(vocab_size=1000, num_hidden_layers=1, pad_token_id=7, initializer_range=deviation)
    model = Bert(config)
    assert model.training
    for name, tensor in model.state_dict().items():
        if name.endswith("bias"):
            assert not tensor.any(), name
        elif "norm" in name:
            assert (tensor == 1).all(), name
        elif tensor.numel() > 10_000:
            assert tensor.std().item() == pytest.approx(deviation, rel=0.02), name
            assert abs(tensor.mean().item()) < deviation / 50, name
    token = model.embeddings.token.weight
    assert (token == 0).all(-1).nonzero().flatten().tolist() == [7]


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("hidden_act", ACTIVATIONS)
@every_position_type
def test_a_copy_computes_the_same_and_shares_nothing(copied, hidden_act, kind):
    model = wide(hidden_act=hidden_act, position_embedding_type=kind)
    batch = random_batch(TINY, (9, 5, 1))
    before = model(**batch).last_hidden_state
    other = copied(model)
    assert other.config == model.config
    assert torch.equal(other(**batch).last_hidden_state, before)
    widen(other, seed=1)
    assert torch.equal(model(**batch).last_hidden_state, before)
