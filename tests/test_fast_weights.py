"""A changed weight is used by the next call, however it was changed; copies and freed memory know nothing of calls."""

import copy
import gc
import io
import pickle
import weakref

import numpy as np
import pytest
import torch
from fast_helpers import fast_layers
from tiny_folder import MEAN, TEXTS, write_cross_encoder, write_encoder
from torch import nn

from minibert import CrossEncoder, SentenceEncoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder"), ("Pooling", MEAN))


def load(folder, **options):
    return SentenceEncoder.from_pretrained(folder, device="cpu", **options)


def zeroed(part):
    with torch.no_grad():
        part.weight.zero_()


def copied(part):
    with torch.no_grad():
        part.weight.copy_(torch.zeros_like(part.weight))


def scaled_in_inference_mode(part):
    with torch.inference_mode():
        part.weight.mul_(0.5)


def written_by_index(part):
    with torch.no_grad():
        part.weight[..., ::2] = 0


def zeroed_data(part):
    part.weight.data.zero_()


def zeroed_detached(part):
    part.weight.detach().zero_()


def data_assigned(part):
    part.weight.data = torch.zeros_like(part.weight)


def parameter_assigned(part):
    part.weight = nn.Parameter(torch.zeros_like(part.weight))


def swapped(part):
    torch.utils.swap_tensors(part.weight, nn.Parameter(torch.zeros_like(part.weight)))


def parametrized(part):
    if isinstance(part, nn.Linear):  # it makes an nn.Parameter of the weight that is there
        nn.utils.parametrizations.weight_norm(part).parametrizations.weight.original0.data.zero_()
        nn.utils.parametrize.remove_parametrizations(part, "weight")
    else:
        zeroed(part)


def registered(part):
    part.register_parameter("weight", nn.Parameter(torch.zeros_like(part.weight)))


def loaded(part):
    part.load_state_dict({name: torch.zeros_like(value) for name, value in part.state_dict().items()})


def loaded_by_assignment(part):
    part.load_state_dict({name: torch.zeros_like(value) for name, value in part.state_dict().items()}, assign=True)


def state_dict_written(part):
    part.state_dict()["weight"].zero_()


def initialised(part):
    nn.init.constant_(part.weight, 0.25)


def vector_assigned(part):
    nn.utils.vector_to_parameters(torch.zeros(sum(value.numel() for value in part.parameters())), part.parameters())


def step(part, optimizer, **options):
    for value in part.parameters():
        value.grad = value.detach().clone()
    optimizer(part.parameters(), lr=0.5, **options).step()


def trained(part):
    step(part, torch.optim.SGD)


def trained_by_a_fused_optimizer(part):
    step(part, torch.optim.AdamW, fused=True)


def trained_by_a_foreach_optimizer(part):
    step(part, torch.optim.AdamW, foreach=True)


def trained_by_gradients_of_the_page(part):
    (part.weight.square().sum() + part.weight.sum()).backward()
    torch.optim.Adam([part.weight], lr=0.5).step()


def one_row(part):
    part.weight.data[:] = 0


CHANGES = [
    zeroed,
    copied,
    scaled_in_inference_mode,
    written_by_index,
    zeroed_data,
    zeroed_detached,
    data_assigned,
    parameter_assigned,
    swapped,
    parametrized,
    registered,
    loaded,
    loaded_by_assignment,
    state_dict_written,
    initialised,
    vector_assigned,
    trained,
    trained_by_a_fused_optimizer,
    trained_by_a_foreach_optimizer,
    trained_by_gradients_of_the_page,
    one_row,
]
PARTS = [
    "layers.0.attention.query",
    "layers.0.attention.value",
    "layers.0.attention.out",
    "layers.1.feed_forward.up",
    "layers.1.feed_forward.down",
    "layers.1.attention_norm",
    "embeddings.token",
    "embeddings.token_type",
    "embeddings.norm",
]


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_weight_is_noticed(change, twice, folder):
    for part in PARTS:
        encoder = load(folder)
        encoder.model.requires_grad_(True)
        before = encoder.encode(TEXTS)
        if twice:  # also a weight that has been changed before
            with torch.no_grad():
                encoder.model.get_submodule(part).weight.add_(0.25)
            encoder.encode(TEXTS)
        change(encoder.model.get_submodule(part))
        with fast_layers(encoder) as calls:
            after = encoder.encode(TEXTS, fast=True)
        assert len(calls) == 2
        assert abs(after - encoder.encode(TEXTS, fast=False)).max() < 1e-5, part
        assert part == "embeddings.token_type" or abs(after - before).max() > 1e-4, part
        assert np.array_equal(encoder.encode(TEXTS), after)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_changed_bias_is_noticed_in_every_arithmetic(dtype, folder, monkeypatch):
    monkeypatch.setattr("minibert.arithmetic.times_float32", lambda _: 0.5)
    encoder, exact = load(folder, dtype=dtype), load(folder, fast=False)
    before = encoder.encode(TEXTS)
    for each in (encoder, exact):
        with torch.no_grad():
            each.model.layers[0].feed_forward.down.bias.add_(3.0 * torch.arange(32))
    after = encoder.encode(TEXTS)
    assert abs(after - exact.encode(TEXTS)).max() < {"float32": 1e-5}.get(dtype, 0.5)
    assert abs(after - before).max() > 1e-2


def test_a_write_to_shared_memory_is_noticed_when_torch_is_told(folder):
    encoder = load(folder)
    before = encoder.encode(TEXTS)
    weight = encoder.model.layers[0].attention.query.weight
    weight.detach().numpy()[:] *= 0.5
    torch.autograd.graph.increment_version(weight)
    after = encoder.encode(TEXTS, fast=True)
    assert np.abs(after - before).max() > 1e-4
    assert np.abs(after - encoder.encode(TEXTS, fast=False)).max() < 1e-5


def test_a_parameter_is_made_of_a_weight_that_was_used(folder):
    encoder = load(folder)
    encoder.encode(TEXTS)
    weight = encoder.model.layers[0].attention.query.weight
    again = nn.Parameter(weight)  # refuses classes whose `detach` gives another class
    assert again.data_ptr() == weight.data_ptr()
    assert again.requires_grad
    assert type(weight.detach()) is torch.Tensor
    other = load(folder)
    before = other.encode(TEXTS)
    other.model.layers[0].attention.query.weight = nn.Parameter(nn.Parameter(weight), requires_grad=False)
    assert np.array_equal(other.encode(TEXTS), before)
    with torch.no_grad():
        weight.zero_()
    assert np.abs(other.encode(TEXTS, fast=True) - before).max() > 1e-4


def test_a_weight_shared_with_another_model_is_noticed_in_both(folder):
    one, other = load(folder), load(folder)
    other.model.layers[1].attention.query.weight = one.model.layers[1].attention.query.weight
    before = other.encode(TEXTS)
    one.encode(TEXTS)
    with torch.no_grad():
        one.model.layers[1].attention.query.weight.mul_(-2)
    for encoder in (one, other):
        assert abs(encoder.encode(TEXTS, fast=True) - encoder.encode(TEXTS, fast=False)).max() < 1e-5
        assert abs(encoder.encode(TEXTS) - before).max() > 1e-3


def test_weights_shared_with_a_model_that_is_gone(folder):
    one, other = load(folder), load(folder)
    other.model.layers[1].attention.query.weight = one.model.layers[1].attention.query.weight
    before = other.encode(TEXTS)
    one.encode(TEXTS)
    del one
    with fast_layers(other) as calls:
        assert np.array_equal(other.encode(TEXTS, fast=True), before)
    assert len(calls) == 2


@pytest.mark.parametrize("convert", ["double", "half", "bfloat16"])
def test_another_dtype_and_back(convert, folder):
    encoder = load(folder)
    before = encoder.encode(TEXTS)
    getattr(encoder, convert)()
    assert abs(encoder.encode(TEXTS) - encoder.encode(TEXTS, fast=False)).max() < 1e-6
    encoder.float()
    with fast_layers(encoder) as calls:
        after = encoder.encode(TEXTS, fast=True)
    assert len(calls) == 2
    assert abs(after - encoder.encode(TEXTS, fast=False)).max() < 1e-5
    assert (abs(after - before).max() < 1e-6) == (convert == "double")


def test_training_and_encoding_by_turns(folder):
    """As a training that evaluates: each call sees the weights of its time, and gradients are the page's."""
    encoder, page = load(folder), load(folder, fast=False)
    for each in (encoder, page):
        torch.manual_seed(0)
        each.eval()
        optimizer = torch.optim.AdamW(each.parameters(), lr=1e-2)
        each.seen = []
        for _ in range(3):
            each.seen.append(each.encode(TEXTS))
            optimizer.zero_grad()
            each(**each.tokenize(TEXTS)).square().sum().backward()
            optimizer.step()
        each.seen.append(each.encode(TEXTS))
    assert abs(np.array(encoder.seen) - np.array(page.seen)).max() < 1e-4
    assert abs(encoder.seen[0] - encoder.seen[3]).max() > 1e-2


# --- copies, pickles, and what is left behind


def test_what_calls_remember_is_in_no_state(folder):
    encoder = load(folder)
    names, weights = list(encoder.state_dict()), {id(value) for value in encoder.parameters()}
    size = len(pickle.dumps(encoder))
    assert encoder._decision is not None
    assert encoder.__getstate__()["_decision"] is None
    encoder.encode(TEXTS)
    assert list(encoder.state_dict()) == names
    assert {id(value) for value in encoder.parameters()} == weights
    assert abs(len(pickle.dumps(encoder)) - size) < 1000
    state = pickle.dumps(encoder)
    encoder.encode([*TEXTS, "the cat " * 50], truncation="silent")  # too long
    assert encoder.truncation_report.lost
    assert pickle.dumps(encoder) == state  # so that hashes of it stay
    assert b"minibert.fast.decide" not in pickle.dumps(encoder)
    assert b"minibert.fast.stack" not in pickle.dumps(encoder)
    assert not any("_decision" in part.__dict__ for part in encoder.modules() if part is not encoder)


def saved(encoder):
    file = io.BytesIO()
    torch.save(encoder, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder)), saved],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_a_copy_encodes_the_same_is_fast_and_shares_nothing(duplicate, dtype, folder, monkeypatch):
    monkeypatch.setattr("minibert.arithmetic.times_float32", lambda _: 0.5)
    encoder = load(folder, dtype=dtype)
    before = encoder.encode(TEXTS)
    other = duplicate(encoder)
    for _ in range(2):
        with fast_layers(other) as calls:
            assert np.array_equal(other.encode(TEXTS, fast=True), before)
        assert len(calls) == 2
    with torch.no_grad():
        other.model.layers[0].attention.out.weight.zero_()
    assert np.array_equal(encoder.encode(TEXTS), before)
    assert abs(other.encode(TEXTS) - before).max() > 1e-3
    duplicate(duplicate(other)).encode(TEXTS, fast=True)


def test_a_state_dict_of_weights_that_were_used_is_plain(folder):
    encoder = load(folder)
    encoder.encode(TEXTS)
    file = io.BytesIO()
    torch.save(encoder.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert {type(value) for value in loaded.values()} == {torch.Tensor}
    other = load(folder)
    other.load_state_dict(loaded)
    assert np.array_equal(other.encode(TEXTS), encoder.encode(TEXTS))


def test_the_page_of_a_used_encoder_trains_and_is_copied_as_any(folder):
    """Its parameters count their changes, and are parameters in every other way."""
    encoder = load(folder)
    encoder.encode(TEXTS)
    model = copy.deepcopy(encoder.model)
    assert all(isinstance(value, nn.Parameter) for value in model.parameters())
    model(**encoder.tokenize(TEXTS)).last_hidden_state.sum().backward()
    assert all(value.grad is not None for value in model.layers.parameters())
    assert all(value.grad is None for value in encoder.model.parameters())


def a_sentence_encoder(tmp_path):
    encoder = load(write_encoder(tmp_path))
    return encoder, encoder.encode


def a_cross_encoder(tmp_path):
    encoder = CrossEncoder.from_pretrained(write_cross_encoder(tmp_path), device="cpu")
    return encoder, lambda texts, **options: encoder.predict([(text, "a dog") for text in texts], **options)


@pytest.mark.parametrize("change", [None, "layers.1.attention", "pooler", ""])
@pytest.mark.parametrize("make", [a_sentence_encoder, a_cross_encoder])
def test_an_encoder_that_has_encoded_is_freed_at_once(make, change, tmp_path):
    """Its packed weights with it: nothing waits for the garbage collector."""
    encoder, compute = make(tmp_path)
    bert = getattr(encoder.model, "bert", encoder.model)
    if change is not None:
        bert.get_submodule(change).register_forward_hook(lambda *_: None)
    for options in ({}, {"fast": False}, {"batch_size": 1}, {"batch_invariant": True}):
        compute(TEXTS, **options)
    encoder.explain()
    decision = encoder._decision
    gone = [weakref.ref(encoder), weakref.ref(bert), weakref.ref(decision)]
    if decision.stack is not None:
        gone += [weakref.ref(decision.stack), *(weakref.ref(layer) for layer in decision.stack.layers if layer)]
    gc.collect()
    gc.disable()
    try:
        del encoder, compute, bert, decision
        assert [each() for each in gone] == [None] * len(gone)
    finally:
        gc.enable()


def test_an_error_leaves_nothing_behind(tmp_path):
    encoder = load(write_encoder(tmp_path))
    with pytest.raises(TypeError):
        encoder.encode([1])
    encoder.model.layers[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="the page computes"):
        encoder.encode(TEXTS, fast=True)
    gone = weakref.ref(encoder)
    gc.collect()
    gc.disable()
    try:
        del encoder
        assert gone() is None
    finally:
        gc.enable()


def test_a_weight_that_was_used_is_shown_as_before(folder):
    encoder = SentenceEncoder.from_pretrained(folder)
    bias = encoder.model.layers[0].attention.query.bias
    with torch.no_grad():
        before = repr(nn.Parameter(bias.clone()))
    encoder.encode("a cat")
    taken = bias.taken
    assert repr(bias) == before
    assert bias.taken == taken
