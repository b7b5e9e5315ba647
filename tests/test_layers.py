"""The layer in one piece: only where nothing was changed or is watched, and then the same numbers in fewer calls."""

import copy

import pytest
import torch
from helpers import TINY, random_batch, widen
from tiny_folder import TEXTS, write_cross_encoder, write_encoder
from torch import nn

from minibert import Bert, CrossEncoder, SentenceEncoder
from minibert import encoder as encoder_module
from minibert.fast import attention
from minibert.fast import rows as rows_module
from minibert.fast.int8 import Int8
from minibert.fast.layers import Asked, OnePiece, ProductLayer, asked
from minibert.fast.linear import OneDnn, Plain
from minibert.fast.prepare import prepare, restore
from minibert.fast.rows import filled
from minibert.fast.watching import quiet
from minibert.model import Pooler, ScaledDotProductAttention, gelu_new
from minibert.pooling import POOLINGS, UNPADDED, Pooling


@pytest.fixture
def in_one(monkeypatch):
    """Counts the layers that were computed in one piece."""
    calls = []
    compute = OnePiece.__call__

    def counted(self, *arguments, **options):
        calls.append(options.get("first_only", False))
        return compute(self, *arguments, **options)

    monkeypatch.setattr(OnePiece, "__call__", counted)
    return calls


def fast(dtype="float32"):
    model = widen(Bert(TINY)).eval()
    prepare(model, dtype)
    return model


def states(model, **options):
    with torch.inference_mode(), asked(Asked(quiet(model), **options)):
        return model(**random_batch(TINY, (9, 5, 1))).last_hidden_state


def hook(layer):
    layer.attention.core.probs.register_forward_hook(lambda *_: None)


def train(layer):
    layer.dropout.train()


def exchange(layer):
    layer.feed_forward.activation = nn.ReLU()


def formula(layer):
    layer.feed_forward.activation.formula = torch.sigmoid


def forward(layer):
    layer.attention.out.forward = lambda x: x * 0


def norm(layer):
    layer.attention_norm = nn.Identity()


CHANGES = [hook, train, exchange, formula, forward, norm]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("within", [False, True], ids=["by itself", "inside encode"])
def test_a_change_is_noticed_and_computed_as_on_the_page(change, within, in_one):
    model = fast()
    quietly = states if within else lambda model: states_alone(model)
    quietly(model)
    assert len(in_one) == 2  # both layers, before the change
    in_one.clear()
    change(model.layers[1])
    page = copy.deepcopy(model)
    restore(page)
    torch.manual_seed(0)
    result = quietly(model)
    assert in_one == [False]  # the other layer still
    torch.manual_seed(0)
    expected = states_alone(page)
    assert (result - expected)[0].abs().max() < 1e-4


def states_alone(model):
    with torch.inference_mode():
        return model(**random_batch(TINY, (9, 5, 1))).last_hidden_state


def another_formula(layer):
    layer.feed_forward.activation.formula = gelu_new


def a_formula_with_weights(layer):
    layer.feed_forward.activation.formula = nn.PReLU()


def another_epsilon(layer):
    layer.feed_forward_norm.eps = 0.5


def test_weights_shared_with_a_model_that_is_restored(in_one):
    model, other = fast(), fast()
    other.layers[1].attention.query.weight = model.layers[1].attention.query.weight
    before = states(other)
    states(model)
    restore(model)
    in_one.clear()
    assert torch.equal(states(other), before)
    assert len(in_one) == 2


def test_layers_that_can_not_be_laid_out_are_not_looked_at(monkeypatch):
    monkeypatch.setattr(ProductLayer, "in_one_piece", None)  # not called
    model = fast().double()
    assert states(model).dtype == torch.float64


@pytest.mark.parametrize("change", [another_formula, another_epsilon, a_formula_with_weights])
def test_another_number_or_formula_is_taken_up_at_once(change, in_one):
    model, page = fast(), fast()  # no copy of the model: to copy a weight counts as having touched it
    restore(page)
    before = states(model)
    for layer in (*model.layers, *page.layers):
        change(layer)
    after = states(model)
    assert len(in_one) == (2 if change is a_formula_with_weights else 4)
    assert (after - states_alone(page))[0].abs().max() < 1e-4 < (before - after).abs().max()


def test_a_changed_weight_is_laid_out_again(in_one):
    model = fast()
    states(model)
    with torch.no_grad():
        model.layers[0].attention.out.weight.mul_(2.0)
    page = copy.deepcopy(model)
    restore(page)
    assert (states(model) - states_alone(page))[0].abs().max() < 1e-4
    assert len(in_one) == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_the_first_position_alone_is_what_it_is_among_all(dtype, in_one):
    model = fast(dtype)
    every, first = states(model), states(model, first_only=True)
    assert in_one == [False, False, False, True]
    assert first.shape == (3, 1, 32)
    tolerance = {"float32": 1e-5, "bfloat16": 0.15, "int8": 0.6}[dtype]  # of numbers up to 5
    assert (first[:, 0] - every[:, 0]).abs().max() < tolerance


def test_a_last_layer_of_ones_own_is_called_with_all_positions(in_one):
    model = fast()
    model.layers[1] = nn.Identity()
    model.layers[1].forward = lambda x, mask=None: x.flip(1)
    every, first = states(model), states(model, first_only=True)
    assert torch.equal(first[:, 0], every[:, 0])


def test_a_layer_of_ones_own_may_drop_positions(in_one):
    model = fast()
    model.layers.insert(1, nn.Identity())
    model.layers[1].forward = lambda x, mask=None: x[:, :4]
    batch = random_batch(TINY, (9, 9))
    del batch["attention_mask"]
    page = copy.deepcopy(model)
    restore(page)
    with torch.inference_mode(), asked(Asked(quiet(model))):
        result = model(**batch).last_hidden_state
    with torch.inference_mode():
        expected = page(**batch).last_hidden_state
    assert len(in_one) == 2
    assert result.shape == (2, 4, 32)
    assert (result - expected).abs().max() < 1e-4


@pytest.fixture
def rows(monkeypatch):
    """How many rows each product was made of."""
    counted = []

    def watch(kind, name, x_at):
        compute = getattr(kind, name)

        def count(self, *arguments):
            counted.append(len(arguments[x_at]))
            return compute(self, *arguments)

        monkeypatch.setattr(kind, name, count)

    for kind in (OneDnn, Plain, Int8):
        watch(kind, "multiply", 0)
        watch(kind, "multiply_onto", 1)
    return counted


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_no_product_is_made_of_padding(dtype, first_only, rows):
    model = fast(dtype)
    every = states(model, first_only=first_only)
    assert max(rows) == 28  # 3 texts of 9 positions, filled up
    rows.clear()
    result = states(model, first_only=first_only, real_only=True)
    assert max(rows) == 16  # 9 + 5 + 1 tokens, filled up
    assert result.shape == every.shape
    tolerance = {"float32": 1e-5, "bfloat16": 0.15, "int8": 0.6}[dtype]  # of numbers up to 5
    for text, length in enumerate((1, 1, 1) if first_only else (9, 5, 1)):
        assert (result - every)[text, :length].abs().max() < tolerance


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize(
    ("lengths", "runs"), [((40, 33), [(1, 40), (1, 33)]), ((33, 8, 8, 8, 1), [(1, 33), (3, 8), (1, 1)])], ids=str
)
def test_no_attention_is_computed_of_padding(dtype, lengths, runs, first_only, monkeypatch):
    shapes = []
    mix = attention.mix

    def watch(q, k, v, mask, beyond):
        shapes.append((q.shape[0], q.shape[2], k.shape[2], mask is None))
        return mix(q, k, v, mask, beyond)

    monkeypatch.setattr(rows_module, "mix", watch)
    model, batch = fast(dtype), random_batch(TINY, lengths)
    with torch.inference_mode(), asked(Asked(quiet(model))):
        every = model(**batch).last_hidden_state
    shapes.clear()
    with torch.inference_mode(), asked(Asked(quiet(model), first_only=first_only, real_only=True)):
        result = model(**batch).last_hidden_state
    every_query = [(texts, length, length, True) for texts, length in runs]
    one_query = [(texts, 1, length, True) for texts, length in runs]
    assert shapes == every_query + (one_query if first_only else every_query)
    tolerance = {"float32": 1e-5, "bfloat16": 0.15, "int8": 0.6}[dtype]  # of numbers up to 5
    for text, length in enumerate((1,) * len(lengths) if first_only else lengths):
        assert (result - every)[text, :length].abs().max() < tolerance


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize(
    "lengths",
    [(17, 17, 17, 3), (16, 16, 5, 5, 5, 1), (12,) * 7 + (11,) * 4 + (2,), (40, 24, 24), (3, 9, 3), (5, 0, 0, 3)],
    ids=str,
)
def test_texts_of_one_length_after_another_are_mixed_as_each_by_itself(lengths, first_only):
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(filled(sum(lengths)), 3 * 32, generator=generator)
    real = rows_module.Real(torch.arange(40) < torch.tensor(lengths)[:, None, None, None])
    with torch.inference_mode():
        if first_only:
            (q,) = rows_module.heads(sources[real.first, :32], (len(lengths), 1), 1, 8)
            mixed = real.mix_first(q, sources[:, 32:].contiguous(), 8)
        else:
            mixed = real.mix(sources, 8)
            assert len(mixed) == len(sources)
    page, begin = ScaledDotProductAttention(0.0), 0
    for i, length in enumerate(lengths):
        q, k, v = sources[begin : begin + length].view(1, length, 3, 4, 8).permute(2, 0, 3, 1, 4)
        expected = page(q, k, v).transpose(1, 2).reshape(length, 32)
        found = mixed[i : i + 1] if first_only else mixed[begin : begin + length]
        if length:
            assert (found - expected[: len(found)]).abs().max() < 1e-5
        else:  # without tokens there is nothing to mix
            assert not found.any()
        begin += length


def own_core(encoder):
    encoder.model.layers[1].attention.core = ScaledDotProductAttention(0.0)


@pytest.mark.parametrize(
    ("change", "skipped"),
    [(lambda encoder: None, True), (own_core, False), (lambda encoder: encoder.double(), False)],
    ids=["the page's own", "a part of one's own", "float64"],
)
def test_batches_are_cut_without_regard_to_padding_only_where_none_is_computed(folder, change, skipped, monkeypatch):
    told, cut = [], encoder_module.cut

    def watch(lengths, config, *, real_only, **options):
        told.append(real_only)
        return cut(lengths, config, real_only=real_only, **options)

    monkeypatch.setattr(encoder_module, "cut", watch)
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu")
    change(encoder)
    encoder.encode(TEXTS)
    with torch.autocast("cpu"):
        encoder.encode(TEXTS)
    encoder.encode(TEXTS, output_value="token_embeddings")
    assert told == [skipped, False, False]


def test_a_layer_of_ones_own_is_given_the_padding_that_the_page_has(rows):
    model = fast()
    model.layers.insert(1, nn.Identity())
    model.layers[1].forward = lambda x, mask=None: x + x.sum(1, keepdim=True)  # looks at padding, too
    assert torch.equal(states(model, real_only=True), states(model))
    assert min(rows) == max(rows) == 28


@pytest.mark.parametrize("pooling", [*POOLINGS, ["mean", "max"]])
def test_sentence_vectors_are_made_of_tokens_only(folder, pooling, rows):
    page = SentenceEncoder.from_pretrained(folder, pooling=pooling, prepared=False, device="cpu")
    encoder = SentenceEncoder.from_pretrained(folder, pooling=pooling, device="cpu")
    assert abs(encoder.encode(TEXTS) - page.encode(TEXTS)).max() < 1e-5
    tokens = int(encoder.tokenize(TEXTS)["attention_mask"].sum())
    assert max(rows) == filled(tokens) < filled(encoder.tokenize(TEXTS)["attention_mask"].numel())


def test_a_pooling_of_ones_own_finds_what_the_page_leaves_at_padding(folder, rows):
    class Sum(nn.Module):
        def forward(self, x, mask, prompt_length=0):
            return x.sum(1)

    page = SentenceEncoder.from_pretrained(folder, prepared=False, device="cpu")
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu")
    page.pooling, encoder.pooling = Sum(), Sum()
    assert abs(encoder.encode(TEXTS) - page.encode(TEXTS)).max() < 1e-4
    assert max(rows) >= encoder.tokenize(TEXTS)["attention_mask"].numel()


def test_pairs_are_scored_by_their_first_position_and_of_tokens_only(tmp_path, rows, in_one):
    folder = write_cross_encoder(tmp_path)
    pairs = [(text, TEXTS[0]) for text in TEXTS]
    expected = CrossEncoder.from_pretrained(folder, prepared=False, device="cpu").predict(pairs)
    found = CrossEncoder.from_pretrained(folder, device="cpu").predict(pairs)
    assert abs(found - expected).max() < 1e-5
    assert in_one[-2:] == [False, True]
    assert min(rows) == filled(len(pairs))


@pytest.fixture
def folder(tmp_path):
    return write_encoder(tmp_path / "model")


@pytest.mark.parametrize("pooling", POOLINGS)
def test_only_cls_pooling_asks_for_the_first_position(folder, pooling, in_one):
    page = SentenceEncoder.from_pretrained(folder, pooling=pooling, prepared=False, device="cpu")
    encoder = SentenceEncoder.from_pretrained(folder, pooling=pooling, device="cpu")
    assert abs(encoder.encode(TEXTS) - page.encode(TEXTS)).max() < 1e-5
    assert any(in_one) == (pooling == "cls")


def test_whoever_asks_for_tokens_gets_them_all(folder, in_one):
    encoder = SentenceEncoder.from_pretrained(folder, pooling="cls", device="cpu")
    parts = encoder.encode(TEXTS, output_value="token_embeddings")
    assert not any(in_one)
    assert [len(part) for part in parts] == [int(row.sum()) for row in encoder.tokenize(TEXTS)["attention_mask"]]


def test_whoever_watches_the_last_states_sees_all_positions(folder, in_one):
    encoder = SentenceEncoder.from_pretrained(folder, pooling="cls", device="cpu")
    seen = []
    encoder.model.register_forward_hook(lambda module, arguments, output: seen.append(output[0].shape))
    encoder.encode(TEXTS[0])
    assert seen[0][1] == encoder.tokenize([TEXTS[0]])["input_ids"].shape[1] > 1
    assert not any(in_one)


@pytest.mark.parametrize("mode", UNPADDED)
def test_without_padding_a_pooling_is_the_same(mode):
    x = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(Pooling(mode)(x, None), POOLINGS[mode](x, torch.ones(3, 7, dtype=torch.bool)), atol=1e-6)


def test_without_a_mask_several_ways_and_prompts_work_too():
    x, mask = torch.randn(2, 6, 4), torch.ones(2, 6, dtype=torch.bool)
    assert torch.equal(Pooling(["mean", "cls"])(x, None), Pooling(["mean", "cls"])(x, mask))
    assert torch.equal(Pooling("mean", False)(x, None, 3), Pooling("mean", False)(x, mask, 3))


class OwnBert(Bert):
    """Looks at all positions of the last layer."""

    def forward(self, *arguments, **options):
        output = super().forward(*arguments, **options)
        return output._replace(last_hidden_state=output.last_hidden_state.flip(1))


class LastPooler(nn.Module):
    """Reads another position than the first."""

    def forward(self, x):
        return x[:, 2]


def own_bert(encoder):
    encoder.model.__class__ = OwnBert


def own_pooler(encoder):
    encoder.model.pooler = LastPooler()


def own_forward(encoder):
    encoder.pooling.forward = lambda x, mask, prompt_length=0: x[:, 1]


def own_dropout(encoder):
    class Half(nn.Module):
        def forward(self, x):
            return x / 2

    encoder.model.embeddings.dropout = Half()


def own_table(encoder):
    encoder.model.embeddings.token_type.forward = lambda ids: torch.ones(*ids.shape, 32)


@pytest.mark.parametrize(
    "change", [own_bert, own_pooler, own_forward, own_dropout, own_table], ids=lambda change: change.__name__
)
def test_whatever_is_somebodys_own_is_computed(folder, change):
    page = SentenceEncoder.from_pretrained(folder, pooling="cls", prepared=False, device="cpu")
    encoder = SentenceEncoder.from_pretrained(folder, pooling="cls", device="cpu")
    before = encoder.encode(TEXTS[0])
    change(page)
    change(encoder)
    after = encoder.encode(TEXTS[0])
    assert abs(after - page.encode(TEXTS[0])).max() < 1e-5
    assert (abs(after - before).max() > 1e-3) == (change is not own_pooler)


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("lengths", [(40,) * 5, (40, 33, 20, 7, 1), (40, 0, 20, 7, 1)], ids=str)
def test_bfloat16_attention_in_either_dtype_is_the_pages(tiles, lengths, monkeypatch):
    monkeypatch.setattr(attention, "_has_tiles", lambda: tiles)
    sources = torch.randn(5 * 40, 3 * 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    mask = torch.arange(40) < torch.tensor(lengths)[:, None, None, None]
    q, k, v = rows_module.heads(sources, (5, 40), 3, 8)
    assert q.dtype == (torch.bfloat16 if tiles else torch.float32)
    expected = ScaledDotProductAttention(0.0)(q.float(), k.float(), v.float(), mask)
    with torch.inference_mode():
        result = attention.mix(q, k, v, None if min(lengths) == 40 else mask)
    assert (result.float() - expected).abs().max() < (0.03 if tiles else 1e-5)


def test_the_pooler_computes_only_for_who_reads_it(folder, tmp_path, monkeypatch):
    pooled = []
    compute = Pooler.forward

    def count(self, x):
        pooled.append(compute(self, x))
        return pooled[-1]

    monkeypatch.setattr(Pooler, "forward", count)
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu")
    encoder.encode(TEXTS)
    assert not pooled
    encoder.model(torch.tensor([[2, 3]]))
    assert len(pooled) == 1
    seen = []
    encoder.model.pooler.register_forward_hook(lambda _, __, output: seen.append(output))
    encoder.encode(TEXTS[0])
    assert torch.equal(seen[0], pooled[1])
    pooled.clear()
    CrossEncoder.from_pretrained(write_cross_encoder(tmp_path / "cross"), device="cpu").predict([TEXTS[:2]])
    assert len(pooled) == 1
