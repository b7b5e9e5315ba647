"""Heads weighed, switched off and cut out: the same numbers each way; and what was cut is saved and loads again."""

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
from helpers import TINY, random_batch, widen
from tiny_folder import MEAN, TEXTS, write_encoder
from torch import nn

from minibert import Bert, BertConfig, CheckpointError, ConfigError, SentenceEncoder
from minibert.cli.inspect import describe
from minibert.config import POSITION_TYPES
from minibert.fused import fuse
from minibert.research import ablate_heads, capture, mask_heads, prune_heads

BATCH = random_batch(TINY, (9, 5, 1))
HEADS = {0: [2], 1: [3, 0]}
every_position_type = pytest.mark.parametrize("kind", POSITION_TYPES)
fused_or_not = pytest.mark.parametrize("fused", [False, True])


def wide(fused=False, **changes):
    model = widen(Bert(dataclasses.replace(TINY, **changes))).double().eval()
    if fused:
        fuse(model)
    return model


def apart(one, other):
    return max((mine - theirs).abs().max().item() for mine, theirs in zip(one, other, strict=True))


def without_columns(model, heads):
    """Return the same by hand: the columns of `out` that read these heads are 0."""
    other = copy.deepcopy(model)
    for layer, numbers in heads.items():
        for head in numbers:
            other.layers[layer].attention.out.weight.data[:, 8 * head : 8 * head + 8] = 0
    return other


def hooks_on(model):
    return [name for name, part in model.named_modules() if part._forward_hooks or part._forward_pre_hooks]


# Masks.


@fused_or_not
@every_position_type
def test_a_mask_of_ones_changes_nothing_and_zeros_switch_off(kind, fused):
    model = wide(fused, position_embedding_type=kind)
    before = model(**BATCH)
    mask = torch.ones(2, 4)
    with mask_heads(model, mask):
        assert apart(model(**BATCH), before) < 1e-10
    for layer, heads in HEADS.items():
        mask[layer, heads] = 0
    by_hand = without_columns(model, HEADS)(**BATCH)
    assert apart(by_hand, before) > 1e-3
    with mask_heads(model, mask):
        assert apart(model(**BATCH), by_hand) < 1e-10
    with ablate_heads(model, HEADS):
        assert apart(model(**BATCH), by_hand) < 1e-10
    assert apart(model(**BATCH), before) == 0
    assert hooks_on(model) == []


def test_a_mask_weighs_the_probabilities_after_dropout():
    model = wide(attention_probs_dropout_prob=0.5).train()
    mask = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    with mask_heads(model, mask):
        masked = model(**BATCH)
    for layer, row in zip(model.layers, mask, strict=True):
        layer.attention.core.dropout.register_forward_hook(lambda _, __, probs, row=row: probs * row[:, None, None])
    torch.manual_seed(1)
    assert apart(masked, model(**BATCH)) < 1e-12


def test_gradients_of_the_mask_are_what_a_small_step_shows():
    model = wide()

    def loss(mask):
        with mask_heads(model, mask):
            return model(**BATCH).last_hidden_state.square().mean()

    mask = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
    loss(mask).backward()
    for layer in range(2):
        for head in range(4):
            step = torch.zeros(2, 4, dtype=torch.float64)
            step[layer, head] = 1e-6
            with torch.no_grad():
                slope = (loss(mask + step) - loss(mask - step)) / 2e-6
            assert mask.grad[layer, head].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-9)
    assert (mask.grad.abs() > 1e-9).all()


def test_a_mask_in_float32_has_gradients_in_a_model_of_any_type():
    model = wide().to(torch.bfloat16)
    mask = torch.ones(2, 4, requires_grad=True)
    with mask_heads(model, mask):
        output = model(**BATCH).last_hidden_state
    output.float().square().sum().backward()
    assert output.dtype == torch.bfloat16
    assert mask.grad.dtype == torch.float32
    assert mask.grad.abs().max() > 0


def test_a_mask_may_be_plain_numbers():
    model = wide()
    with mask_heads(model, [[1, 1, 0, 1], [0, 1, 1, 0]]):
        assert apart(model(**BATCH), without_columns(model, HEADS)(**BATCH)) < 1e-10


def test_masks_act_in_encode(tmp_path):
    encoder = SentenceEncoder.from_pretrained(write_encoder(tmp_path, ("Pooling", MEAN)), device="cpu")
    before = encoder.encode(TEXTS)
    with ablate_heads(encoder, HEADS):
        off = encoder.encode(TEXTS, batch_size=2)
    assert np.abs(off - before).max() > 1e-3
    encoder.model = without_columns(encoder.model, HEADS)
    assert np.abs(encoder.encode(TEXTS) - off).max() < 1e-5


WRONG_MASKS = {
    "a layer more": torch.ones(3, 4),
    "a head more": torch.ones(2, 5),
    "one head for all": torch.ones(2, 1),
    "one row": torch.ones(4),
    "a number": torch.tensor(1.0),
    "transformers' five axes": torch.ones(2, 1, 4, 1, 1),
    "rows of two lengths": [torch.ones(4), torch.ones(3)],
}


@pytest.mark.parametrize("mask", WRONG_MASKS.values(), ids=WRONG_MASKS)
def test_a_mask_of_the_wrong_size_is_refused(mask):
    model = wide()
    with (
        pytest.raises(ValueError, match=r"the mask must have .* each layer: \[\(4,\), \(4,\)\], and it has \["),
        mask_heads(model, mask),
    ):
        pass
    assert hooks_on(model) == []


WRONG_HEADS = [
    ({2: [0]}, "there is no layer 2, only 0 to 1"),
    ({-1: [0]}, "there is no layer -1, only 0 to 1"),
    ({"0": [0]}, "there is no layer '0', only 0 to 1"),
    ({0: [4]}, "layer 0 has no head 4, only 0 to 3"),
    ({1: [0], 0: [1, -1]}, "layer 0 has no head -1, only 0 to 3"),
    ({1: 7}, "layer 1 has no head 7, only 0 to 3"),
    ({1: [0.5]}, r"heads must be whole numbers, not \[0.5\]"),
    ({1: None}, "heads must be whole numbers, not None"),
]


@pytest.mark.parametrize(("heads", "words"), WRONG_HEADS)
def test_heads_that_are_not_there_are_refused_and_nothing_is_changed(heads, words):
    model = wide()
    before = model(**BATCH)
    with pytest.raises((ValueError, TypeError), match=words):
        prune_heads(model, heads)
    with pytest.raises((ValueError, TypeError), match=words), ablate_heads(model, heads):
        pass
    assert apart(model(**BATCH), before) == 0
    assert model.config == TINY


def test_an_attention_without_a_core_is_refused():
    model = wide()
    model.layers[1].attention = nn.Identity()
    for context in (mask_heads(model, torch.ones(2, 4)), ablate_heads(model, {1: [0]})):
        with pytest.raises(ValueError, match=r"layers.1.attention \(Identity\) has no 'core'"), context:
            pass
    with ablate_heads(model, {0: [0]}):  # the other layer still has one
        model.layers[0](torch.randn(1, 5, 32, dtype=torch.float64))


# Pruning.


@fused_or_not
@every_position_type
def test_pruned_equals_ablated_with_smaller_matrices(kind, fused):
    model = wide(fused, position_embedding_type=kind)
    with ablate_heads(model, HEADS):
        expected = model(**BATCH)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    prune_heads(model, HEADS)
    assert apart(model(**BATCH), expected) < 1e-10
    for layer, lost in ((0, 1), (1, 2)):
        attention, width = model.layers[layer].attention, 8 * (4 - lost)
        for part in (attention.query, attention.key, attention.value):
            assert tuple(part.weight.shape) == (part.out_features, part.in_features) == (width, 32)
            assert tuple(part.bias.shape) == (width,)
        assert (
            tuple(attention.out.weight.shape) == (attention.out.out_features, attention.out.in_features) == (32, width)
        )
    assert parameters - sum(parameter.numel() for parameter in model.parameters()) == 3 * (4 * 32 * 8 + 3 * 8)
    with capture(model, "layers.1.attention.*", "**.probs") as values:
        assert apart(model(**BATCH), expected) < 1e-10
    assert values["layers.1.attention.q"].shape == (3, 2, 9, 8)
    assert values["layers.1.attention.core.probs"].shape == (3, 2, 9, 9)


def test_pruned_then_fused_and_masked():
    page = wide()
    prune_heads(page, HEADS)
    fused = fuse(copy.deepcopy(page))
    assert apart(fused(**BATCH), page(**BATCH)) < 1e-10
    mask = [torch.tensor([1.0, 0, 0.5]), torch.tensor([2.0, 1])]
    with mask_heads(fused, mask), mask_heads(page, mask):
        assert apart(fused(**BATCH), page(**BATCH)) < 1e-10
    with (
        pytest.raises(ValueError, match=r"\[\(3,\), \(2,\)\], and it has \[\(4,\), \(4,\)\]"),
        mask_heads(page, torch.ones(2, 4)),
    ):
        pass


def test_heads_are_numbered_among_those_left():
    once, twice = wide(), wide()
    prune_heads(once, {1: [0, 2, 3]})
    prune_heads(twice, {1: [2]})
    prune_heads(twice, {1: [0, 2]})  # originally 0 and 3
    assert twice.config.pruned_heads == once.config.pruned_heads == {1: [0, 2, 3]}
    assert apart(twice(**BATCH), once(**BATCH)) == 0
    with pytest.raises(ValueError, match="layer 1 has no head 1, only 0 to 0"):
        prune_heads(twice, {1: [1]})


def test_heads_may_come_as_a_tensor():
    """As from `importance[layer].topk(2, largest=False).indices`."""
    one, other = wide(), wide()
    prune_heads(one, {0: torch.tensor([2, 1]), 1: torch.tensor(3)})
    prune_heads(other, {0: np.array([1, 2]), 1: 3})
    assert one.config.pruned_heads == other.config.pruned_heads == {0: [1, 2], 1: [3]}
    assert apart(one(**BATCH), other(**BATCH)) == 0


def test_no_heads_to_prune_changes_nothing():
    model = wide()
    prune_heads(model, {0: []})
    prune_heads(model, {})
    assert model.config == TINY


def test_one_head_must_stay():
    model = wide()
    with pytest.raises(ValueError, match="at least one head must stay in layer 1, which has 4"):
        prune_heads(model, {0: [1], 1: [0, 1, 2, 3]})
    assert model.config == TINY
    assert model.layers[0].attention.query.out_features == 32


def test_a_part_that_is_not_a_linear_layer_is_refused_and_nothing_is_pruned():
    model = wide()
    model.layers[1].attention.value = nn.Sequential(model.layers[1].attention.value)
    with pytest.raises(ValueError, match=r"can't prune layers.1.attention.value: it is not an nn.Linear of \(32, 32\)"):
        prune_heads(model, {0: [0], 1: [0]})
    assert model.layers[0].attention.query.out_features == 32
    model.layers[1].attention = nn.Identity()
    with pytest.raises(ValueError, match=r"can't prune layers.1.attention.query"):
        prune_heads(model, {1: [0]})


def test_pruned_models_are_trained_copied_and_pickled():
    model = wide()
    model.layers[0].attention.query.weight.requires_grad_(False)
    model.layers[0].attention.query.register_forward_hook(lambda *_: None)
    prune_heads(model, HEADS)
    assert hooks_on(model) == ["layers.0.attention.query"]
    expected = model(**BATCH)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(wide_pruned()))):
        assert apart(other(**BATCH), expected) == 0
    model.train()(**BATCH).last_hidden_state.square().sum().backward()
    attention = model.layers[0].attention
    assert attention.query.weight.grad is None  # frozen before, frozen now
    assert attention.out.weight.grad.shape == (32, 24)


def wide_pruned():
    model = wide()
    prune_heads(model, HEADS)
    return model


@every_position_type
def test_a_pruned_model_is_saved_and_loads_again(kind, tmp_path):
    model = widen(Bert(dataclasses.replace(TINY, position_embedding_type=kind))).eval()
    prune_heads(model, HEADS)
    model.save_pretrained(tmp_path)
    again = Bert.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.layers[1].attention.query.out_features == 16
    assert apart(again(**BATCH), model(**BATCH)) == 0
    prune_heads(again, {0: [0]})
    again.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["pruned_heads"] == {"0": [0, 2], "1": [0, 3]}
    assert apart(Bert.from_pretrained(tmp_path)(**BATCH), again(**BATCH)) == 0


def test_a_pruned_encoder_is_saved_and_loads_again(tmp_path):
    encoder = SentenceEncoder.from_pretrained(write_encoder(tmp_path / "whole", ("Pooling", MEAN)), device="cpu")
    with ablate_heads(encoder, HEADS):
        expected = encoder.encode(TEXTS)
    prune_heads(encoder, HEADS)
    encoder.save_pretrained(tmp_path / "pruned")
    for again in (encoder, SentenceEncoder.from_pretrained(tmp_path / "pruned", device="cpu")):
        assert np.abs(again.encode(TEXTS) - expected).max() < 1e-5
    shown = describe(again)
    assert "{0: [2], 1: [0, 3]}" in shown
    attention = sum(p.numel() for layer in encoder.model.layers for p in layer.attention.parameters())
    assert f"{attention:,}" in shown


def test_a_new_bert_has_all_heads_whatever_its_config_says():
    born = Bert(wide_pruned().config)
    assert {layer.attention.query.out_features for layer in born.layers} == {32}
    with pytest.raises(RuntimeError, match="size mismatch"):
        born.load_state_dict(wide_pruned().state_dict())


def test_a_model_without_pruned_heads_is_saved_as_before(tmp_path):
    wide().save_pretrained(tmp_path)
    assert "pruned_heads" not in json.loads((tmp_path / "config.json").read_text())


def test_a_config_and_weights_that_disagree_are_refused(tmp_path):
    model = wide_pruned()
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"pruned_heads": {"0": [2]}}))
    with pytest.raises(
        CheckpointError, match=r"layer.1.attention.self.query.weight: \(16, 32\) in the files, \(32, 32\)"
    ):
        Bert.from_pretrained(tmp_path)
    model.config = TINY
    with pytest.raises(CheckpointError, match=r"layers.0.attention.query.weight"):
        model.save_pretrained(tmp_path / "other")


# config.json.


def test_the_form_of_transformers_4_is_read():
    config = BertConfig.from_dict(TINY.to_dict() | {"pruned_heads": {"1": [3, 0, 3], "0": []}})
    assert config.pruned_heads == {1: [0, 3]}
    assert BertConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert hash(config) == hash(dataclasses.replace(config, pruned_heads={1: (0, 3)}))
    assert config != TINY
    assert BertConfig.from_dict(TINY.to_dict() | {"pruned_heads": {}}) == TINY


WRONG_CONFIGS = [
    ([0, 1], r"pruned_heads must be \{layer: removed heads\}, but is \[0, 1\]"),
    ({"2": [0]}, "pruned_heads is for layers 0 to 1, not '2'"),
    ({"-1": [0]}, "pruned_heads is for layers 0 to 1, not '-1'"),
    ({"first": [0]}, "pruned_heads is for layers 0 to 1, not 'first'"),
    ({"0": [4]}, r"pruned_heads of layer 0 must be heads from 0 to 3, but is \[4\]"),
    ({"0": 1}, "pruned_heads of layer 0 must be heads from 0 to 3, but is 1"),
    ({"0": ["1"]}, r"pruned_heads of layer 0 must be heads from 0 to 3, but is \['1'\]"),
    ({"1": [0, 1, 2, 3]}, "pruned_heads of layer 1 leaves it none of its 4 heads"),
]


@pytest.mark.parametrize(("pruned", "words"), WRONG_CONFIGS)
def test_an_impossible_config_is_refused(pruned, words):
    with pytest.raises(ConfigError, match=words):
        BertConfig.from_dict(TINY.to_dict() | {"pruned_heads": pruned})
