"""Each value has a name, is what its row of the catalogue says, and is the same with fused parts and in `encode`."""

import contextvars
import copy
import dataclasses
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from documents import DOCS, blocks, run, table
from helpers import MINILM, TINY, random_batch, widen
from tiny_folder import MEAN, TEXTS, write_encoder
from torch import nn

from minibert import Bert, SentenceEncoder
from minibert.config import POSITION_TYPES
from minibert.fused import fuse
from minibert.model import Encoder, FeedForward
from minibert.research import CATALOGUE, capture, patch

VALUES_MD = (DOCS / "values.md").read_text(encoding="utf-8")
LENGTHS = (9, 5, 1)
SIZES = {"B": 3, "S": 9, "D": 32, "H": 4, "K": 8, "F": 37}
every_position_type = pytest.mark.parametrize("kind", POSITION_TYPES)


def wide(**changes):
    return widen(Bert(dataclasses.replace(TINY, **changes))).double().eval()


def everything(model, **batch):
    with capture(model, "**") as values:
        model(**(batch or random_batch(TINY, LENGTHS)))
    return values


def expected(kind="absolute", pooler=True):
    """Return name -> shape, by the catalogue, in a tiny Bert."""
    names = {}
    for value in CATALOGUE:
        absent = {"embeddings.position"} if kind != "absolute" else {"layers.{}.attention.relative"}
        if any(value.name.startswith(name) for name in absent) or (value.name.startswith("pooler") and not pooler):
            continue
        for layer in range(2 if "{}" in value.name else 1):
            names[value.name.format(layer)] = tuple(SIZES.get(letter) for letter in value.shape.split())
    return names


def hooks_on(model):
    return [
        name
        for name, part in model.named_modules()
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._forward_hooks_always_called
    ]


def close(one, other, below=1e-12):
    assert one.shape == other.shape
    assert (one - other).abs().max().item() < below


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("tiny"), ("Pooling", MEAN))


@pytest.fixture
def encoder(folder):
    return SentenceEncoder.from_pretrained(folder, device="cpu")


# The catalogue.


def test_the_table_in_the_docs_is_the_catalogue():
    shown = [(f"`{name}`", f"({', '.join(shape.split())})", words) for name, shape, words in CATALOGUE]
    assert table(VALUES_MD) == shown


def test_the_code_in_the_docs_runs_and_prints_what_is_shown(capsys):
    names = {}
    for code, shown in blocks(VALUES_MD):
        run(code, names, DOCS / "values.md")
        assert capsys.readouterr().out == shown


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("pooler", [False, True])
@every_position_type
def test_capture_finds_the_names_of_the_catalogue_in_their_shapes(kind, pooler, fused):
    model = widen(Bert(dataclasses.replace(TINY, position_embedding_type=kind), pooler=pooler)).double().eval()
    if fused:
        fuse(model)
    values = everything(model)
    assert {name: tuple(value.shape) for name, value in values.items()} == expected(kind, pooler)


def test_values_come_in_the_order_of_the_catalogue():
    computed = [name for name in everything(wide()) if not name.startswith("layers.1")]
    assert computed == [name for name in expected() if not name.startswith("layers.1")]


def test_no_part_of_the_page_is_left_out():
    """Every module that the page calls has a row, except dropout. A new module without a row fails here."""
    model, called = wide(), []
    for name, part in model.named_modules():
        part.register_forward_hook(lambda *_, name=name: called.append(name))
    model(**random_batch(TINY, LENGTHS))
    left = {name for name in called if not name.endswith("dropout")} - {""}
    assert left == {name for name in expected() if name.rsplit(".", 1)[-1] not in ("before", "q", "k", "v")}


def check_layer(values, i, layer, kind, real):
    """Compare every value of a layer with the formula, from the layer's input on."""
    x = values[f"layers.{i - 1}" if i else "embeddings"]
    a, f = f"layers.{i}.attention", f"layers.{i}.feed_forward"
    for part, short in (("query", "q"), ("key", "k"), ("value", "v")):
        close(
            values[f"{a}.{part}"],
            x @ layer.attention.get_submodule(part).weight.T + getattr(layer.attention, part).bias,
        )
        for head in range(4):
            close(values[f"{a}.{short}"][:, head], values[f"{a}.{part}"][..., 8 * head : 8 * head + 8])
    q, k, v = (values[f"{a}.{short}"] for short in "qkv")
    scores = q @ k.mT / math.sqrt(8)
    if kind != "absolute":
        apart = torch.arange(9)[:, None] - torch.arange(9)
        distance = layer.attention.relative.distance.weight[apart + 39]
        close(values[f"{a}.relative.distance"], distance)
        bias = (q[..., None, :] * distance).sum(-1)
        if kind == "relative_key_query":
            bias = bias + (k[..., None, :, :] * distance).sum(-1)
        close(values[f"{a}.relative"], bias / math.sqrt(8), 1e-10)
        scores = scores + values[f"{a}.relative"]
    close(values[f"{a}.core.scores"], scores)
    close(values[f"{a}.core.probs"], scores.masked_fill(~real[:, None, None], -torch.inf).softmax(-1))
    close(values[f"{a}.core"], values[f"{a}.core.probs"] @ v)
    side_by_side = torch.cat([values[f"{a}.core"][:, head] for head in range(4)], dim=-1)
    close(values[f"{a}.out"], side_by_side @ layer.attention.out.weight.T + layer.attention.out.bias)
    close(values[a], values[f"{a}.out"])
    close(values[f"{a}_norm.before"], x + values[a])
    close(values[f"{a}_norm"], layer.attention_norm(x + values[a]))
    close(values[f"{f}.up"], values[f"{a}_norm"] @ layer.feed_forward.up.weight.T + layer.feed_forward.up.bias)
    close(values[f"{f}.activation"], nn.functional.gelu(values[f"{f}.up"]))
    close(
        values[f"{f}.down"],
        values[f"{f}.activation"] @ layer.feed_forward.down.weight.T + layer.feed_forward.down.bias,
    )
    close(values[f], values[f"{f}.down"])
    close(values[f"{f}_norm.before"], values[f"{a}_norm"] + values[f])
    close(values[f"{f}_norm"], layer.feed_forward_norm(values[f"{f}_norm.before"]))
    close(values[f"layers.{i}"], values[f"{f}_norm"])


@every_position_type
def test_each_value_is_what_its_words_say(kind):
    model = wide(position_embedding_type=kind)
    batch = random_batch(TINY, LENGTHS)
    values = everything(model, **batch)
    real = batch["attention_mask"].bool()

    e = "embeddings"
    close(values[f"{e}.token"], model.embeddings.token.weight[batch["input_ids"]])
    close(values[f"{e}.token_type"], model.embeddings.token_type.weight[batch["token_type_ids"]])
    total = values[f"{e}.token"] + values[f"{e}.token_type"]
    if kind == "absolute":
        close(values[f"{e}.position"], model.embeddings.position.weight[:9])
        total = total + values[f"{e}.position"]
    close(values[f"{e}.norm.before"], total)
    close(values[f"{e}.norm"], model.embeddings.norm(total))
    close(values[e], values[f"{e}.norm"])

    for i, layer in enumerate(model.layers):
        check_layer(values, i, layer, kind, real)
    output = model(**batch)
    close(values["layers"], output.last_hidden_state)
    close(
        values["pooler.dense"], output.last_hidden_state[:, 0] @ model.pooler.dense.weight.T + model.pooler.dense.bias
    )
    close(values["pooler"], output.pooler_output)


# With fused parts.


@every_position_type
def test_with_fused_parts_every_value_is_the_pages(kind):
    page = wide(position_embedding_type=kind)
    fused = fuse(copy.deepcopy(page))
    batch = random_batch(TINY, LENGTHS)
    every = everything(page, **batch)
    for name, value in everything(fused, **batch).items():
        close(value, every[name], 1e-10)
    for name in every:  # each by itself too: fewer hooks leave more to torch's kernels
        with capture(fused, name) as values:
            output = fused(**batch)
        close(values[name], every[name], 1e-10)
        close(output.last_hidden_state, every["layers"], 1e-10)


def test_real_weights_within_1e_5_of_the_page():
    page, with_fused = (SentenceEncoder.from_pretrained(MINILM, fast=False) for _ in range(2))
    fuse(with_fused.model)
    batch = page.tokenize(["Short.", "A sentence of middling length, with a comma.", "and so on " * 60])
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        slow, quick = (everything(encoder.model, **batch) for encoder in (page, with_fused))
    assert len(slow) == len(quick) > 6 * 20
    for name, value in slow.items():
        apart = (quick[name] - value).abs()
        if value.shape[:2] == real.shape:
            apart = apart[real]
        elif value.shape[-2:] == (real.shape[1],) * 2:  # (B, H, S, S): rows and columns of padding are never read
            apart = apart * real[:, None, :, None] * real[:, None, None, :]
        assert apart.max() < 1e-5 * max(1, value.abs().max().item()), name


def test_no_hook_is_left_on_fused_parts():
    model = wide()
    fuse(model)
    everything(model)
    assert hooks_on(model) == []


# From encode.


def test_encode_gives_each_text_its_own_values_without_padding(encoder):
    page = copy.deepcopy(encoder.model)
    with capture(encoder, "**") as values:
        encoder.encode(TEXTS, batch_size=2)
    for i, text in enumerate(TEXTS):
        alone = everything(page, **encoder.tokenize(text))
        assert list(alone) == list(values)
        for name, value in alone.items():
            expect = value if name.startswith("embeddings.position") else value[0]
            assert values[name][i].shape == expect.shape, name
            assert (values[name][i] - expect).abs().max() < 1e-4 * (1 + expect.abs().max()), name


def test_the_bert_of_an_encoder_may_be_named_too(encoder):
    with capture(encoder.model, "layers.*") as values:
        vectors = encoder.encode(TEXTS, batch_size=1, output_value="token_embeddings")
    for mine, theirs in zip(values["layers.1"], vectors, strict=True):
        assert torch.equal(mine, theirs)


def test_a_single_text_is_a_list_of_one(encoder):
    with capture(encoder, "**.probs") as values:
        encoder.encode("the cat")
    assert [value.shape for value in values["layers.0.attention.core.probs"]] == [(4, 4, 4)]


def test_the_latest_call_of_encode_is_kept(encoder):
    with capture(encoder, "layers.1") as values:
        encoder.encode(TEXTS)
        encoder.encode(TEXTS[:2], batch_size=1)
        assert len(values["layers.1"]) == 2
        encoder(**encoder.tokenize(TEXTS[:3]))
        assert values["layers.1"].shape[0] == 3


def test_values_from_encode_can_take_part_in_computations(encoder):
    with capture(encoder, "layers.1") as values:
        encoder.encode(TEXTS)
    weight = torch.ones(32, requires_grad=True)
    (values["layers.1"][0] @ weight).sum().backward()
    assert not values["layers.1"][0].is_inference()
    assert torch.equal(weight.grad, values["layers.1"][0].sum(0))
    assert values["layers.1"][0]._base is None  # a copy: it doesn't keep the whole batch in memory


def test_the_vectors_are_the_same_under_capture(encoder):
    before = encoder.encode(TEXTS)
    with capture(encoder, "**"):
        assert np.abs(encoder.encode(TEXTS) - before).max() < 1e-5


def test_a_custom_module_has_a_row_for_each_text_or_is_refused(encoder):
    class Twice(FeedForward):
        def __init__(self):
            super().__init__(TINY)
            self.rows, self.flat = nn.Identity(), nn.Identity()

        def forward(self, x):
            self.flat(x.flatten())
            return self.rows(super().forward(x))

    encoder.model.layers[0].feed_forward = Twice()
    with capture(encoder, "layers.0.feed_forward.rows", "layers.0.feed_forward") as values:
        encoder.encode(TEXTS)
    for own, whole in zip(values["layers.0.feed_forward.rows"], values["layers.0.feed_forward"], strict=True):
        assert torch.equal(own, whole)
    with (
        pytest.raises(ValueError, match=r"layers.0.feed_forward.flat is float32 \(.*without a row for each text"),
        capture(encoder, "**.flat"),
    ):
        encoder.encode(TEXTS)


# Patterns.

PATTERNS = {
    "layers.*": ["layers.0", "layers.1"],
    "layers.[1-9]": ["layers.1"],
    "layers.?.attention.[qkv]": [f"layers.{i}.attention.{short}" for i in (0, 1) for short in "qkv"],
    "**.probs": ["layers.0.attention.core.probs", "layers.1.attention.core.probs"],
    "layers.0.**.core": ["layers.0.attention.core"],
    "**.before": [
        "embeddings.norm.before",
        *(f"layers.{i}.{norm}_norm.before" for i in (0, 1) for norm in ("attention", "feed_forward")),
    ],
    "*": ["embeddings", "layers", "pooler"],
    "pooler.**": ["pooler.dense", "pooler"],
    "layers.1": ["layers.1"],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern):
    model = wide()
    with capture(model, pattern) as values:
        model(**random_batch(TINY, LENGTHS))
    assert list(values) == PATTERNS[pattern]


def test_several_patterns_may_overlap():
    model = wide()
    with capture(model, "layers.*", "layers.1", "pooler") as values:
        model(**random_batch(TINY, LENGTHS))
    assert list(values) == ["layers.0", "layers.1", "pooler"]


def other_core(model):
    for layer in model.layers:
        layer.attention.core = nn.Identity()


REFUSED = {
    "layers.0.atention": r"layers.0 \(EncoderLayer\) has no 'atention', only attention, attention_norm, feed_",
    "layers.2.attention": r"layers \(Encoder\) has no '2', only 0, 1",
    "layers.0.attention.core.q": r"core \(ScaledDotProductAttention\) has no 'q', only scores, probs, dropout",
    "layers.*.attention.core.prob": r"layers.0.attention.core \(.*\) has no 'prob', only .*; `\*` stands for text",
    "layers.*.dropout": "layers.0.dropout is a dropout",
    "layers.0.dropout": "layers.0.dropout is a dropout: watch the value after it in training; in eval mode it",
    "*.probs": r"`\*` stands for text between two dots, `\*\*` for any number of such parts",
    "embeddings.word": r"embeddings \(Embeddings\) has no 'word', only token, position, token_type, norm",
    "encoder.layer.0": r"the model \(Bert\) has no 'encoder', only embeddings, layers, pooler",
    "": r"the model \(Bert\) has no ''",
}


@pytest.mark.parametrize("pattern", REFUSED)
def test_a_pattern_that_matches_nothing_is_an_error_that_says_why(pattern):
    model = wide()
    with (
        pytest.raises(ValueError, match=f"no value is called .*{REFUSED[pattern]}"),
        capture(model, "layers.*", pattern),
    ):
        pass
    assert hooks_on(model) == []


def test_a_value_that_the_model_lacks_is_an_error_that_says_where():
    model = wide(position_embedding_type="relative_key")
    with (
        pytest.raises(ValueError, match=r"embeddings \(Embeddings\) has no 'position'"),
        capture(model, "**.position"),
    ):
        pass
    other_core(model)
    with (
        pytest.raises(ValueError, match=r"layers.0.attention.core \(Identity\) has no 'probs', no"),
        capture(model, "**.probs"),
    ):
        pass
    model.pooler = None
    with pytest.raises(ValueError, match=r"the model \(Bert\) has no 'pooler'"), capture(model, "pooler.dense"):
        pass


def test_no_pattern_at_all_is_an_error():
    with pytest.raises(ValueError, match="say which values to capture"), capture(wide()):
        pass


def test_a_list_that_is_never_called_is_an_error():
    model = wide()
    model.layers[0].mine = nn.ModuleList([nn.Identity()])
    with (
        pytest.raises(ValueError, match=r"layers.0.mine \(ModuleList\) is never called"),
        capture(model, "layers.0.mine"),
    ):
        pass


def test_a_model_without_a_bert_is_refused():
    with pytest.raises(ValueError, match="this Linear has 0 Berts in it"), capture(nn.Linear(2, 2), "**"):
        pass
    with pytest.raises(ValueError, match="this ModuleList has 2 Berts"), capture(nn.ModuleList([wide(), wide()]), "**"):
        pass


def test_nothing_computed_is_an_error():
    model = wide()
    with pytest.raises(ValueError, match=r"nothing that matches 'layers.\*' was computed"), capture(model, "layers.*"):
        wide()(**random_batch(TINY, LENGTHS))
    assert hooks_on(model) == []


def test_what_another_thread_computes_is_not_captured(encoder):
    expected = [encoder.encode(TEXTS[i:]) for i in range(3)]

    def others():
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda i: encoder.encode(TEXTS[i:]), range(3)))

    with capture(encoder, "layers.*") as values:
        encoder.encode(TEXTS[:2])
        before = dict(values)
        found = others()
        assert list(values) == list(before)
        assert all(values[name] is before[name] for name in values)
    assert all(np.abs(x - y).max() < 1e-6 for x, y in zip(found, expected, strict=True))
    cause = "was computed: did another model run, or another thread"
    with pytest.raises(ValueError, match=cause), capture(encoder, "layers.*"):
        others()
    context = contextvars.copy_context()
    with capture(encoder, "layers.0") as values:  # of a context that was entered before
        context.run(encoder.encode, TEXTS)
        assert not values
        contextvars.copy_context().run(encoder.encode, TEXTS)  # as asyncio's tasks are
        assert len(values["layers.0"]) == len(TEXTS)


def test_two_threads_capture_each_its_own(encoder):
    meet = threading.Barrier(2, timeout=20)

    def captured(texts):
        with capture(encoder, "layers.1") as values:
            meet.wait()  # both are open
            vectors = encoder.encode(texts)
            meet.wait()
        return vectors, values["layers.1"]

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(captured, (TEXTS[:1], TEXTS[1:])))
    for texts, (vectors, states) in zip((TEXTS[:1], TEXTS[1:]), results, strict=True):
        assert len(states) == len(texts)
        assert np.abs(vectors - encoder.encode(texts)).max() < 1e-6


@torch.no_grad()
def test_a_model_that_was_compiled_is_named_as_a_cause():
    model, batch = wide(), random_batch(TINY, LENGTHS)
    compiled = torch.compile(model, backend="eager")
    with capture(compiled, "layers.0") as values:  # compiled with the hooks
        compiled(**batch)
    close(values["layers.0"], everything(model, **batch)["layers.0"])
    compiled(**batch)
    name = "layers.0.attention.core.probs"
    with pytest.raises(ValueError, match="a model that was compiled before"), capture(compiled, name):
        compiled(**batch)


def test_a_name_that_was_not_captured_is_a_key_error_that_lists_the_nearest():
    model = wide()
    with capture(model, "layers.*") as values:
        model(**random_batch(TINY, LENGTHS))
    with pytest.raises(
        KeyError, match=r"layers.2 was not captured; of the 2 values that were, the nearest: layers.1, l"
    ):
        values["layers.2"]


# Which values are kept, and for how long.


def test_hooks_are_removed_also_after_an_exception():
    model = wide()
    with capture(model, "**"):
        assert len(hooks_on(model)) > 30
        model(**random_batch(TINY, LENGTHS))
    assert hooks_on(model) == []
    with pytest.raises(ZeroDivisionError), capture(model, "**"):
        1 / 0  # noqa: B018
    assert hooks_on(model) == []
    with pytest.raises(ValueError, match="input_ids"), capture(model, "**"):
        model(torch.ones(1, 41, dtype=torch.long))
    assert hooks_on(model) == []


def test_hooks_of_others_stay():
    model, seen = wide(), []
    model.layers[0].register_forward_hook(lambda *_: seen.append(1))
    everything(model)
    assert hooks_on(model) == ["layers.0"]
    model(**random_batch(TINY, LENGTHS))
    assert seen == [1, 1]


def test_capture_changes_no_number():
    model, batch = wide(), random_batch(TINY, LENGTHS)
    before = model(**batch).last_hidden_state
    with capture(model, "**"):
        assert torch.equal(model(**batch).last_hidden_state, before)


def test_gradients_flow_through_captured_values():
    model = wide()
    with capture(model, "layers.0.attention.core.probs") as values:
        output = model(**random_batch(TINY, LENGTHS)).last_hidden_state
    probs = values["layers.0.attention.core.probs"]
    (gradient,) = torch.autograd.grad(output.square().sum(), probs)
    assert gradient.shape == (3, 4, 9, 9)
    assert gradient.abs().max() > 1e-3


def test_in_training_too():
    model = wide().train()
    torch.manual_seed(0)
    with capture(model, "**") as values:
        output = model(**random_batch(TINY, LENGTHS))
    assert torch.equal(values["layers"], output.last_hidden_state)
    dropped = values["layers.0.attention_norm.before"] - values["embeddings"]  # attention's contribution, after dropout
    assert (dropped == 0).any()
    assert not (values["layers.0.attention"] == 0).any()


def test_only_the_latest_forward_is_kept():
    class Now(nn.Module):
        on = True

        def __init__(self):
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x):
            return self.inner(x) if self.on else x

    model = wide()
    model.layers[0].feed_forward.activation = Now()
    with capture(model, "layers.0.feed_forward.activation.inner", "layers.0") as values:
        model(**random_batch(TINY, LENGTHS))
        assert len(values) == 2
        Now.on = False
        model(**random_batch(TINY, (4, 4)))
        assert list(values) == ["layers.0"]
        assert values["layers.0"].shape == (2, 4, 32)


def test_a_part_called_by_itself_is_captured_too():
    model = wide()
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    with capture(model, "layers.0.attention.core.probs") as values:
        for length in (5, 3):
            model.layers[0](x[:, :length])
            assert values["layers.0.attention.core.probs"].shape == (2, 4, length, length)


def test_a_module_in_two_places_can_not_be_told_apart():
    model = wide()
    model.layers[1] = model.layers[0]
    with (
        pytest.raises(ValueError, match=r"layers.0 and layers.1 are one and the same module.*copy.deepcopy"),
        capture(model, "layers.1"),
    ):
        pass


def test_a_value_computed_twice_in_a_forward_is_an_error():
    class Again(Encoder):
        def forward(self, x, mask=None):
            for _ in range(2):
                x = super().forward(x, mask)
            return x

    model = wide()
    model.layers = Again(model.layers)
    with pytest.raises(ValueError, match=r"layers.0 was computed twice in one forward"), capture(model, "layers.*"):
        model(**random_batch(TINY, LENGTHS))


def test_custom_parts_go_by_their_names():
    model = wide()
    model.layers[0].feed_forward = nn.Sequential(nn.Linear(32, 3), nn.ReLU(), nn.Linear(3, 32)).double()
    values = everything(model)
    assert values["layers.0.feed_forward.1"].shape == (3, 9, 3)
    assert torch.equal(values["layers.0.feed_forward.2"], values["layers.0.feed_forward"])
    assert "layers.0.feed_forward.up" not in values


def test_a_value_that_is_not_a_tensor_is_refused():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    model = wide()
    model.layers[1].feed_forward.activation = nn.Sequential(Pair(), nn.Identity())
    with (
        pytest.raises(TypeError, match=r"layers.1.feed_forward.activation.0 is not a tensor but tuple"),
        capture(model, "**"),
    ):
        model(**random_batch(TINY, LENGTHS))


def test_a_capture_inside_a_patch_sees_the_patch_and_one_around_it_does_not():
    model, batch = wide(), random_batch(TINY, LENGTHS)
    with (
        capture(model, "layers.0") as around,
        patch(model, "layers.0", torch.zeros_like),
        capture(model, "layers.0") as inside,
    ):
        model(**batch)
    assert around["layers.0"].abs().max() > 0.1
    assert not inside["layers.0"].any()
