"""`encode` and `predict` by the stack equal the page: every pooling, one text, several, none; and what is planned."""

import numpy as np
import pytest
import torch
from fast_helpers import fast_layers, product_rows
from helpers import MINILM, TINY, widen
from tiny_folder import MEAN, TEXTS, VOCABULARY, write_cross_encoder, write_encoder
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from torch import nn

from minibert import Bert, CrossEncoder, SentenceEncoder, Tokenizer, text_model
from minibert.batches import plan
from minibert.checkpoint.sentence_transformers import SentenceModules
from minibert.fast.tokens import round_up
from minibert.model import ScaledDotProductAttention
from minibert.pooling import POOLINGS, UNPADDED, Pooling


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder"), ("Pooling", MEAN))


@pytest.fixture(scope="module")
def cross_folder(tmp_path_factory):
    return write_cross_encoder(tmp_path_factory.mktemp("cross"))


def load(folder, **options):
    return SentenceEncoder.from_pretrained(folder, device="cpu", **options)


@pytest.mark.parametrize("include_prompt", [True, False], ids=["prompt counts", "prompt left out"])
@pytest.mark.parametrize("prompt", [None, "query: "])
@pytest.mark.parametrize("pooling", [*POOLINGS, ["mean", "max"], ["cls", "weightedmean"]], ids=str)
def test_every_pooling_equals_the_page(folder, pooling, prompt, include_prompt):
    encoder = load(folder)
    encoder.pooling = Pooling(pooling, include_prompt).eval()
    with fast_layers(encoder) as calls:
        found = encoder.encode(TEXTS, prompt=prompt, fast=True)
    first_only = pooling == "cls" and (include_prompt or not prompt)
    assert calls == [(encoder.model.layers[0], False), (encoder.model.layers[1], first_only)]
    assert abs(found - encoder.encode(TEXTS, prompt=prompt, fast=False)).max() < 1e-5
    for text in TEXTS[:3]:
        alone = encoder.encode(text, prompt=prompt, fast=True)
        assert abs(alone - encoder.encode(text, prompt=prompt, fast=False)).max() < 1e-5
    none = encoder.encode([], prompt=prompt, fast=True)
    assert none.shape == (0, 32 * (len(pooling) if isinstance(pooling, list) else 1))
    assert none.dtype == np.float32


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int8"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_every_dtype_is_near_the_page(folder, pooling, dtype, monkeypatch):
    monkeypatch.setattr("minibert.arithmetic.times_float32", lambda _: 0.5)
    encoder = load(folder, pooling=pooling, dtype=dtype)
    apart = abs(encoder.encode(TEXTS, fast=True) - encoder.encode(TEXTS, fast=False)).max()
    assert apart < {"float64": 1e-10, "float32": 1e-5}.get(dtype, 0.5)
    assert (apart > 1e-4) == (dtype in ("bfloat16", "int8"))


@pytest.mark.parametrize("pooling", [*POOLINGS, ["mean", "max"]], ids=str)
def test_sentence_vectors_are_made_of_tokens_only(folder, pooling):
    encoder = load(folder, pooling=pooling)
    mask = encoder.tokenize(TEXTS)["attention_mask"]
    with product_rows() as rows:
        encoder.encode(TEXTS)
    assert max(rows) == round_up(int(mask.sum())) < round_up(mask.numel())


def test_whoever_asks_for_tokens_gets_them_all(folder):
    encoder = load(folder, pooling="cls")
    page = encoder.encode(TEXTS, output_value=None, fast=False)
    with fast_layers(encoder) as calls:
        found = encoder.encode(TEXTS, output_value=None, fast=True)
        alone = encoder.encode(TEXTS[0], output_value="token_embeddings", fast=True)
    assert [first for _, first in calls] == [False] * 4
    for mine, theirs in zip(found, page, strict=True):
        assert mine.keys() == theirs.keys()
        assert len(mine["token_embeddings"]) == int(mine["attention_mask"].sum())
        assert (mine["token_embeddings"] - theirs["token_embeddings"]).abs().max() < 1e-5
        assert (mine["sentence_embedding"] - theirs["sentence_embedding"]).abs().max() < 1e-5
    assert (alone - page[0]["token_embeddings"]).abs().max() < 1e-5


def test_results_may_go_into_training_after_calls_of_any_kind(folder):
    """Weights that were packed in inference mode give states that training takes."""
    encoder = load(folder)
    encoder.encode(TEXTS)
    head = nn.Linear(32, 1)
    for states in encoder.encode(TEXTS, output_value="token_embeddings"):
        assert not states.is_inference()
        head(states).sum().backward()
    assert head.weight.grad.abs().max() > 0


def bare_encoder(pooling, **options):
    """Without [CLS] and [SEP]: a text may have no token at all."""
    backend = Backend(models.WordPiece({piece: i for i, piece in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    modules = SentenceModules(after=[Pooling(pooling)])
    return SentenceEncoder(widen(Bert(TINY)).eval(), Tokenizer(backend), modules, **options)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_text_of_no_tokens_gives_zeros(pooling):
    encoder = bare_encoder(pooling)
    texts = ["the cat sat", "", "hello", "", "the cat"]
    with fast_layers(encoder) as calls:
        found = encoder.encode(texts, fast=True)
    assert len(calls) == 2
    assert abs(found - encoder.encode(texts, fast=False)).max() < 1e-5
    assert not found[[1, 3]].any()
    assert [len(states) for states in encoder.encode(texts, output_value="token_embeddings")] == [3, 0, 1, 0, 2]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_text_of_no_tokens_beside_numbers_that_are_not_finite(pooling):
    encoder = bare_encoder(pooling)
    with torch.no_grad():
        encoder.model.embeddings.token.weight[VOCABULARY.index("cat")] = torch.nan
    vectors = encoder.encode(["the cat", "", "hello"], fast=True)
    assert np.isnan(vectors[0]).all()
    assert np.isfinite(vectors[1:]).all()


@pytest.mark.parametrize("texts", ["", ["", ""]])
def test_texts_of_no_tokens_alone_are_as_on_the_page(texts):
    encoder = bare_encoder("mean")
    for fast in (None, False):
        with pytest.raises(ValueError, match=r"input_ids must be \(batch, 1 to 40 tokens\)"):
            encoder.encode(texts, fast=fast)


# --- who reads the last states


def test_whoever_hooks_the_model_sees_all_positions(folder):
    encoder, seen = load(folder, pooling="cls"), []
    encoder.model.register_forward_hook(lambda module, arguments, output: seen.append(output[0].shape))
    with fast_layers(encoder) as calls:
        encoder.encode(TEXTS[0])
    assert seen[0][1] == encoder.tokenize([TEXTS[0]])["input_ids"].shape[1] > 1
    assert calls == []


def test_a_pooling_of_ones_own_is_given_texts_without_padding(folder):
    """Its use of padding can't be known."""

    class Sum(nn.Module):
        def forward(self, x, mask, prompt_length=0):
            assert mask.all()
            return x.sum(1)

    encoder = load(folder)
    encoder.pooling = Sum()
    with product_rows() as rows:
        found = encoder.encode([*TEXTS, TEXTS[0]])
    assert max(rows) == round_up(2 * len(encoder.tokenize(TEXTS[0])["input_ids"][0]))
    assert abs(found - encoder.encode([*TEXTS, TEXTS[0]], fast=False, batch_size=1)).max() < 1e-4


class LastPooler(nn.Module):
    """Reads another position than the first."""

    def forward(self, x):
        return x[:, -1]


class OwnBert(Bert):
    """Looks at all positions of the last layer."""

    def forward(self, *arguments, **options):
        output = super().forward(*arguments, **options)
        return output._replace(last_hidden_state=output.last_hidden_state.flip(1))


class OwnPooling(Pooling):
    def forward(self, x, mask, prompt_length=0):
        return x[:, 1]


def own_bert(encoder):
    encoder.model.__class__ = OwnBert


def own_pooler(encoder):
    encoder.model.pooler = LastPooler()


def own_pooling(encoder):
    encoder.pooling.__class__ = OwnPooling


def own_forward(encoder):
    encoder.pooling.forward = lambda x, mask, prompt_length=0: x[:, 1]


def other_modes(encoder):
    encoder.pooling.modes = ("mean",)


def hooked_pooling(encoder):
    encoder.pooling.register_forward_pre_hook(lambda pooling, arguments: (arguments[0].flip(1), *arguments[1:]))


@pytest.mark.parametrize(
    "change",
    [own_bert, own_pooler, own_pooling, own_forward, other_modes, hooked_pooling],
    ids=lambda change: change.__name__,
)
def test_a_reader_of_ones_own_is_given_what_it_may_read(folder, change):
    encoder = load(folder, pooling="cls")
    before = encoder.encode(TEXTS[0])
    change(encoder)
    after = encoder.encode(TEXTS[0])
    assert abs(after - encoder.encode(TEXTS[0], fast=False)).max() < 1e-5
    alone = None if change is own_bert else 1  # that one reads padding, and is computed by the page in any case
    assert abs(encoder.encode(TEXTS) - encoder.encode(TEXTS, fast=False, batch_size=alone)).max() < 1e-5
    assert (abs(after - before).max() > 1e-3) == (change is not own_pooler)


def test_the_pooler_computes_only_for_who_reads_it(folder, cross_folder, monkeypatch):
    pooled, tanh = [], torch.tanh

    def count(x):
        if x.shape[-1] == TINY.hidden_size:  # not in the check of the page
            pooled.append(tanh(x))
            return pooled[-1]
        return tanh(x)

    monkeypatch.setattr(torch, "tanh", count)
    encoder = load(folder)
    encoder.encode(TEXTS)
    assert not pooled
    encoder.model(torch.tensor([[2, 3]]))
    assert len(pooled) == 1
    seen = []
    encoder.model.pooler.register_forward_hook(lambda _, __, output: seen.append(output))
    encoder.encode(TEXTS[0])
    assert torch.equal(seen[0], pooled[1])
    pooled.clear()
    CrossEncoder.from_pretrained(cross_folder, device="cpu").predict([TEXTS[:2]])
    assert len(pooled) == 1


def test_pairs_are_scored_by_their_first_token_and_of_tokens_only(cross_folder):
    encoder = CrossEncoder.from_pretrained(cross_folder, device="cpu")
    pairs = [(text, TEXTS[0]) for text in TEXTS]
    with product_rows() as rows, fast_layers(encoder) as calls:
        found = encoder.predict(pairs, fast=True)
    assert [first for _, first in calls] == [False, True]
    assert min(rows) == round_up(len(pairs), 4)
    assert max(rows) == round_up(len(encoder.tokenizer.encode(TEXTS, [TEXTS[0]] * len(TEXTS), limit=40).ids))
    assert abs(found - encoder.predict(pairs, fast=False)).max() < 1e-5
    assert abs(encoder.predict(pairs[0], fast=True) - found[0]) < 1e-5
    assert encoder.predict([], fast=True).shape == (0,)


def test_a_pooler_of_ones_own_is_given_all_positions(cross_folder):
    encoder = CrossEncoder.from_pretrained(cross_folder, device="cpu")
    before = encoder.predict(TEXTS[:2])
    encoder.model.bert.pooler = LastPooler()
    assert abs(encoder.predict(TEXTS[:2]) - encoder.predict(TEXTS[:2], fast=False)) < 1e-6
    assert abs(encoder.predict(TEXTS[:2]) - before) > 1e-3


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "int8"])
def test_scores_of_every_dtype_are_near_the_page(cross_folder, dtype, monkeypatch):
    monkeypatch.setattr("minibert.arithmetic.times_float32", lambda _: 0.5)
    encoder = CrossEncoder.from_pretrained(cross_folder, dtype=dtype, device="cpu")
    pairs = [(text, TEXTS[0]) for text in TEXTS]
    apart = abs(encoder.predict(pairs, fast=True) - encoder.predict(pairs, fast=False)).max()
    assert apart < {"float64": 1e-10}.get(dtype, 0.5)


# --- what is planned


class OwnCore(ScaledDotProductAttention):
    pass


def own_core(encoder):
    encoder.model.layers[1].attention.core = OwnCore(0.0)


def own_bert_class(encoder):
    encoder.model.__class__ = OwnBert


@pytest.mark.parametrize(
    ("change", "padding"),
    [
        (lambda encoder: None, "free"),
        (own_core, "none"),
        (own_forward, "none"),
        (own_bert_class, "none"),
        (lambda encoder: encoder.double(), "free"),
        (lambda encoder: encoder.half(), "costs"),
    ],
    ids=[
        "the page's own",
        "a part of one's own",
        "a pooling of one's own",
        "a Bert of one's own",
        "float64",
        "float16",
    ],
)
def test_batches_are_planned_by_what_padding_costs(folder, change, padding, monkeypatch):
    seen = []

    def watch(*arguments, padding, **options):
        seen.append(padding)
        return plan(*arguments, padding=padding, **options)

    monkeypatch.setattr(text_model, "plan", watch)
    encoder = load(folder, pooling="mean")
    change(encoder)
    encoder.encode(TEXTS)
    with torch.autocast("cpu"):
        encoder.encode(TEXTS)
    encoder.encode(TEXTS, fast=False)
    encoder.encode(TEXTS, output_value="token_embeddings")
    by_page = "none" if padding == "none" else "costs"
    assert seen == [padding, by_page, by_page, padding]


@pytest.mark.parametrize("fast", [None, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_texts_do_not_depend_on_padding_where_every_layer_has_a_part_of_ones_own(folder, layers, fast):
    encoder = load(folder, pooling="mean")
    encoder.model.layers = encoder.model.layers[:layers]
    for layer in encoder.model.layers:
        layer.attention = Rolled()
    apart = np.stack([encoder.encode(text) for text in TEXTS])
    assert np.abs(encoder.encode(TEXTS, fast=fast) - apart).max() < 1e-5


class Rolled(nn.Module):
    """Mixes positions, and knows no mask. x (B, S, D) -> (B, S, D)"""

    def forward(self, x, mask=None):
        assert mask is None
        return x.roll(1, 1)


def test_a_layer_of_ones_own_is_given_texts_of_one_length_without_padding(folder):
    encoder, shapes = load(folder), []
    encoder.model.layers.insert(1, nn.Identity())

    def forward(x, mask=None):
        assert mask is None
        shapes.append(x.shape[:2])
        return x + x.sum(1, keepdim=True)  # looks at all positions

    encoder.model.layers[1].forward = forward
    texts = [*TEXTS, TEXTS[0]]
    found = encoder.encode(texts)
    lengths = encoder.tokenize(texts)["attention_mask"].sum(1).tolist()
    assert sorted(shapes) == sorted((lengths.count(length), length) for length in set(lengths))
    encoder.model.layers[1].forward = lambda x, mask=None: x + x.sum(1, keepdim=True)
    assert abs(found - encoder.encode(texts, fast=False, batch_size=1)).max() < 1e-4


# --- poolings without a mask


@pytest.mark.parametrize("mode", UNPADDED)
def test_without_padding_a_pooling_is_the_same(mode):
    x = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(Pooling(mode)(x, None), POOLINGS[mode](x, torch.ones(3, 7, dtype=torch.bool)), atol=1e-6)


def test_without_a_mask_several_ways_and_prompts_work_too():
    x, mask = torch.randn(2, 6, 4), torch.ones(2, 6, dtype=torch.bool)
    assert torch.equal(Pooling(["mean", "cls"])(x, None), Pooling(["mean", "cls"])(x, mask))
    assert torch.equal(Pooling("mean", False)(x, None, 3), Pooling("mean", False)(x, mask, 3))


def test_real_weights_within_1e_5_of_the_page():
    encoder = load(MINILM)
    texts = ["Short.", "A sentence of middling length, with a comma.", "and so on " * 60]
    with fast_layers(encoder) as calls:
        found = encoder.encode(texts, output_value="token_embeddings", fast=True)
    assert len(calls) >= 6
    expected = encoder.encode(texts, output_value="token_embeddings", fast=False)
    assert max((mine - theirs).abs().max() for mine, theirs in zip(found, expected, strict=True)) < 1e-5
