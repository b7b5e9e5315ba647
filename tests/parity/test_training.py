"""Trained through minibert and through sentence-transformers' losses, the loss is the same at every step.

The same data, seed, order and hyper-parameters, in float64, from the same wide random weights. On their side a plain
loop of torch: AdamW with transformers' schedule.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import TINY, widen
from sentence_transformers import SentenceTransformer
from sentence_transformers import SparseEncoder as TheirSparse
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder import losses as sparse_losses
from sentence_transformers.sparse_encoder.callbacks.splade_callbacks import SpladeRegularizerWeightSchedulerCallback
from sentence_transformers.sparse_encoder.modules import SpladePooling
from tiny_folder import write_vocabulary
from tiny_training import make_texts
from transformers import BertConfig, BertForMaskedLM, BertModel, TrainerState, get_linear_schedule_with_warmup

from minibert import SentenceEncoder, SparseEncoder
from minibert.training import (
    CosineRegression,
    Examples,
    InBatchNegatives,
    Matryoshka,
    SentenceTask,
    Settings,
    Softmax,
    SparseTask,
    Splade,
    TeacherVectors,
    Triplet,
    train,
)
from minibert.training.examples import epoch

D = TINY.hidden_size
ROWS = 60
SETTINGS = Settings(epochs=4, batch_size=8, learning_rate=1e-3, weight_decay=0.1, seed=3)  # 32 steps
DIFFERENT = list(dict.fromkeys(make_texts(5 * ROWS)))  # their loss takes equal texts for wrong answers, ours does not
U, V, W = (DIFFERENT[i * ROWS : (i + 1) * ROWS] for i in range(3))
CLASSES = torch.arange(ROWS) % 3
SCORES = (torch.arange(ROWS) % 9) / 4 - 1  # their loss rounds labels to float32, which takes these as they are
TEACHER = torch.randn(ROWS, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BERT with mean pooling and no dropout, as sentence-transformers saves it."""
    bert, saved = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("saved")
    config = {**TINY.to_dict(), "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    widen(BertModel(BertConfig(**config))).save_pretrained(bert)
    write_vocabulary(bert, config={"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    model = SentenceTransformer(modules=[Transformer(str(bert)), Pooling(D, "mean")], device="cpu")
    model.save(str(saved), create_model_card=False)
    return saved


@pytest.fixture(scope="module")
def theirs_of_triplets(folder):
    return their_losses(folder, PAIRS["triplet"][1], Examples([U, V, W]))


def our_losses(folder, objective, examples, *, chunk_size=None, settings=SETTINGS):
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu", dtype="float64")
    records = train(SentenceTask(encoder, objective, examples, chunk_size=chunk_size), settings)
    return [record["loss"] for record in records]


def their_losses(folder, make_loss, examples, settings=SETTINGS, kind=SentenceTransformer, schedule_of=None):
    """``schedule_of`` makes their callback for a loss, which changes its weights at the begin of each step."""
    model = kind(str(folder), device="cpu").double()
    loss = make_loss(model)
    lengths = np.sum([[model.tokenize([text])["input_ids"].shape[1] for text in c] for c in examples.columns], axis=0)
    named = dict(loss.named_parameters()).items()
    norms_and_biases = [value for name, value in named if "bias" in name or "LayerNorm" in name]
    others = [value for name, value in named if "bias" not in name and "LayerNorm" not in name]
    optimizer = torch.optim.AdamW(
        [{"params": others}, {"params": norms_and_biases, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    batches = [
        rows
        for number in range(int(settings.epochs))
        for rows in epoch(lengths, settings.batch_size, seed=settings.seed, number=number, by_length=True)
    ]
    schedule = get_linear_schedule_with_warmup(optimizer, int(np.ceil(0.1 * len(batches))), len(batches))
    curve = []
    callback = schedule_of(loss) if schedule_of else None
    if callback:
        callback.on_train_begin(None, TrainerState(max_steps=len(batches)), None)
    for step, rows in enumerate(batches):
        if callback:
            callback.on_step_begin(None, TrainerState(global_step=step), None)
        features = [model.tokenize([column[row] for row in rows]) for column in examples.columns]
        labels = None if examples.labels is None else examples.labels[torch.from_numpy(rows)]
        value = loss(features, labels)
        value = sum(value.values()) if isinstance(value, dict) else value
        value.backward()
        torch.nn.utils.clip_grad_norm_(loss.parameters(), settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        curve.append(value.item())
    return curve


def assert_same_curve(ours, theirs):
    assert len(ours) == len(theirs) >= 30
    assert np.abs(np.subtract(ours, theirs)).max() < 1e-9


PAIRS = {
    "cosine": (CosineRegression, losses.CosineSimilarityLoss, Examples([U, V], SCORES)),
    "triplet": (Triplet, lambda model: losses.TripletLoss(model, triplet_margin=1), Examples([U, V, W])),
    "negatives": (InBatchNegatives, losses.MultipleNegativesRankingLoss, Examples([U, V])),
    "hard negatives": (InBatchNegatives, losses.MultipleNegativesRankingLoss, Examples([U, V, W])),
    "teacher": (TeacherVectors, losses.MSELoss, Examples([U], TEACHER)),
    "teacher, two columns": (TeacherVectors, losses.MSELoss, Examples([U, V], TEACHER)),
    "matryoshka of negatives": (
        lambda: Matryoshka(InBatchNegatives(), [D, 8, 3], [1, 0.5, 2]),
        lambda model: losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), [D, 8, 3], [1, 0.5, 2]),
        Examples([U, V]),
    ),
    "matryoshka of cosine": (
        lambda: Matryoshka(CosineRegression(), [16, 5]),
        lambda model: losses.MatryoshkaLoss(model, losses.CosineSimilarityLoss(model), [16, 5]),
        Examples([U, V], SCORES),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_loss_curve_is_theirs(folder, name):
    objective, make_loss, examples = PAIRS[name]
    assert_same_curve(our_losses(folder, objective(), examples), their_losses(folder, make_loss, examples))


@pytest.mark.parametrize(
    ("terms", "reps", "difference", "product"),
    [
        (("u", "v", "|u-v|"), True, True, False),
        (("u", "v"), True, False, False),
        (("|u-v|",), False, True, False),
        (("u*v",), False, False, True),
        (("|u-v|", "u*v"), False, True, True),
        (("u", "v", "u*v"), True, False, True),
        (("u", "v", "|u-v|", "u*v"), True, True, True),
    ],
)
def test_softmax_over_each_concatenation_of_table_6(folder, terms, reps, difference, product):
    torch.manual_seed(0)
    objective = Softmax(D, terms=terms).double()
    start = {f"classifier.{name}": value.clone() for name, value in objective.classifier.state_dict().items()}

    def make_loss(model):
        loss = losses.SoftmaxLoss(model, D, 3, reps, difference, product).double()
        loss.load_state_dict({**loss.state_dict(), **start})
        return loss

    examples = Examples([U, V], CLASSES)
    assert_same_curve(our_losses(folder, objective, examples), their_losses(folder, make_loss, examples))


@pytest.mark.parametrize("matryoshka", [False, True])
def test_large_batches_in_chunks(folder, matryoshka):
    def make_loss(model):
        loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=3)
        return losses.MatryoshkaLoss(model, loss, [D, 8]) if matryoshka else loss

    objective = Matryoshka(InBatchNegatives(), [D, 8]) if matryoshka else InBatchNegatives()
    examples = Examples([U, V, W])
    ours = our_losses(folder, objective, examples, chunk_size=3)
    assert_same_curve(ours, their_losses(folder, make_loss, examples))


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 1.00001e-3},
        {"weight_decay": 0.0999},
        {"warmup": 0.0},
        {"max_grad_norm": 0.05},
        {"seed": 4},
        {"by_length": False},
        {"accumulate": 2, "batch_size": 4},
    ],
)
def test_other_hyper_parameters_would_be_noticed(folder, theirs_of_triplets, change):
    ours = our_losses(folder, Triplet(), Examples([U, V, W]), settings=replace(SETTINGS, **change))
    with pytest.raises(AssertionError):
        assert_same_curve(ours, theirs_of_triplets)


# --- Sparse


@pytest.fixture(scope="module", params=["max", "sum"])
def sparse_folder(request, tmp_path_factory):
    """A tiny masked LM with SPLADE's pooling and no dropout, as sentence-transformers saves it."""
    bert, saved = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("saved")
    config = {**TINY.to_dict(), "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    widen(BertForMaskedLM(BertConfig(**config))).save_pretrained(bert)
    write_vocabulary(bert, config={"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    modules = [Transformer(str(bert), transformer_task="fill-mask"), SpladePooling(request.param)]
    TheirSparse(modules=modules, device="cpu").save(str(saved), create_model_card=False)
    return saved


SPLADES = {
    "pairs": ({"document_regularizer_weight": 3e-3, "query_regularizer_weight": 5e-3}, [U, V]),
    "hard negatives": ({"document_regularizer_weight": 3e-2, "query_regularizer_weight": 5e-2}, [U, V, W]),
    "thresholds": (
        {
            "document_regularizer_weight": 3e-3,
            "query_regularizer_weight": 5e-3,
            "document_regularizer_threshold": 55,
            "query_regularizer_threshold": 50,
        },
        [U, V],
    ),
    "free queries": ({"document_regularizer_weight": 3e-3, "query_regularizer_weight": None}, [U, V]),
    "documents only": (
        {
            "document_regularizer_weight": 3e-3,
            "query_regularizer_weight": None,
            "use_document_regularizer_only": True,
        },
        [U, V],
    ),
}


@pytest.mark.parametrize("name", SPLADES)
@pytest.mark.parametrize(("schedule", "warmup"), [("quadratic", 1 / 3), ("linear", 0.9), (None, 0)])
def test_the_curve_of_splade_is_theirs(sparse_folder, name, schedule, warmup):
    weights, columns = SPLADES[name]
    encoder = SparseEncoder.from_pretrained(sparse_folder, device="cpu", dtype="float64")
    objective = Splade(**weights, warmup=warmup, schedule=schedule or "linear")
    ours = [record["loss"] for record in train(SparseTask(encoder, objective, Examples(columns)), SETTINGS)]

    def make_loss(model):
        return sparse_losses.SpladeLoss(model, sparse_losses.SparseMultipleNegativesRankingLoss(model), **weights)

    def callback(loss):
        return SpladeRegularizerWeightSchedulerCallback(loss, schedule, warmup)

    theirs = their_losses(
        sparse_folder, make_loss, Examples(columns), kind=TheirSparse, schedule_of=callback if schedule else None
    )
    assert_same_curve(ours, theirs)
