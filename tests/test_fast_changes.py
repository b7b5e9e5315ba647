"""A part that was replaced, hooked, patched or put in training mode is computed by the page, its neighbours fast."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from fast_helpers import fast_layers
from helpers import MINILM, TINY, widen
from tiny_folder import MEAN, TEXTS, write_cross_encoder, write_encoder
from torch import nn
from torch.nn.utils import parametrize, prune

from minibert import Bert, CrossEncoder, SentenceEncoder
from minibert.config import POSITION_TYPES
from minibert.fused import fuse
from minibert.model import (
    Activation,
    EncoderLayer,
    FeedForward,
    LayerNorm,
    MultiHeadAttention,
    ScaledDotProductAttention,
    gelu_new,
)
from minibert.pooling import Pooling
from minibert.research import prune_heads


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Never changed, only copied."""
    folder = write_encoder(tmp_path_factory.mktemp("encoder"), ("Pooling", MEAN))
    return SentenceEncoder.from_pretrained(folder, device="cpu")


@pytest.fixture(params=["mean", "cls"])
def encoder(shared, request):
    """One that has encoded."""
    encoder = copy.deepcopy(shared)
    encoder.pooling = Pooling(request.param).eval()  # in training mode every call would decide anew
    encoder.encode(TEXTS)
    return encoder


def apart(encoder, texts=TEXTS):
    """How far a call is from the page, text by text; the same for one text."""
    page = np.stack([encoder.encode(text, fast=False) for text in texts])
    return max(abs(encoder.encode(texts) - page).max(), abs(encoder.encode(texts[0]) - page[0]).max())


# --- changes of a layer: (change, the reason that `explain` gives)


def in_place(name, part):
    def change(layer):
        layer.set_submodule(name, part(layer))

    change.__name__ = f"{name} in place"
    return change


class Double(nn.Module):
    def forward(self, x, *_):
        return x * 2


class Zero(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x):
        return torch.zeros(*x.shape[:-1], self.width)


class ValuesCore(nn.Module):
    def forward(self, q, k, v, mask=None, bias=None):
        assert q.dtype == k.dtype == v.dtype == torch.float32
        return v


class OwnLayer(EncoderLayer):
    def forward(self, x, mask=None):
        return super().forward(x, mask) * 0.5


class OwnAttention(MultiHeadAttention):
    def split(self, x):
        return super().split(x.roll(1, -1))


class OwnNorm(LayerNorm):
    def forward(self, x):
        return x


class OwnFeedForward(FeedForward):
    def forward(self, x):
        return super().forward(x) - x


class OwnCore(ScaledDotProductAttention):
    def forward(self, q, k, v, mask=None, bias=None):
        return super().forward(q, q, v, mask, bias)


class OwnActivation(Activation):
    def forward(self, x):
        return super().forward(x).abs()


def hook(layer):
    layer.attention.core.probs.register_forward_hook(lambda *_: None)


def changing_hook(name):
    def change(layer):
        layer.get_submodule(name).register_forward_hook(lambda _, __, y: torch.zeros_like(y))

    change.__name__ = f"hook on {name}"
    return change


def pre_hook(layer):
    layer.attention.register_forward_pre_hook(lambda _, arguments: (arguments[0] * 2, *arguments[1:]))


def backward_hook(layer):
    layer.feed_forward.register_full_backward_hook(lambda *_: None)


def formula(layer):
    layer.feed_forward.activation.formula = torch.sigmoid


def formula_with_weights(layer):
    layer.feed_forward.activation.formula = nn.PReLU()


def forward_on_linear(layer):
    layer.attention.out.forward = lambda x: x * 0


def forward_on_layer(layer):
    layer.forward = lambda x, mask=None: x * 0.5


def split_on_attention(layer):
    split = layer.attention.split
    layer.attention.split = lambda x: split(x).flip(1)


def plain_tensor(layer):
    weight = layer.attention.query.weight.detach() * 2
    del layer.attention.query.weight
    layer.attention.query.weight = weight


def parametrized(layer):
    parametrize.register_parametrization(layer.feed_forward.down, "weight", Double())


def own_class(name, kind):
    def change(layer):
        (layer.get_submodule(name) if name else layer).__class__ = kind

    change.__name__ = kind.__name__
    return change


def wider_values(layer):
    layer.attention.value, layer.attention.out = nn.Linear(32, 128), nn.Linear(128, 32)
    layer.attention.core = ValuesCore()


def wider_values_alone(layer):
    layer.attention.value, layer.attention.out = nn.Linear(32, 64), nn.Linear(64, 32)


def own_parameter(layer):
    class Scaled(nn.Parameter):
        pass

    layer.attention.key.weight = Scaled(layer.attention.key.weight.detach() * 2)


def pruned_weights(layer):
    prune.l1_unstructured(layer.feed_forward.up, "weight", amount=0.5)


def double_norm(layer):
    layer.attention_norm.double()


CHANGES = [
    (hook, "layers.1.attention.core.probs has a forward hook"),
    (changing_hook("attention.query"), "layers.1.attention.query has a forward hook"),
    (changing_hook("attention.out"), "layers.1.attention.out has a forward hook"),
    (changing_hook("feed_forward.up"), "layers.1.feed_forward.up has a forward hook"),
    (changing_hook("feed_forward.activation"), "layers.1.feed_forward.activation has a forward hook"),
    (changing_hook("attention.core.scores"), "layers.1.attention.core.scores has a forward hook"),
    (changing_hook("dropout"), "layers.1.dropout has a forward hook"),
    (pre_hook, "layers.1.attention has a forward hook"),
    (backward_hook, "layers.1.feed_forward has a backward hook"),
    (
        in_place("feed_forward.activation", lambda _: nn.ReLU()),
        "layers.1.feed_forward.activation is ReLU, not the page",
    ),
    (in_place("attention_norm", lambda _: nn.Identity()), "layers.1.attention_norm is Identity, not the"),
    (
        in_place("feed_forward_norm", lambda _: nn.LayerNorm(32)),
        "layers.1.feed_forward_norm is LayerNorm, not the page",
    ),
    (in_place("attention", lambda _: Double()), "layers.1.attention is Double, not the"),
    (in_place("attention.value", lambda _: Zero(32)), "layers.1.attention.value is Zero, not the"),
    (in_place("attention.out", lambda _: Zero(32)), "layers.1.attention.out is Zero, not the"),
    (in_place("feed_forward.down", lambda _: Zero(32)), "layers.1.feed_forward.down is Zero, not the"),
    (in_place("feed_forward.activation", lambda _: Zero(37)), "layers.1.feed_forward.activation is Zero, not the"),
    (in_place("attention.core", lambda _: ValuesCore()), "layers.1.attention.core is ValuesCore, not the"),
    (
        in_place("attention.core.probs", lambda _: nn.Softmax(-1)),
        "layers.1.attention.core.probs is Softmax, not the page",
    ),
    (in_place("dropout", lambda _: Double()), "layers.1.dropout is Double, not the"),
    (own_class("", OwnLayer), "layers.1 is OwnLayer, not the"),
    (own_class("attention", OwnAttention), "layers.1.attention is OwnAttention, not the"),
    (own_class("attention.core", OwnCore), "layers.1.attention.core is OwnCore, not the"),
    (own_class("feed_forward", OwnFeedForward), "layers.1.feed_forward is OwnFeedForward, not the"),
    (own_class("feed_forward.activation", OwnActivation), "layers.1.feed_forward.activation is OwnActivation, not the"),
    (own_class("attention_norm", OwnNorm), "layers.1.attention_norm is OwnNorm, not the"),
    (formula, "layers.1.feed_forward.activation has a formula of its own"),
    (formula_with_weights, "layers.1.feed_forward.activation has a formula of its own"),
    (forward_on_linear, "layers.1.attention.out has a 'forward' of its own"),
    (forward_on_layer, "layers.1 has a 'forward' of its own"),
    (split_on_attention, "layers.1.attention has a 'split' of its own"),
    (plain_tensor, "layers.1.attention.query"),
    (parametrized, "layers.1.feed_forward.down is ParametrizedLinear, not the"),
    (wider_values, "layers.1.attention.core is ValuesCore, not the"),
    (own_parameter, "layers.1.attention.key.weight is Scaled, not a plain parameter"),
    (pruned_weights, "layers.1.feed_forward.up has a"),
    (double_norm, "layers.1.attention_norm.weight is torch.float64"),
]
HARMLESS = {hook, backward_hook, double_norm}


@pytest.mark.parametrize(("change", "reason"), CHANGES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_changed_layer_is_computed_as_on_the_page_and_its_neighbour_is_fast(encoder, change, reason):
    before = encoder.encode(TEXTS)
    first, last = encoder.model.layers
    torch.manual_seed(0)
    change(last)
    with fast_layers(encoder) as calls:
        after = encoder.encode(TEXTS)
    assert {layer for layer, _ in calls} == {first}
    assert apart(encoder) < 1e-4
    assert (abs(after - before).max() < 1e-5) == (change in HARMLESS)
    table = encoder.explain().splitlines()
    assert [line.split()[:2] for line in table[1:]] == [
        ["embeddings", "fast"],
        ["layers.0", "fast"],
        ["layers.1", "page"],
    ]
    assert reason in table[3]
    with pytest.raises(ValueError, match=r"fast=True, but the page computes: layers\.1") as error:
        encoder.encode(TEXTS, fast=True)
    assert reason in str(error.value)
    assert np.array_equal(encoder.encode(TEXTS), after)  # the next call works


def test_values_of_another_width_are_the_pages_error(encoder):
    wider_values_alone(encoder.model.layers[1])
    assert "layers.1.attention has values of another width" in encoder.explain()
    for fast in (None, False):
        with pytest.raises(RuntimeError, match="must match the size of tensor"):
            encoder.encode(TEXTS, fast=fast)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_changed_layer_among_layers_of_fewer_bits_gets_float32(encoder, dtype):
    encoder._arithmetic, encoder._decision = dtype, None
    encoder.model.layers[0].attention.core = ValuesCore()
    with fast_layers(encoder) as calls:
        found = encoder.encode(TEXTS)
    assert {layer for layer, _ in calls} == {encoder.model.layers[1]}
    assert abs(found - encoder.encode(TEXTS, fast=False)).max() < 0.5


def another_formula(layer):
    layer.feed_forward.activation.formula = gelu_new


def another_epsilon(layer):
    layer.feed_forward_norm.eps = 0.5


def another_head_size(layer):
    layer.attention.head_size = 4


def another_norm(layer):
    layer.attention_norm = widen(LayerNorm(32, 1e-12), seed=5)


def another_product(layer):
    layer.feed_forward.up = widen(nn.Linear(32, 37), seed=5)


def fused_parts(layer):
    fuse(layer)


def without_bias(layer):
    layer.attention.key.bias = layer.attention.value.bias = None


KNOWN = [
    another_formula,
    another_epsilon,
    another_head_size,
    another_norm,
    another_product,
    without_bias,
    fused_parts,
]


@pytest.mark.parametrize("change", KNOWN, ids=lambda change: change.__name__)
def test_what_the_stack_knows_is_taken_up_at_once_and_stays_fast(encoder, change):
    before = encoder.encode(TEXTS)
    for layer in encoder.model.layers:
        change(layer)
    with fast_layers(encoder) as calls:
        after = encoder.encode(TEXTS, fast=True)
    assert len(calls) == 2
    assert apart(encoder) < 1e-4
    assert (abs(after - before).max() < 1e-4) == (change is fused_parts)


def test_training_mode_of_a_part_is_not_dropout_in_encode(encoder):
    before = encoder.encode(TEXTS)
    encoder.model.layers[1].dropout.train()
    assert np.array_equal(encoder.encode(TEXTS), before)
    assert encoder.model.layers[1].dropout.training
    encoder.train()
    assert np.array_equal(encoder.encode(TEXTS), before)
    assert all(part.training for part in encoder.modules())


def test_training_mode_of_a_part_that_the_page_computes_is_not_dropout_in_encode(encoder):
    encoder.model.layers[1].register_forward_hook(lambda *_: None)
    before = encoder.encode(TEXTS)
    encoder.model.layers[1].dropout.train()
    assert np.array_equal(encoder.encode(TEXTS), before)
    assert encoder.model.layers[1].dropout.training


# --- the embeddings


def own_dropout(embeddings):
    class Half(nn.Module):
        def forward(self, x):
            return x / 2

    embeddings.dropout = Half()


def own_table(embeddings):
    embeddings.token_type.forward = lambda ids: torch.ones(*ids.shape, 32)


def own_norm(embeddings):
    embeddings.norm = nn.Identity()


def small_norms(embeddings):
    embeddings.token = nn.Embedding.from_pretrained(embeddings.token.weight.detach().clone(), max_norm=0.1)


def small_norms_later(embeddings):
    embeddings.token.max_norm = 0.1


def hooked_position(embeddings):
    embeddings.position.register_forward_hook(lambda _, __, x: -x)


def no_position(embeddings):
    embeddings.position = None


def plain_table(embeddings):
    weight = embeddings.token.weight.detach().flip(0)
    del embeddings.token.weight
    embeddings.token.weight = weight


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (own_dropout, "embeddings.dropout is Half, not the page's Dropout"),
        (own_table, "embeddings.token_type has a 'forward' of its own"),
        (own_norm, "embeddings.norm is Identity, not the page's LayerNorm"),
        (small_norms, "embeddings.token has a max_norm"),
        (small_norms_later, "embeddings.token has a max_norm"),
        (hooked_position, "embeddings.position has a forward hook"),
        (no_position, "embeddings.position is NoneType, not the page's Embedding"),
        (plain_table, "embeddings.token"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_changed_embeddings_are_computed_as_on_the_page_and_the_layers_are_fast(encoder, change, reason):
    before = encoder.encode(TEXTS)
    change(encoder.model.embeddings)
    with fast_layers(encoder) as calls:
        after = encoder.encode(TEXTS)
    assert {layer for layer, _ in calls} == set(encoder.model.layers)
    assert apart(encoder) < 1e-4
    assert abs(after - before).max() > 1e-3
    assert reason in encoder.explain().splitlines()[1]


def test_embeddings_of_ones_own_may_drop_positions(encoder):
    encoder.model.embeddings.dropout.forward = lambda x: x[:, :2]
    assert apart(encoder) < 1e-4


# --- the model


@pytest.mark.parametrize("position_type", POSITION_TYPES)
def test_relative_positions_are_computed_by_the_page(shared, position_type):
    model = widen(Bert(dataclasses.replace(TINY, position_embedding_type=position_type))).eval()
    encoder = SentenceEncoder(model, shared.tokenizer)
    assert apart(encoder) < 1e-5
    assert ("layers.0.attention has relative positions" in encoder.explain()) == (position_type != "absolute")


def test_relative_positions_in_one_layer_only(encoder):
    relative = widen(Bert(dataclasses.replace(TINY, position_embedding_type="relative_key"))).eval()
    encoder.model.layers[1].attention = relative.layers[1].attention
    with fast_layers(encoder) as calls:
        encoder.encode(TEXTS)
    assert {layer for layer, _ in calls} == {encoder.model.layers[0]}
    assert apart(encoder) < 1e-4
    assert "layers.1.attention has relative positions" in encoder.explain()


def test_pruned_heads_are_pruned_in_the_stack(encoder):
    before = encoder.encode(TEXTS)
    prune_heads(encoder.model, {0: [1], 1: [0, 3]})
    with fast_layers(encoder) as calls:
        after = encoder.encode(TEXTS)
    assert {layer for layer, _ in calls} == set(encoder.model.layers)
    assert apart(encoder) < 1e-5
    assert abs(after - before).max() > 1e-3


@pytest.mark.parametrize("same", [(0, 0), (0, 0, 1, 0), (1, 1)], ids=str)
def test_a_layer_in_several_places(encoder, same):
    layers = list(encoder.model.layers)
    encoder.model.layers = type(encoder.model.layers)(layers[i] for i in same)
    with fast_layers(encoder) as calls:
        encoder.encode(TEXTS, fast=True)
    assert [layer for layer, _ in calls] == [layers[i] for i in same]
    assert apart(encoder) < 1e-5
    encoder.model.layers[0].attention.register_forward_hook(lambda _, __, x: x * 2)
    assert apart(encoder) < 1e-4
    assert "layers.0.attention has a forward hook" in encoder.explain()


def test_a_layer_put_in_the_place_of_another(encoder):
    before = encoder.encode(TEXTS)
    encoder.model.layers[1] = encoder.model.layers[0]
    assert apart(encoder) < 1e-5
    assert abs(encoder.encode(TEXTS) - before).max() > 1e-3


def test_layers_may_be_removed_added_and_reordered(encoder):
    layers = encoder.model.layers
    for change in (
        lambda: layers.append(copy.deepcopy(layers[0])),
        lambda: layers.insert(0, layers.pop(1)),
        lambda: layers.pop(0),
        lambda: setattr(encoder.model, "layers", layers[:1]),
    ):
        change()
        with fast_layers(encoder) as calls:
            encoder.encode(TEXTS, fast=True)
        assert len(calls) == len(encoder.model.layers)
        assert apart(encoder) < 1e-5


def test_a_model_without_layers_is_the_pages(encoder):
    encoder.model.layers = encoder.model.layers[:0]
    assert apart(encoder) < 1e-6
    assert "the model has no layers" in encoder.explain()


def test_another_model_altogether(encoder, shared):
    before = encoder.encode(TEXTS)
    encoder.model = widen(Bert(TINY), seed=3).eval()
    assert apart(encoder) < 1e-5
    assert abs(encoder.encode(TEXTS) - before).max() > 1e-3


def test_a_hook_on_all_modules_of_torch_sees_the_page(encoder):
    seen = set()
    handle = nn.modules.module.register_module_forward_hook(lambda part, *_: seen.add(part))
    try:
        with fast_layers(encoder) as calls:
            encoder.encode(TEXTS)
        assert "a hook is registered on all modules of torch" in encoder.explain()
    finally:
        handle.remove()
    assert calls == []
    core = encoder.model.layers[1].attention.core
    assert {core.scores, core.probs, core, encoder.model.embeddings} <= seen
    with fast_layers(encoder) as calls:
        encoder.encode(TEXTS, fast=True)
    assert len(calls) == 2


@pytest.mark.parametrize("part", ["", "layers", "embeddings", "layers.0", "layers.1.attention.core.probs", "pooler"])
def test_a_hook_fires_as_on_the_page_and_the_stack_computes_again_without_it(encoder, part):
    before, seen = encoder.encode(TEXTS), []
    handle = encoder.model.get_submodule(part).register_forward_hook(lambda *_: seen.append(1))
    encoder.encode(TEXTS[0])
    assert seen == [1]
    encoder.encode(TEXTS[0], fast=False)
    assert seen == [1, 1]
    handle.remove()
    with fast_layers(encoder) as calls:
        assert np.array_equal(encoder.encode(TEXTS, fast=True), before)
    assert len(calls) == 2
    assert seen == [1, 1]


def test_a_hook_is_noticed_after_hooks_on_other_models(encoder):
    before, seen, other = encoder.encode(TEXTS), [], nn.Linear(2, 2)
    decision = encoder._decision
    other.register_forward_hook(lambda *_: seen.append(0))
    assert np.array_equal(encoder.encode(TEXTS), before)
    assert encoder._decision is decision
    encoder.model.layers[1].feed_forward.up.register_forward_pre_hook(lambda *_: seen.append(1))
    encoder.encode(TEXTS)
    assert set(seen) == {1}
    encoder.model.layers[0].attention.out._forward_hooks[-1] = lambda *_: seen.append(2)  # by hand, uncounted by torch
    encoder.encode(TEXTS)
    assert set(seen) == {1, 2}


def test_autocast_is_the_callers(encoder):
    seen = []
    encoder.model.layers[0].attention.register_forward_hook(lambda _, __, x: seen.append(x.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder.encode(TEXTS)
        assert "autocast is on" in encoder.explain()
        with pytest.raises(ValueError, match="autocast is on"):
            encoder.encode(TEXTS, fast=True)
        assert np.array_equal(found, encoder.encode(TEXTS, fast=False))
    assert set(seen) == {torch.bfloat16}
    assert abs(encoder.encode(TEXTS) - encoder.encode(TEXTS, fast=False)).max() < 1e-5


@pytest.mark.parametrize("place", ["embeddings", "layers.1"])
def test_a_part_that_is_merely_watched_takes_texts_of_all_lengths_at_once(encoder, place):
    seen = []
    encoder.model.get_submodule(place).register_forward_hook(lambda _, __, x: seen.append(len(x)))
    texts = ["the cat sat on the mat " * i for i in range(1, 5)]
    found = encoder.encode(texts, batch_size=4)
    assert seen == [4]  # and not a batch for each length, which takes longer than the page
    assert np.abs(found - encoder.encode(texts, fast=False)).max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_of_half_precision_is_the_pages(encoder, dtype):
    encoder.to(dtype)
    assert apart(encoder) < 1e-6
    assert f"layers.0.attention.query.weight is {dtype} on cpu" in encoder.explain()


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_fewer_bits_are_of_float32_weights_only(encoder, dtype):
    encoder._arithmetic, encoder._decision = dtype, None
    encoder.double()
    with fast_layers(encoder) as calls:
        assert apart(encoder) < 1e-10
    assert calls == []
    assert "layers.0.attention.query.weight is torch.float64 on cpu" in encoder.explain()


def test_weights_of_inference_mode_count_no_changes_and_are_left_to_the_page(shared):
    with torch.inference_mode():
        encoder = SentenceEncoder(widen(Bert(TINY)).eval(), shared.tokenizer)
    with fast_layers(encoder) as calls:
        assert apart(encoder) < 1e-6
    assert calls == []
    assert "was made in inference mode" in encoder.explain()


def test_a_part_elsewhere_is_named(encoder):
    encoder.model.layers[1].attention.key.to("meta")
    assert "layers.1.attention.key.weight is torch.float32 on meta" in encoder.explain()


# --- who computes, and errors


def test_only_the_hooked_layer_of_a_real_model_is_computed_by_the_page():
    encoder = SentenceEncoder.from_pretrained(MINILM, device="cpu")
    before = encoder.encode(TEXTS)
    seen = []
    encoder.model.layers[3].attention.register_forward_hook(lambda *_: seen.append(1))
    with fast_layers(encoder) as calls:
        after = encoder.encode(TEXTS[0])
    layers = list(encoder.model.layers)
    assert [layer for layer, _ in calls] == [*layers[:3], *layers[4:]]
    assert seen == [1]
    assert abs(after - before[0]).max() < 1e-6
    table = encoder.explain().splitlines()
    assert "layers.3    page         layers.3.attention has a forward hook" in table
    assert sum(line.split()[1] == "fast" for line in table[1:]) == 6
    assert "float32" in table[0]


def test_fast_may_be_set_once_for_all_calls(encoder):
    encoder.fast = False
    with fast_layers(encoder) as calls:
        encoder.encode(TEXTS)
    assert calls == []
    assert encoder.explain() == "all  page  fast=False was asked for"
    encoder.fast = True
    encoder.model.layers[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"fast=True, but the page computes: layers\.0 has a forward hook"):
        encoder.encode(TEXTS)
    encoder.encode(TEXTS, fast=False)


def test_predict_explains_too(tmp_path):
    encoder = CrossEncoder.from_pretrained(write_cross_encoder(tmp_path), device="cpu")
    assert encoder.explain().count("fast") == 3
    expected = encoder.predict(("the cat", "the dog"))
    encoder.model.register_forward_hook(lambda *_: None)
    assert "model has a forward hook" in encoder.explain()
    with pytest.raises(ValueError, match="model has a forward hook"):
        encoder.predict(("the cat", "the dog"), fast=True)
    assert abs(encoder.predict(("the cat", "the dog")) - expected) < 1e-6


def test_a_hook_that_raises_is_the_callers_error_and_the_next_call_works(encoder):
    before = encoder.encode(TEXTS)

    def refuse(*_):
        raise KeyError("not this layer")

    encoder.train()
    handle = encoder.model.layers[1].register_forward_hook(refuse)
    with pytest.raises(KeyError, match="not this layer"):
        encoder.encode(TEXTS)
    assert all(part.training for part in encoder.modules())
    handle.remove()
    assert np.array_equal(encoder.eval().encode(TEXTS), before)


@pytest.mark.parametrize(
    "shape",
    [lambda x: x[:, :2], lambda x: x[..., :7], lambda x: x[0], lambda x: (x, x), lambda x: None],
    ids=["fewer positions", "narrower", "without a batch", "a tuple", "nothing"],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_layer_that_returns_something_else_behaves_as_on_the_page(encoder, place, shape):
    """The same numbers, or an error; and the next call works."""
    encoder.model.pooler = None  # only the page computes it where nobody reads it
    before = encoder.encode(TEXTS)
    encoder.model.layers[place].forward = lambda x, mask=None: shape(x)
    results = []
    for fast in (None, False):
        try:
            results.append(encoder.encode(TEXTS[0], fast=fast))
        except Exception as error:
            results.append(type(error))
    found, page = results
    if not isinstance(page, type):
        assert abs(found - page).max() < 1e-4
    else:
        assert isinstance(found, type)
    del encoder.model.layers[place].forward
    assert np.array_equal(encoder.encode(TEXTS), before)


class Caching(nn.Module):
    """A part that keeps a tensor of its first call, as tables of rotary positions do."""

    kept = None

    def forward(self, x, *_):
        if self.kept is None:
            self.kept = torch.full(x.shape[-1:], 2.0)
        return x * self.kept if x.ndim == 2 else (x * self.kept)[:, 0]


def caching_pooling(encoder):
    encoder.pooling = Caching()


def caching_head(encoder):
    encoder.head.append(Caching())


def caching_part(encoder):
    up = encoder.model.layers[0].feed_forward.up
    encoder.model.layers[0].feed_forward.up = nn.Sequential(up, nn.Identity())
    encoder.model.layers[0].feed_forward.up[1].forward = lambda x, kept={}: (
        x * kept.setdefault(0, torch.ones(x.shape[-1]))
    )


@pytest.mark.parametrize("change", [caching_pooling, caching_head, caching_part])
@pytest.mark.parametrize("fast", [None, False])
def test_what_a_part_keeps_of_encode_can_be_trained_with(encoder, change, fast):
    change(encoder)
    encoder.encode(TEXTS, fast=fast)  # in inference mode the backward pass would refuse what was kept
    encoder.encode(TEXTS[0], fast=fast)
    encoder.train().requires_grad_(True)
    encoder(**encoder.tokenize(TEXTS)).sum().backward()
    assert encoder.model.layers[0].feed_forward.down.weight.grad is not None


def test_a_bias_of_one_number_is_broadcast_as_on_the_page(encoder):
    encoder.model.layers[0].feed_forward.up.bias = nn.Parameter(torch.ones(1))
    assert apart(encoder) < 1e-5
    assert "page" not in encoder.explain()
