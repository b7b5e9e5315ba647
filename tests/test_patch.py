"""A patch changes everything that follows and nothing else, and an impossible one is refused by name."""

import copy
import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers import TINY, random_batch, widen
from tiny_folder import MEAN, write_encoder
from torch import nn

from minibert import Bert, SentenceEncoder
from minibert.config import POSITION_TYPES
from minibert.fused import fuse
from minibert.research import capture, patch

LENGTHS = (9, 5, 1)
A, B = (random_batch(TINY, LENGTHS, seed=seed) for seed in (1, 2))  # two batches of the same lengths
every_position_type = pytest.mark.parametrize("kind", POSITION_TYPES)


def wide(**changes):
    return widen(Bert(dataclasses.replace(TINY, **changes))).double().eval()


def captured(model, batch, *patterns):
    with capture(model, *(patterns or ["**"])) as values:
        output = model(**batch)
    return values, output


def apart(one, other):
    return max((mine - theirs).abs().max().item() for mine, theirs in zip(one, other, strict=True))


def hooks_on(model):
    return [name for name, part in model.named_modules() if part._forward_hooks or part._forward_pre_hooks]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("tiny"), ("Pooling", MEAN))


@pytest.fixture
def encoder(folder):
    return SentenceEncoder.from_pretrained(folder, device="cpu").double()


# A patch has its effect, and no other.


@pytest.mark.parametrize("fused", [False, True])
@every_position_type
def test_every_value_can_be_put_back_and_can_be_changed(kind, fused):
    page = wide(position_embedding_type=kind)
    model = copy.deepcopy(page)
    if fused:
        fuse(model)
    values, before = captured(page, A)
    for name in values:
        with patch(model, name, values):
            assert apart(model(**A), before) < 1e-10, name
        with patch(model, name, lambda value: value.flip(-1) * 1.5):
            changed = model(**A)
        assert apart(changed, before) > 1e-6, name
        with patch(page, name, lambda value: value.flip(-1) * 1.5):
            assert apart(changed, page(**A)) < 1e-10, name
    assert apart(model(**A), before) < 1e-10


def test_values_after_a_patch_are_of_the_other_text_and_those_before_are_not():
    model = wide()
    clean, there = captured(model, A)
    with patch(model, "layers.0", clean), capture(model, "**") as values:
        here = model(**B)
    assert apart(here, there) == 0
    own, _ = captured(model, B)
    for name in values:
        before = name.startswith(("embeddings", "layers.0.")) and name != "layers.0"
        assert torch.equal(values[name], (own if before else clean)[name]), name


def test_with_all_values_of_another_text_the_output_is_its_own():
    model = wide()
    clean, there = captured(model, A)
    with patch(model, "**", clean):
        assert apart(model(**B), there) == 0


def test_a_patch_of_q_changes_query_and_everything_after_it():
    model = wide(position_embedding_type="relative_key_query")
    clean, _ = captured(model, A)
    with patch(model, "layers.0.attention.[qk]", clean), capture(model, "layers.0.**") as values:
        model(**B)
    for name in ("query", "key", "relative", "core.scores"):
        assert torch.equal(values[f"layers.0.attention.{name}"], clean[f"layers.0.attention.{name}"]), name


# Positions, heads, rows.


def test_only_the_given_positions_change():
    model = wide()
    clean, _ = captured(model, A)
    own, _ = captured(model, B)
    with patch(model, "layers.0", clean, positions=[0, 3]), capture(model, "layers.0") as values:
        model(**B)
    expected = own["layers.0"].clone()
    expected[:, [0, 3]] = clean["layers.0"][:, [0, 3]]
    assert torch.equal(values["layers.0"], expected)


def test_positions_of_texts_of_different_lengths_are_paired():
    model = wide()
    clean, _ = captured(model, random_batch(TINY, (12, 12, 12), seed=3))
    own, _ = captured(model, B)
    with patch(model, "layers.0", clean, positions={8: 11, 1: 1}), capture(model, "layers.0") as values:
        model(**B)
    expected = own["layers.0"].clone()
    expected[:, 8], expected[:, 1] = clean["layers.0"][:, 11], clean["layers.0"][:, 1]
    assert torch.equal(values["layers.0"], expected)


def test_positions_in_scores_are_those_of_the_queries():
    model = wide()
    name = "layers.0.attention.core.probs"
    clean, _ = captured(model, A)
    own, _ = captured(model, B)
    with patch(model, name, clean, positions=2), capture(model, name) as values:
        model(**B)
    expected = own[name].clone()
    expected[:, :, 2] = clean[name][:, :, 2]
    assert torch.equal(values[name], expected)


@pytest.mark.parametrize("name", ["attention.q", "attention.v", "attention.core.probs", "attention.core"])
def test_only_the_given_heads_change_and_both_together(name):
    model = wide()
    name = f"layers.1.{name}"
    clean, _ = captured(model, A)
    own, _ = captured(model, B)
    for heads, positions in (([0, 2], None), (3, None), ([1, 3], [4, 0]), (torch.tensor([1, 3]), np.array([4]))):
        with patch(model, name, clean, heads=heads, positions=positions), capture(model, name) as values:
            model(**B)
        expected = own[name].clone()
        for head in [heads] if isinstance(heads, int) else heads:
            at = slice(None) if positions is None else positions
            expected[:, head, at] = clean[name][:, head, at]
        assert torch.equal(values[name], expected)


def test_a_function_is_limited_to_the_positions_and_heads_too():
    model = wide()
    name = "layers.1.attention.core"
    own, _ = captured(model, B)
    with patch(model, name, torch.zeros_like, heads=[1], positions={2: 5}), capture(model, name) as values:
        model(**B)
    expected = own[name].clone()
    expected[:, 1, 2] = 0
    assert torch.equal(values[name], expected)


def test_row_by_row_and_one_row_for_all():
    model = wide()
    clean, _ = captured(model, A)
    with patch(model, "layers.0", clean["layers.0"]), capture(model, "layers.0") as values:
        model(**B)
    assert torch.equal(values["layers.0"], clean["layers.0"])
    with patch(model, "layers.0", clean["layers.0"][1:2]), capture(model, "layers.0") as values:
        model(**B)
    for row in range(3):
        assert torch.equal(values["layers.0"][row], clean["layers.0"][1])


def test_patches_act_one_after_another():
    model = wide()
    with (
        patch(model, "layers.1", torch.zeros_like),
        patch(model, "layers.1", lambda value: value + 2),
        patch(model, "layers.1", lambda value: value * 3),
    ):
        assert (model(**A).last_hidden_state == 6).all()


# Gradients.


def test_gradients_flow_through_new_values_and_through_those_that_stayed():
    model = wide()
    new = torch.randn(3, 9, 32, dtype=torch.float64, requires_grad=True)
    with patch(model, "layers.0", new, positions=[2]):
        model(**A).last_hidden_state[0].square().sum().backward()
    assert new.grad[0, 2].abs().max() > 1e-6
    assert not new.grad[:, :2].any()
    assert not new.grad[1:].any()
    assert model.layers[0].attention.query.weight.grad.abs().max() > 1e-6


def test_gradients_of_a_function():
    model = wide().train()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    with patch(model, "**.core", lambda attended: attended * scale):
        model(**A).last_hidden_state.square().sum().backward()
    assert scale.grad.abs() > 1e-6


# In encode.

ONE = [
    "the cat sat on the mat.",
    "hello",
    "a man eats food, the dog eats the cat!",
    "who is on the mat?",
    "",
    "the world",
]
OTHER = [
    "the dog sat on the mat:",
    "world",
    "a dog eats food, the man eats the man?",
    "who is on the cat!",
    "",
    "a world",
]


def test_encode_gives_each_text_the_values_of_its_counterpart(encoder):
    with capture(encoder, "layers.0") as clean:
        expected = encoder.encode(ONE, batch_size=2)
    with patch(encoder, "layers.0", clean):
        found = encoder.encode(OTHER, batch_size=3)
    assert np.abs(found - expected).max() < 1e-6
    assert np.abs(encoder.encode(OTHER) - expected).max() > 0.01


def test_encode_in_another_thread_is_not_patched(encoder):
    expected = encoder.encode(ONE)
    with patch(encoder, "layers.0", torch.zeros_like), ThreadPoolExecutor() as pool:
        assert np.abs(encoder.encode(ONE) - expected).max() > 0.01
        assert np.abs(pool.submit(encoder.encode, ONE).result() - expected).max() < 1e-6


def test_encode_at_positions_of_each_text_and_in_heads(encoder):
    name = "layers.0.attention.core"
    with capture(encoder, name) as clean:
        encoder.encode(ONE)
    with capture(encoder, name) as own:
        encoder.encode(OTHER)
    with patch(encoder, name, clean, positions=1, heads=[2]), capture(encoder, name) as values:
        encoder.encode(OTHER, batch_size=2)
    for mine, before, there in zip(values[name], own[name], clean[name], strict=True):
        expected = before.clone()
        expected[2, 1] = there[2, 1]
        assert (mine - expected).abs().max() < 1e-10


def test_encode_with_one_text_for_all(encoder):
    with capture(encoder, "layers.0") as clean:
        encoder.encode("hello")
    with patch(encoder, "layers.0", clean, positions=[0, 1]), capture(encoder, "layers.0") as values:
        encoder.encode(ONE, batch_size=2)
    for value in values["layers.0"]:
        assert torch.equal(value[:2], clean["layers.0"][0][:2])
    with (
        patch(encoder, "layers.0", clean["layers.0"][0][None], positions=[0, 1]),
        capture(encoder, "layers.0") as again,
    ):
        encoder.encode(ONE, batch_size=3)
    for value in again["layers.0"]:
        assert torch.equal(value[:2], clean["layers.0"][0][:2])


def test_encode_with_a_function(encoder):
    expected = encoder.encode(ONE)
    with patch(encoder, "layers.1", lambda value: 2 * value):
        assert np.abs(encoder.encode(ONE) - 2 * expected).max() < 1e-6


def test_encode_with_values_that_are_the_same_for_all_texts(encoder):
    with patch(encoder, "embeddings.position", torch.zeros_like):
        expected = encoder.encode(ONE)
    with patch(encoder, "embeddings.position", torch.zeros(4, 32, dtype=torch.float64)):
        found = encoder.encode("the cat")  # of four tokens
    with patch(encoder, "embeddings.position", torch.zeros_like):
        assert np.abs(encoder.encode("the cat") - found).max() < 1e-10
    assert np.abs(encoder.encode(ONE) - expected).max() > 0.01


# Impossible patches are refused by name.


def refused(model, name, new, words, batch=B, error=ValueError, **where):
    with pytest.raises(error, match=words), patch(model, name, new, **where):
        model(**batch)
    assert hooks_on(model) == []


def test_a_patch_of_the_wrong_shape():
    model = wide()
    clean, _ = captured(model, random_batch(TINY, (12, 12)))
    form = r"layers.0 is float64 \(3, 9, 32\) on cpu, and can't be replaced by"
    refused(model, "layers.0", clean, rf"{form} float64 \(2, 12, 32\) on cpu")
    refused(model, "layers.0", lambda value: value[:, 0], rf"{form} float64 \(3, 32\)")
    refused(model, "layers.0", torch.zeros(9, 32), rf"{form} float32 \(9, 32\)")
    refused(model, "layers.0", torch.zeros(32), rf"{form} float32 \(32,\)", positions=[0])
    refused(model, "layers.0", torch.zeros(3, 9, 32), rf"{form} float32 \(3, 9, 32\)")
    refused(model, "layers.0", clean, rf"{form} float64 \(2, 9, 32\)", positions=[0])
    refused(model, "layers.0.attention.q", lambda q: q[:, :2], r"attention.q is float64 \(3, 4, 9, 8\)")


def test_a_patch_that_is_no_patch():
    model = wide()
    refused(
        model, "layers.0", 0.0, "a patch is a function, a tensor, or the result of capture, not float", error=TypeError
    )
    words = "the new value of layers.0 must be a tensor, not NoneType"
    refused(model, "layers.0", lambda value: None, words, error=TypeError)
    refused(
        model, "layers.*", {"layers.0": torch.zeros(3, 9, 32)}, "nothing to patch layers.1 with; the nearest: layers.0"
    )
    refused(model, "layers.9", torch.zeros_like, r"layers \(Encoder\) has no '9'")


def test_heads_and_positions_that_are_not_there():
    model = wide()
    core = "layers.0.attention.core"
    refused(model, core, torch.zeros_like, "core: there are heads from 0 to 3, but not 4", heads=[0, 4])
    refused(model, core, torch.zeros_like, "core: there are heads from 0 to 3, but not -1", heads=-1)
    refused(model, core, torch.zeros_like, "core: there are positions from 0 to 8, but not 9", positions=9)
    short, _ = captured(model, random_batch(TINY, (3, 3, 3)))
    refused(model, core, short, "core: there are positions from 0 to 2, but not 5", positions={2: 5})
    refused(model, core, torch.zeros_like, "no heads are given", heads=[])
    refused(model, core, torch.zeros_like, "heads must be whole numbers, not 1.5", error=TypeError, heads=1.5)
    refused(model, "layers.0", torch.zeros_like, r"layers.0, \(B, S, D\), has no heads to choose from", heads=0)
    refused(model, "pooler", torch.zeros_like, r"pooler, \(B, D\), has no positions", positions=0)
    model.layers[0].feed_forward.activation = nn.Sequential(nn.GELU())
    name = "layers.0.feed_forward.activation.0"
    refused(model, name, torch.zeros_like, "of a module that is not the page's, has no positions", positions=0)


def test_positions_of_a_value_that_is_no_longer_of_its_shape():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.probs = nn.Identity()

        def forward(self, q, k, v, mask=None, bias=None):
            self.probs(q.flatten())
            return v

    model = wide()
    model.layers[0].attention.core = Flat()
    name = "layers.0.attention.core.probs"
    words = r"probs is float64 \(864,\) on cpu, not \(B, H, S, S\): which axis has the heads"
    refused(model, name, torch.zeros_like, words, heads=[0])


def test_a_patch_that_is_never_used_is_an_error():
    model, other = wide(), wide()
    with (
        pytest.raises(
            ValueError, match=r"not patched, because never computed: layers.0, layers.1: did another model run"
        ),
        patch(model, "layers.*", torch.zeros_like),
    ):
        other(**A)
    assert hooks_on(model) == []


def test_lists_of_texts_are_for_encode(encoder):
    with capture(encoder, "**") as clean:
        encoder.encode(ONE)
    refused(encoder, "layers.0", clean, "layers.0 is patched in a forward that is not encode's", encoder.tokenize(ONE))
    with (
        pytest.raises(ValueError, match=r"embeddings.position is the same for all texts of a batch"),
        patch(encoder, "embeddings.position", clean),
    ):
        encoder.encode(ONE)
    with (
        pytest.raises(ValueError, match=r"the patch for layers.0 is for 6 texts, but encode has 3"),
        patch(encoder, "layers.0", clean),
    ):
        encoder.encode(ONE[:3])
    with (
        pytest.raises(ValueError, match=r"layers.0 in text 1 is float64 \(9, 32\) on cpu, and can't be replaced by"),
        patch(encoder, "layers.0", clean),
    ):
        encoder.encode([ONE[0], ONE[0], *ONE[2:]])
    assert hooks_on(encoder) == []


def test_patches_are_removed_also_after_an_exception():
    model = wide()
    before = model(**A)
    with pytest.raises(ZeroDivisionError), patch(model, "layers.*", torch.zeros_like):
        1 / 0  # noqa: B018
    assert hooks_on(model) == []
    assert apart(model(**A), before) == 0
