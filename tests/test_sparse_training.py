"""Training a SparseEncoder: what the objective costs, when, and what learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import TINY, widen
from tiny_folder import write_vocabulary
from tiny_training import make_texts

from minibert import BertForMaskedLM, SparseEncoder, Tokenizer
from minibert.checkpoint.sparse_encoders import SparseModules
from minibert.retrieval.static_queries import StaticQueries
from minibert.training import (
    Examples,
    InBatchNegatives,
    RetrievalEvaluator,
    Settings,
    SparseTask,
    Splade,
    STSEvaluator,
    TripletEvaluator,
    evaluate,
    train,
)
from minibert.training.sparse import flops

TEXTS = list(dict.fromkeys(make_texts(200)))[:64]
EXAMPLES = Examples([TEXTS[:32], TEXTS[32:64]])
CONFIG = replace(TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
SETTINGS = Settings(steps=20, batch_size=8, learning_rate=1e-2, seed=1)


@pytest.fixture
def tokenizer(tmp_path):
    return Tokenizer.from_pretrained(write_vocabulary(tmp_path / "v", config={"do_lower_case": True}))


def make(tokenizer, frozen=None):
    weight = torch.ones(TINY.vocab_size)
    static = None if frozen is None else StaticQueries(weight, tokenizer, ["query"], frozen=frozen)
    return SparseEncoder(widen(BertForMaskedLM(CONFIG)).eval(), tokenizer, SparseModules(), static=static)


def test_flops_are_the_squares_of_mean_weights():
    vectors = torch.tensor([[1.0, 0, 2], [3, 0, 0]])
    assert flops(vectors) == 2**2 + 0 + 1**2
    assert flops(vectors, threshold=1) == 0.5**2 + 1**2  # the second text has one word


def test_the_weights_rise_in_the_warm_up():
    u, v = torch.rand(2, 4, 9, generator=torch.Generator().manual_seed(0))
    plain = InBatchNegatives(1.0, "dot")([u, v])
    full = 2 * flops(v) + 3 * flops(u)
    for schedule, power in (("linear", 1), ("quadratic", 2)):
        objective = Splade(document_regularizer_weight=2, query_regularizer_weight=3, warmup=0.5, schedule=schedule)
        assert objective([u, v]) == pytest.approx(plain + full)  # outside of the loop
        for step, share in ((0, 0), (1, 0.2), (4, 0.8), (5, 1), (9, 1)):
            objective.begin_step(step, 10)
            assert objective([u, v]).item() == pytest.approx((plain + share**power * full).item())


def test_free_queries_and_documents_only():
    u, v = torch.rand(2, 4, 9, generator=torch.Generator().manual_seed(0))
    plain = InBatchNegatives(1.0, "dot")([u, v])
    free = Splade(document_regularizer_weight=2, query_regularizer_weight=None)
    assert free([u, v]).item() == pytest.approx((plain + 2 * flops(v)).item())
    alike = Splade(document_regularizer_weight=2, use_document_regularizer_only=True)
    assert alike([u, v]).item() == pytest.approx((plain + 2 * flops(torch.cat([u, v]))).item())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"document_regularizer_weight": -1}, "document_regularizer_weight must be at least 0, not -1"),
        ({"query_regularizer_weight": float("nan")}, "query_regularizer_weight must be at least 0, not nan"),
        ({"document_regularizer_threshold": 0}, "document_regularizer_threshold must be a whole number"),
        ({"warmup": 1.5}, r"warmup must be from 0 to 1, not 1\.5"),
        ({"schedule": "cubic"}, "schedule must be linear or quadratic, not 'cubic'"),
    ],
)
def test_wrong_values_are_refused_by_name(options, text):
    with pytest.raises(ValueError, match=text):
        Splade(**options)
    with pytest.raises(ValueError, match="similarity must be one of cosine, dot"):
        InBatchNegatives(similarity="maxsim")


def test_one_column_is_refused(tokenizer):
    with pytest.raises(ValueError, match="Splade takes 2 columns of texts or more, not 1"):
        SparseTask(make(tokenizer), Splade(), Examples([TEXTS]))


def test_a_higher_weight_leaves_fewer_words(tokenizer):
    words = []
    for weight in (0, 10.0):
        encoder = make(tokenizer)
        objective = Splade(document_regularizer_weight=weight, query_regularizer_weight=weight)
        records = train(SparseTask(encoder, objective, EXAMPLES), SETTINGS)
        assert len(records) == 20
        words.append(encoder.sparsity(encoder.encode(TEXTS))["active_dims"])
    assert words[1] < 0.5 * words[0]


def test_chunks_give_the_same_curve(tokenizer):
    curves = []
    for chunk_size in (None, 3):
        task = SparseTask(make(tokenizer).double(), Splade(), EXAMPLES, chunk_size=chunk_size)
        curves.append([record["loss"] for record in train(task, SETTINGS)])
    assert np.abs(np.subtract(*curves)).max() < 1e-8


@pytest.mark.parametrize("frozen", [True, False])
def test_queries_of_static_weights(tokenizer, frozen):
    encoder = make(tokenizer, frozen)
    objective = Splade(query_regularizer_weight=None)
    task = SparseTask(encoder, objective, EXAMPLES)
    rows = np.arange(4)
    queries = torch.stack([encoder.encode_query(text).to_dense() for text in TEXTS[:4]])
    assert torch.allclose(task.embed(task.tokens[0], rows), queries)
    losses = [record["loss"] for record in train(task, SETTINGS)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert bool((encoder.static.weight == 1).all()) is frozen


def test_evaluators_take_sparse_vectors(tokenizer, monkeypatch):
    """They give the scores of dense vectors with the same numbers."""

    class Dense:
        def __init__(self, encoder):
            self.encoder = encoder

        def encode(self, texts, **options):
            return self.encoder.encode(texts, convert_to_sparse_tensor=False)

        encode_query = encode_document = encode

        def similarity(self, a, b):
            return a @ b.T

        def similarity_pairwise(self, a, b):
            return (a * b).sum(1)

    monkeypatch.setattr(evaluate, "CELLS", 100)
    encoder = make(tokenizer).double()
    scores = torch.arange(20.0)
    for evaluator in (
        STSEvaluator(Examples([TEXTS[:20], TEXTS[20:40]], scores)),
        TripletEvaluator(Examples([TEXTS[:20], TEXTS[20:40], TEXTS[40:60]])),
        RetrievalEvaluator.from_pairs(Examples([TEXTS[:20], TEXTS[20:40]]), chunk=7),
    ):
        assert evaluator(encoder) == pytest.approx(evaluator(Dense(encoder)))


def test_a_training_that_was_stopped_goes_on_to_the_same_losses(tokenizer, tmp_path):
    """The warm-up goes by the step, whichever process takes it."""

    def run(folder, stop=None, **options):
        task = SparseTask(make(tokenizer), Splade(document_regularizer_weight=1.0), EXAMPLES)
        begin_step = task.begin_step

        def begin(step, total):
            if step == stop:
                raise KeyboardInterrupt
            begin_step(step, total)

        task.begin_step = begin
        return [record["loss"] for record in train(task, SETTINGS, folder=folder, save_every=1, **options)]

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", stop=5)
    assert run(tmp_path / "a", resume=True) == run(tmp_path / "b")
