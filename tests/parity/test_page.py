"""The page computes what transformers' BertModel computes: each part, each layer, the whole, and the gradients.

In float64, every parameter drawn wide, at all real positions, to 1e-10 (the true differences are near 1e-14).
test_would_notice.py shows that this comparison sees every mistake that is easily made.
"""

from dataclasses import replace

import pytest
import torch
from helpers import TINY, random_batch
from parity.pair import Pair, assert_same, assert_same_all_the_way, make_pair, watch
from transformers.activations import ACT2FN

from minibert.checkpoint.names import published_name
from minibert.config import ACTIVATIONS
from minibert.model import Activation

CONFIGS = {
    "tiny": TINY,
    "another shape": replace(
        TINY,
        vocab_size=61,
        hidden_size=30,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=71,
        max_position_embeddings=11,
        type_vocab_size=2,
    ),
    "one head": replace(TINY, num_attention_heads=1),
    "heads of one number": replace(TINY, num_attention_heads=32),
    "one sentence type": replace(TINY, type_vocab_size=1),
    "a large eps": replace(TINY, layer_norm_eps=1e-3),
    "gelu_new": replace(TINY, hidden_act="gelu_new"),
    "relu": replace(TINY, hidden_act="relu"),
    "silu": replace(TINY, hidden_act="silu"),
    "padding is token 7": replace(TINY, pad_token_id=7),
    "no padding token": replace(TINY, pad_token_id=None),
    "dropout rates, at rest in eval": replace(TINY, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2),
}
LENGTHS = [(9, 9, 9), (9, 5, 1), (1, 1, 1)]
both_attentions = pytest.mark.parametrize("attention", ["eager", "sdpa"])


# Part by part, each fed what the reference fed its own.

PARTS = [
    "embeddings",
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.core",
    "attention.out",
    "attention",
    "attention_norm",
    "feed_forward.up",
    "feed_forward.activation",
    "feed_forward.down",
    "feed_forward",
    "feed_forward_norm",
    "layer",
    "pooler",
]


@pytest.fixture(
    scope="module",
    params=[TINY, replace(TINY, num_attention_heads=2, hidden_act="gelu_new", layer_norm_eps=1e-3)],
    ids=["tiny", "another"],
)
def parts(request):
    """Part -> [(what ours makes of the reference's input, what the reference made of it)], once per layer."""
    ours, theirs = make_pair(request.param)
    batch = random_batch(request.param, (9, 5, 1))
    mask = batch["attention_mask"].bool()[:, None, None]
    seen = watch(theirs, batch)
    found = {name: [] for name in PARTS}

    def compare(name, mine, reference):
        found[name].append((mine, reference))

    compare("embeddings", ours.embeddings(batch["input_ids"], batch["token_type_ids"]), seen["embeddings"].output)
    for i, layer in enumerate(ours.layers):
        x = seen[f"encoder.layer.{i}"].inputs[0]
        q, k, v, (context, _), attended, y, up, bent, down, z = (
            seen[f"encoder.layer.{i}{name}"].output
            for name in (
                ".attention.self.query",
                ".attention.self.key",
                ".attention.self.value",
                ".attention.self",
                ".attention.output.dense",
                ".attention",
                ".intermediate.dense",
                ".intermediate",
                ".output.dense",
                "",
            )
        )
        y = y[0]  # the reference gives the attention's probabilities beside it
        compare("attention.query", layer.attention.query(x), q)
        compare("attention.key", layer.attention.key(x), k)
        compare("attention.value", layer.attention.value(x), v)
        heads = layer.attention.core(*(layer.attention.split(each) for each in (q, k, v)), mask)
        compare("attention.core", heads.transpose(1, 2).flatten(2), context)
        compare("attention.out", layer.attention.out(context), attended)
        compare("attention", layer.attention(x, mask), attended)
        compare("attention_norm", layer.attention_norm(x + attended), y)
        compare("feed_forward.up", layer.feed_forward.up(y), up)
        compare("feed_forward.activation", layer.feed_forward.activation(up), bent)
        compare("feed_forward.down", layer.feed_forward.down(bent), down)
        compare("feed_forward", layer.feed_forward(y), down)
        compare("feed_forward_norm", layer.feed_forward_norm(y + down), z)
        compare("layer", layer(x, mask), z)
    compare("pooler", ours.pooler(z), seen["pooler"].output)
    return found


@pytest.mark.parametrize("part", PARTS)
def test_each_part_equals_the_reference(parts, part):
    assert len(parts[part]) == (1 if part in ("embeddings", "pooler") else TINY.num_hidden_layers)
    for mine, reference in parts[part]:
        assert_same(mine, reference)


@pytest.mark.parametrize("hidden_act", ACTIVATIONS)
def test_each_activation_equals_the_reference_far_out_too(hidden_act):
    x = torch.linspace(-40, 40, 100_001, dtype=torch.float64)
    assert_same(Activation(hidden_act)(x), ACT2FN[hidden_act](x))


# The whole, layer by layer.


@both_attentions
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_hidden_state_equals_the_reference(config, attention):
    assert_same_all_the_way(make_pair(config, attention=attention), random_batch(config, (9, 5, 1)))


@both_attentions
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_whatever_the_lengths(lengths, attention):
    assert_same_all_the_way(make_pair(attention=attention), random_batch(TINY, lengths))


@both_attentions
def test_at_the_full_length(attention):
    assert_same_all_the_way(make_pair(attention=attention), random_batch(TINY, (TINY.max_position_embeddings, 3)))


@pytest.mark.parametrize("seed", range(1, 6))
def test_whatever_the_weights(seed):
    assert_same_all_the_way(make_pair(seed=seed), random_batch(TINY, (9, 5, 1), seed))


@both_attentions
def test_without_a_pooler(attention):
    pair = make_pair(pooler=False, attention=attention)
    batch = random_batch(TINY, (9, 5, 1))
    assert_same_all_the_way(pair, batch)
    assert pair.ours(**batch).pooler_output is None
    assert pair.theirs(**batch).pooler_output is None


# Masks.


@both_attentions
@pytest.mark.parametrize("given", [("input_ids",), ("input_ids", "token_type_ids"), ("input_ids", "attention_mask")])
def test_what_is_not_given_has_the_same_default(given, attention):
    batch = random_batch(TINY, (9, 5, 1))
    assert_same_all_the_way(make_pair(attention=attention), {name: batch[name] for name in given})


@both_attentions
@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.uint8])
def test_masks_of_every_type(dtype, attention):
    batch = random_batch(TINY, (9, 5, 1))
    assert_same_all_the_way(
        make_pair(attention=attention), batch | {"attention_mask": batch["attention_mask"].to(dtype)}
    )


@both_attentions
def test_padding_on_the_left(attention):
    batch = {name: tensor.flip(1) for name, tensor in random_batch(TINY, (9, 5, 1)).items()}
    assert batch["attention_mask"][2].tolist() == [0] * 8 + [1]
    assert_same_all_the_way(make_pair(attention=attention), batch)


@both_attentions
def test_holes_in_the_mask(attention):
    batch = random_batch(TINY, (9, 9, 9))
    batch["attention_mask"][:, [2, 3, 7]] = 0
    assert_same_all_the_way(make_pair(attention=attention), batch)


def test_a_mask_of_who_may_look_at_whom():
    """Ours takes (B, S, S); the reference takes the same as numbers to add, (B, 1, S, S)."""
    ours, theirs = make_pair()
    batch = random_batch(TINY, (9, 9, 9))
    mask = (torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0)) < 0.5) | torch.eye(9, dtype=torch.bool)
    added = torch.zeros(3, 1, 9, 9, dtype=torch.float64).masked_fill(~mask[:, None], torch.finfo(torch.float64).min)
    mine, reference = ours(**batch | {"attention_mask": mask}), theirs(**batch | {"attention_mask": added})
    assert_same(mine.last_hidden_state, reference.last_hidden_state)
    assert_same(mine.pooler_output, reference.pooler_output)


def test_a_row_that_is_all_padding_is_finite_and_equal():
    """With eager attention; sdpa leaves such rows at 0, which the reference itself calls undefined."""
    ours, theirs = make_pair()
    batch = random_batch(TINY, (9, 0, 5))
    mine, reference = ours(**batch), theirs(**batch)
    assert mine.last_hidden_state[1].isfinite().all()
    assert_same(mine.last_hidden_state, reference.last_hidden_state)
    assert_same(mine.pooler_output, reference.pooler_output)


# Training.


def gradients(model, batch):
    """Of one loss that every real position, and the pooler if there is one, has a part in."""
    output = model(**batch)
    generator = torch.Generator().manual_seed(1)
    loss = torch.zeros((), dtype=torch.float64)
    for vectors in (output.last_hidden_state[batch["attention_mask"].bool()], output.pooler_output):
        if vectors is not None:
            loss = loss + (vectors * torch.randn(vectors.shape, generator=generator, dtype=vectors.dtype)).sum()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@both_attentions
@pytest.mark.parametrize("pooler", [True, False], ids=["pooler", "no pooler"])
@pytest.mark.parametrize("config", ["tiny", "a large eps", "gelu_new", "relu", "silu", "padding is token 7"])
def test_every_parameter_has_the_gradient_of_the_reference(config, pooler, attention):
    config = CONFIGS[config]
    ours, theirs = make_pair(config, pooler=pooler, attention=attention)
    batch = random_batch(config, (9, 5, 1))
    mine, reference = gradients(ours, batch), gradients(theirs, batch)
    assert sorted(map(published_name, mine)) == sorted(reference)
    for name, gradient in mine.items():
        assert_same(gradient, reference[published_name(name)])


def test_in_training_mode_without_dropout():
    config = replace(TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ours, theirs = make_pair(config)
    assert_same_all_the_way(Pair(ours.train(), theirs.train()), random_batch(config, (9, 5, 1)))


def test_every_dropout_is_in_its_place_and_has_its_rate(monkeypatch):
    """Where chance decides, the two can't be compared. So here it is always the same numbers that are forgotten."""

    def forget_every_fifth(x, p=0.5, training=True, inplace=False):
        kept = (torch.arange(x.numel()) % 5 > 0).view(x.shape)
        return x * kept / (1 - p) if training else x

    config = replace(TINY, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    ours, theirs = make_pair(config)
    batch = random_batch(config, (9, 9, 9))
    at_rest = ours(**batch).last_hidden_state
    monkeypatch.setattr(torch.nn.functional, "dropout", forget_every_fifth)
    assert_same_all_the_way(Pair(ours.train(), theirs.train()), batch)
    assert not torch.allclose(ours(**batch).last_hidden_state, at_rest)
