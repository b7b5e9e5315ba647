"""The training loop: what a step does, what it writes, what it refuses."""

import json
import math
import sys
from contextlib import contextmanager
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from helpers import TINY
from tiny_training import make_encoder, make_texts
from torch import nn

from minibert import BertForSequenceClassification, CheckpointError, ClassifierConfig, CrossEncoder, SentenceEncoder
from minibert.fast.changes import TrackedParameter
from minibert.training import (
    Combined,
    CosineRegression,
    DivergedError,
    Examples,
    InBatchNegatives,
    Matryoshka,
    SentenceTask,
    Settings,
    Softmax,
    Triplet,
    loop,
    train,
)
from minibert.training.examples import epoch

ROWS = 24
U, V, W = (make_texts(ROWS, seed) for seed in range(3))
SETTINGS = Settings(steps=6, batch_size=4, learning_rate=1e-3)


def make_task(objective=None, columns=(U, V, W), labels=None, *, chunk_size=None, **options):
    return SentenceTask(
        make_encoder(**options), objective or Triplet(), Examples(columns, labels), chunk_size=chunk_size
    )


def losses(records):
    return [record["loss"] for record in records if "loss" in record]


def weights(task):
    return {name: value.clone() for name, value in task.state_dict().items()}


def assert_same_weights(task, other):
    assert task.keys() == other.keys()
    assert [name for name in task if not torch.equal(task[name], other[name])] == []


def gradients(task, rows):
    torch.manual_seed(0)
    task.train()
    task.zero_grad()
    loss = task.loss(np.arange(rows))
    loss.backward()
    return loss.item(), {name: value.grad.clone() for name, value in task.named_parameters()}


def assert_same_gradients(one, other, below=1e-12):
    assert one[0] == pytest.approx(other[0], abs=below)
    for name, gradient in one[1].items():
        assert (gradient - other[1][name]).abs().max() < below * max(1, gradient.abs().max()), name


# --- A step


def test_training_lowers_the_loss():
    curve = losses(train(make_task(), replace(SETTINGS, steps=60)))
    assert len(curve) == 60
    assert np.mean(curve[-10:]) < 0.7 * np.mean(curve[:10])


def test_the_rate_rises_and_falls_in_a_line():
    records = train(make_task(), replace(SETTINGS, steps=10, warmup=0.4))
    rates = [record["rate"] / 1e-3 for record in records]
    assert rates == pytest.approx([0, 1 / 4, 2 / 4, 3 / 4, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_the_mean_of_accumulated_batches_is_one_larger_batch():
    settings = replace(SETTINGS, steps=3, by_length=False)
    large, small = make_task(), make_task()
    one = train(large, replace(settings, batch_size=8))
    other = train(small, replace(settings, batch_size=4, accumulate=2))
    assert losses(other) == pytest.approx(losses(one), abs=1e-12)
    for value, same in zip(large.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(value, same, rtol=0, atol=1e-9)


def test_training_uses_freed_memory_again(monkeypatch):
    """As `encode` does: otherwise gradients of large tables come from the system page by page, at every step."""
    called = []
    monkeypatch.setattr(loop, "keep_freed_memory", lambda: called.append(True))
    train(SentenceTask(make_encoder(), Triplet(), Examples([make_texts(8)] * 3)), Settings(steps=1, batch_size=4))
    assert called == [True]


def test_only_matrices_decay():
    task = make_task(Softmax(TINY.hidden_size), (U, V), torch.arange(ROWS) % 3)
    one, other = loop.make_optimizer(task, SETTINGS).param_groups
    assert {value.ndim for value in one["params"]} == {2}
    assert {value.ndim for value in other["params"]} == {1}
    assert (one["weight_decay"], other["weight_decay"]) == (0.01, 0)
    assert len(one["params"]) + len(other["params"]) == len(list(task.parameters()))


def test_what_is_frozen_stays():
    task = make_task()
    task.model.model.embeddings.requires_grad_(False)
    before = weights(task)
    train(task, SETTINGS)
    changed = {name for name, value in weights(task).items() if not torch.equal(value, before[name])}
    assert changed
    assert not [name for name in changed if "embeddings" in name]


def test_long_gradients_are_shortened():
    records = train(make_task(), replace(SETTINGS, steps=2, max_grad_norm=1e-30))
    assert records[0]["norm"] > 0.01
    task, still = make_task(), make_task()
    train(task, replace(SETTINGS, weight_decay=0, max_grad_norm=1e-30, warmup=0))
    for value, before in zip(task.parameters(), still.parameters(), strict=True):
        assert (value - before).abs().max() < 1e-12  # below AdamW's eps a gradient moves nothing


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("chunk_size", [1, 5, 24])
@pytest.mark.parametrize(
    ("objective", "columns"),
    [(InBatchNegatives(), (U, V, W)), (Matryoshka(Triplet(), [32, 7]), (U, V, W))],
    ids=["negatives", "matryoshka"],
)
def test_chunks_give_the_gradients_of_the_whole_batch(objective, columns, chunk_size, dropout):
    whole, chunked = (make_task(objective, columns, chunk_size=size, dropout=dropout) for size in (None, chunk_size))
    if not dropout:
        assert_same_gradients(gradients(chunked, ROWS), gradients(whole, ROWS))
        return
    # Other chunks draw other dropout: compare with the same chunks, all kept in memory.
    whole.embed = lambda tokens, rows: torch.cat(
        [whole._embed(tokens, rows[start : start + chunk_size]) for start in range(0, len(rows), chunk_size)]
    )
    assert_same_gradients(gradients(chunked, ROWS), gradients(whole, ROWS))
    assert gradients(chunked, ROWS)[0] != gradients(make_task(objective, columns), ROWS)[0]  # dropout was on


@contextmanager
def kept_bytes():
    """Gives a function: the bytes of the tensors that gradients were computed from, model and optimizer included."""
    seen = {}

    def keep(value):
        seen[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        yield lambda task: sum(
            size
            for place, size in seen.items()
            if place not in {value.untyped_storage().data_ptr() for value in task.parameters()}
        )


def kept_by_loss(task):
    with kept_bytes() as kept:
        task.loss(np.arange(ROWS))
        return kept(task)


def test_chunks_and_checkpointed_layers_keep_less_in_memory():
    whole = kept_by_loss(make_task())
    assert kept_by_loss(make_task(chunk_size=4)) < whole / 10
    task = make_task()
    with loop.layers_checkpointed(task):
        assert kept_by_loss(task) < whole / 4


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Loads the encoder that users have: by name, with every default but the device."""
    folder = tmp_path_factory.mktemp("published")
    make_encoder(dtype=torch.float32, layers=3).save_pretrained(folder)
    return lambda: SentenceEncoder.from_pretrained(folder, device="cpu")


def test_gradient_checkpointing_keeps_less_of_an_encoder_that_was_loaded_by_name(published):
    """Counted in `train` itself: an encoder's default form once hid its layers from the setting."""
    kept, norms, calls = {}, {}, {}
    for wanted in (False, True):
        task = SentenceTask(published(), Triplet(), Examples((U, V, W)))
        counted = calls[wanted] = []
        task.model.model.layers[1].attention.register_forward_hook(lambda *_, counted=counted: counted.append(1))
        with kept_bytes() as bytes_of:
            (record,) = train(task, replace(SETTINGS, steps=1, gradient_checkpointing=wanted))
            kept[wanted] = bytes_of(task)
        norms[wanted] = record["norm"]
    assert kept[True] < kept[False] / 3
    assert norms[True] == pytest.approx(norms[False], rel=1e-4)
    assert (len(calls[False]), len(calls[True])) == (3, 6)  # one call for each column, and one more in backward


def test_a_cross_encoders_layers_are_checkpointed_too():
    classifier = BertForSequenceClassification(ClassifierConfig(**asdict(TINY)))
    model = CrossEncoder(classifier, make_encoder().tokenizer)
    layers = model.model.bert.layers
    with loop.layers_checkpointed(model):
        assert all("forward" in layer.__dict__ for layer in layers)
    assert not any("forward" in layer.__dict__ for layer in layers)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("fused", [False, True])
def test_checkpointed_layers_give_the_same_gradients(dropout, fused):
    task = make_task(dropout=dropout, fused=fused)
    plain = gradients(task, ROWS)
    with loop.layers_checkpointed(task):
        assert_same_gradients(gradients(task, ROWS), plain)


def test_after_an_error_no_layer_is_checkpointed_and_a_forward_of_ones_own_is_back():
    task = make_task()
    first, second = task.model.model.layers
    own = first.forward = lambda x, mask=None: x
    with pytest.raises(KeyError), loop.layers_checkpointed(task):
        raise KeyError
    assert first.forward is own
    assert "forward" not in second.__dict__


def test_a_layer_in_two_places_is_checkpointed_once():
    task = make_task()
    layers = task.model.model.layers
    layers[1] = layers[0]
    plain = gradients(task, ROWS)
    with loop.layers_checkpointed(task):
        assert_same_gradients(gradients(task, ROWS), plain)
    assert "forward" not in layers[0].__dict__


def test_gradient_checkpointing_trains_the_same_weights():
    tasks = [make_task(dropout=0.2) for _ in range(2)]
    for task, wanted in zip(tasks, (False, True), strict=True):
        train(task, replace(SETTINGS, gradient_checkpointing=wanted))
    for value, same in zip(*(task.parameters() for task in tasks), strict=True):
        torch.testing.assert_close(value, same, rtol=0, atol=1e-10)


def test_gradient_checkpointing_leaves_evaluations_fast(published):
    explained = {}

    def evaluate(encoder):
        explained[wanted].append(encoder.explain())
        assert np.abs(encoder.encode(U) - encoder.encode(U, fast=False)).max() < 1e-4
        return {"score": 0.0}

    for wanted in (False, True):
        explained[wanted] = []
        task = SentenceTask(published(), Triplet(), Examples((U, V, W)))
        settings = replace(SETTINGS, steps=2, gradient_checkpointing=wanted)
        train(task, settings, evaluate=evaluate, evaluate_every=1)
    assert explained[True] == explained[False] == [published().explain()] * 2


def test_bfloat16_is_close_to_float32_and_the_weights_stay_float32():
    curves = []
    for autocast in (None, "bfloat16"):
        task = make_task(dtype=torch.float32)
        curves.append(losses(train(task, replace(SETTINGS, autocast=autocast))))
        assert {value.dtype for value in task.parameters()} == {torch.float32}
    assert curves[0] != curves[1]
    assert curves[1] == pytest.approx(curves[0], rel=0.1)


def test_a_scaled_loss_takes_the_same_step_and_an_overflow_takes_none():
    plain, scaled = (make_task(Combined([Triplet()], [10]), dtype=torch.float32) for _ in range(2))
    optimizers = [loop.make_optimizer(task, SETTINGS) for task in (plain, scaled)]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # what float16 trains with, on a GPU
    off = torch.amp.GradScaler("cpu", enabled=False)
    rows = [np.arange(8), np.arange(8, 16)]
    one = loop.step(plain, rows, 1e-3, optimizers[0], off, SETTINGS)
    other = loop.step(scaled, rows, 1e-3, optimizers[1], scaler, SETTINGS)
    assert one == pytest.approx(other, rel=1e-6)
    before = weights(scaled)
    for name, value in weights(plain).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)
    scaler.update(3e38)
    loop.step(scaled, rows, 1e-3, optimizers[1], scaler, SETTINGS)
    assert_same_weights(weights(scaled), before)
    assert scaler.get_scale() < 2e38


def test_an_encoder_that_has_encoded_trains_as_the_page_and_encodes_with_the_new_weights():
    used, page = (make_task(dtype=torch.float32) for _ in range(2))
    before = used.model.encode(U)  # packs the weights, and training must be noticed to change them
    assert any(isinstance(value, TrackedParameter) for value in used.parameters())
    curves = [
        losses(train(used, replace(SETTINGS, steps=10))),
        losses(train(page, replace(SETTINGS, steps=10, fused=False))),
    ]
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)
    after = used.model.encode(U)
    assert np.abs(after - before).max() > 1e-3
    assert np.abs(after - page.model.encode(U, fast=False)).max() < 1e-2
    assert np.abs(after - used.model.encode(U, fast=False)).max() < 1e-4


@pytest.mark.parametrize("wanted", [True, False])
def test_parts_are_fused_during_the_training_only(wanted, monkeypatch):
    task, events = make_task(poisoned_at(2)), []

    @contextmanager
    def fused(model):
        assert model is task.model
        events.append("fused")
        try:
            yield
        finally:
            events.append("as before")

    monkeypatch.setattr(loop, "fused", fused)
    with pytest.raises(DivergedError):
        train(task, replace(SETTINGS, fused=wanted))
    assert events == (["fused", "as before"] if wanted else [])
    assert not task.training


def test_a_trained_model_is_made_of_the_parts_that_it_had_before():
    task = make_task(dtype=torch.float32)
    before = repr(task.model), [type(part) for part in task.model.modules()]
    train(task, SETTINGS)
    assert (repr(task.model), [type(part) for part in task.model.modules()]) == before


def test_the_model_is_in_eval_mode_afterwards_and_was_in_training_mode_before():
    task = make_task(dropout=0.5)
    modes = []
    task.model.register_forward_hook(lambda *_: modes.append(task.model.training))
    train(task, SETTINGS)
    assert all(modes)
    assert not any(part.training for part in task.modules())


def test_training_is_a_function_of_the_seed():
    one, other, third = (make_task(dropout=0.3) for _ in range(3))
    torch.manual_seed(1)
    train(one, SETTINGS)
    torch.manual_seed(2)
    train(other, SETTINGS)
    train(third, replace(SETTINGS, seed=1))
    assert_same_weights(weights(one), weights(other))
    assert not torch.equal(*(next(task.parameters()) for task in (one, third)))


# --- The order of the data


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 8, 1000])
def test_an_epoch_has_each_row_once(rows, by_length):
    lengths = np.random.default_rng(0).integers(3, 50, rows)
    batches = epoch(lengths, 4, seed=0, number=0, by_length=by_length)
    assert sorted(np.concatenate(batches)) == list(range(rows))
    assert {len(batch) for batch in batches} <= {4, rows % 4}


def test_each_epoch_and_each_seed_has_an_order_of_its_own():
    lengths = np.arange(100)
    orders = [
        np.concatenate(epoch(lengths, 4, seed=seed, number=number, by_length=True)).tolist()
        for seed, number in [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_batches_by_length_hardly_pad_and_do_not_come_sorted():
    lengths = np.random.default_rng(0).integers(3, 50, 2000)
    padded = {}
    for by_length in (False, True):
        batches = epoch(lengths, 16, seed=0, number=0, by_length=by_length)
        padded[by_length] = sum(len(batch) * lengths[batch].max() for batch in batches) / lengths.sum()
    assert padded[True] < 1.05 < 1.5 < padded[False]
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_a_tasks_sort_key_says_which_rows_share_a_batch():
    seen = []

    class Kinds(SentenceTask):
        sort_key = np.arange(ROWS) % 3

        def loss(self, rows):
            seen.append(sorted(set(self.sort_key[rows].tolist())))
            return super().loss(rows)

    train(Kinds(make_encoder(), Triplet(), Examples((U, V, W))), SETTINGS)
    assert sorted(seen) == [[0], [0], [1], [1], [2], [2]]


def test_a_last_batch_too_small_to_share_is_left_out():
    sizes = [len(batch) for batch in epoch(np.arange(9), 4, seed=0, number=0, by_length=True, fewest=2)]
    assert sizes == [4, 4]


# --- What is written


def test_the_log_has_a_line_of_json_for_every_step(tmp_path):
    records = train(make_task(), SETTINGS, folder=tmp_path)
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == records
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert set(records[0]) == {"step", "loss", "rate", "norm", "rows_per_s", "tokens_per_s"}


def test_without_an_evaluator_the_last_model_is_saved(tmp_path):
    task = make_task(dtype=torch.float32)
    train(task, SETTINGS, folder=tmp_path)
    saved = SentenceEncoder.from_pretrained(tmp_path / "model", device="cpu")
    assert np.array_equal(saved.encode(U), task.model.encode(U))


def test_the_best_model_is_saved_by_the_score_that_was_named(tmp_path):
    task, vectors, scores = make_task(dtype=torch.float32), [], iter([0.2, 0.9, 0.5])

    def evaluate(encoder):
        assert encoder is task.model
        assert not encoder.training
        vectors.append(encoder.encode(U))
        return {"loss": -next(scores), "rho": 1 - float(vectors[-1][0, 0])} | {
            "best": [0.2, 0.9, 0.5][len(vectors) - 1]
        }

    records = train(task, SETTINGS, folder=tmp_path, evaluate=evaluate, score="best", evaluate_every=2)
    assert [(r["step"], r["scores"]["best"]) for r in records if "scores" in r] == [(2, 0.2), (4, 0.9), (6, 0.5)]
    saved = SentenceEncoder.from_pretrained(tmp_path / "model", device="cpu")
    assert np.array_equal(saved.encode(U), vectors[1])


def test_evaluation_changes_nothing_in_what_is_learned():
    watched, alone = (make_task(dropout=0.3) for _ in range(2))
    train(watched, SETTINGS, evaluate=lambda _: {"random": torch.rand(()).item()}, evaluate_every=1)
    train(alone, SETTINGS)
    assert_same_weights(weights(watched), weights(alone))


@pytest.mark.parametrize("resumed", [False, True])
def test_a_first_score_that_is_not_a_number_is_not_the_best(tmp_path, resumed):
    scores, models = iter([math.nan, 0.5, 0.9, 0.7]), []

    def evaluate(model):
        models.append(model.encode("the cat"))
        if resumed and len(models) == 2:  # the checkpoint before knows of nothing but the first score
            models.pop()
            raise KeyboardInterrupt
        return {"score": next(scores)}

    options = {"folder": tmp_path, "evaluate": evaluate, "evaluate_every": 1, "save_every": 1}
    settings = replace(SETTINGS, steps=4)
    if resumed:
        with pytest.raises(KeyboardInterrupt):
            train(make_task(dtype=torch.float32), settings, **options)
        resumed = None
    train(make_task(dtype=torch.float32), settings, **options, resume=resumed is None)
    kept = SentenceEncoder.from_pretrained(tmp_path / "model").encode("the cat")
    assert [bool(np.allclose(kept, vector, atol=1e-6)) for vector in models] == [False, False, True, False]


def test_a_model_that_can_not_be_saved_is_refused_before_the_first_step(tmp_path):
    class Adapter(nn.Module):  # as the docs' LoRA
        def __init__(self, plain):
            super().__init__()
            self.plain, self.down = plain, nn.Linear(plain.in_features, 2, dtype=plain.weight.dtype)

        def forward(self, x):
            return self.plain(x) + self.down(x).sum(-1, keepdim=True)

    task = make_task()
    query = task.model.model.layers[0].attention.query
    task.model.model.layers[0].attention.query = Adapter(query)
    before = weights(task)
    with pytest.raises(CheckpointError, match=r"can't be saved, so train it without a folder: .*query\.plain\.weight"):
        train(task, SETTINGS, folder=tmp_path)
    assert_same_weights(weights(task), before)
    assert list(tmp_path.iterdir()) == []
    train(task, SETTINGS)
    task.model.model.layers[0].attention.query = query
    train(task, SETTINGS, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "model"]


def test_which_score_is_the_best_must_be_said_where_there_are_several():
    with pytest.raises(ValueError, match="score must be one of a, b, not None"):
        train(make_task(), SETTINGS, evaluate=lambda _: {"a": 1.0, "b": 2.0})


@pytest.mark.parametrize("number", [1, np.float32(1), torch.tensor(1.0)], ids=lambda number: type(number).__name__)
def test_scores_of_any_kind_of_number_are_logged(tmp_path, number):
    records = train(make_task(), replace(SETTINGS, steps=1), folder=tmp_path, evaluate=lambda _: {"a": number})
    assert records[-1]["scores"] == {"a": 1.0}
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1]) == records[-1]


@pytest.mark.parametrize(
    ("found", "score", "message"),
    [
        ({"a": 1.0, "b": 2.0}, "c", "score must be one of a, b, not 'c'"),
        (0.5, None, r"evaluate must return numbers by name, .*, not 0\.5"),
        ({"a": "0.5"}, None, "numbers by name, .*, not {'a': '0.5'}"),
        ({"a": torch.ones(2)}, None, "numbers by name"),
        ({1: 0.5}, None, "numbers by name"),
        ({}, None, "numbers by name, .*, not {}"),
    ],
)
def test_what_is_no_score_loses_nothing(tmp_path, found, score, message):
    task, again = make_task(dtype=torch.float32), make_task(dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        train(task, SETTINGS, folder=tmp_path, evaluate=lambda _: found, score=score)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "log.jsonl", "model"]
    saved = SentenceEncoder.from_pretrained(tmp_path / "model", device="cpu")
    assert np.array_equal(saved.encode(U), task.model.encode(U))
    records = train(again, SETTINGS, folder=tmp_path, evaluate=lambda _: {"a": 0.5}, resume=True)
    assert_same_weights(weights(again), weights(task))
    assert [record["scores"] for record in records if "scores" in record] == [{"a": 0.5}]


def test_an_evaluation_that_fails_is_made_again_when_resumed_and_leaves_the_best_model(tmp_path):
    def evaluate(encoder):
        asked.append(encoder.encode(U))
        if (score := scores[len(asked) - 1]) is None:
            raise KeyError("one's own")
        return {"score": score}

    asked, scores = [], [0.9, None, 0.5, 0.7]
    options = {"folder": tmp_path, "evaluate": evaluate, "evaluate_every": 2}
    with pytest.raises(KeyError) as caught:
        train(make_task(dtype=torch.float32), SETTINGS, **options)
    if sys.version_info >= (3, 11):
        assert f"step 4 are not lost: they are in {tmp_path / 'checkpoint.pt'}" in caught.value.__notes__[0]
    records = train(make_task(dtype=torch.float32), SETTINGS, resume=True, **options)
    assert [(r["step"], r["scores"]["score"]) for r in records if "scores" in r] == [(2, 0.9), (4, 0.5), (6, 0.7)]
    assert np.array_equal(asked[1], asked[2])
    saved = SentenceEncoder.from_pretrained(tmp_path / "model", device="cpu")
    assert np.array_equal(saved.encode(U), asked[0])


def test_progress_shows_loss_and_rate(capsys):
    train(make_task(), SETTINGS, show_progress_bar=True)
    shown = capsys.readouterr().err
    assert "6/6" in shown
    assert "loss=" in shown
    assert "rate=" in shown


# --- What is refused


def poisoned_at(step):
    """A triplet objective whose loss is no number from that step on."""
    objective, calls = Triplet(), []

    def forward(vectors, labels):
        calls.append(1)
        return Triplet.forward(objective, vectors, labels) * (math.nan if len(calls) == step else 1)

    objective.forward = forward
    return objective


def test_a_loss_that_is_no_number_stops_before_it_spoils_the_weights(tmp_path):
    task, until = make_task(poisoned_at(4)), make_task()
    with pytest.raises(DivergedError, match=r"stopped at step 4: the loss is nan.*checkpoint is .*checkpoint\.pt"):
        train(task, SETTINGS, folder=tmp_path, save_every=3)
    train(until, SETTINGS, folder=tmp_path, resume=True)  # from the checkpoint of step 3, which is whole
    whole = make_task()
    train(whole, SETTINGS)
    assert_same_weights(weights(until), weights(whole))
    assert all(value.isfinite().all() for value in task.parameters())


def test_gradients_that_are_no_numbers_stop_too():
    task = make_task()
    task.model.head = nn.Sequential(BadGradient())
    with pytest.raises(DivergedError, match=r"step 1: .*norm of its gradients nan.*there is no checkpoint"):
        train(task, SETTINGS)


class BadGradient(nn.Module):
    def forward(self, x):
        return x + torch.sqrt(x * 0)  # 0, with the gradient 0 * inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be above 0"),
        ({"steps": -1}, "steps must be a whole number, at least 1, not -1"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1, not 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number, at least 1, not 1.5"),
        ({"batch_size": None}, "batch_size must be a whole number, at least 1, not None"),
        ({"accumulate": 0}, "accumulate must be a whole number, at least 1, not 0"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0"),
        ({"max_grad_norm": 0}, "max_grad_norm must be above 0"),
        ({"warmup": 1.5}, "warmup must be from 0 to 1"),
        ({"weight_decay": -0.1}, "weight_decay must be from 0"),
        ({"fused": "no"}, "fused must be True or False, not 'no'"),
        ({"gradient_checkpointing": 1}, "gradient_checkpointing must be True or False, not 1"),
        ({"by_length": None}, "by_length must be True or False, not None"),
        ({"seed": 1.5}, "seed must be a whole number, not 1.5"),
        ({"epochs": "3"}, "epochs must be a number, not '3'"),
        ({"epochs": True}, "epochs must be a number, not True"),
        ({"learning_rate": None}, "learning_rate must be a number, not None"),
        ({"seed": -1}, "seed must be from 0"),
        ({"autocast": "int8"}, "autocast must be None or one of bfloat16, float16"),
    ],
)
def test_settings_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**change)


def test_settings_are_pythons_numbers_which_a_checkpoint_can_hold():
    settings = Settings(steps=np.int64(3), learning_rate=np.float64(1e-3), seed=np.int64(1), max_grad_norm=None)
    assert {type(value) for value in asdict(settings).values()} == {int, float, bool, type(None)}


def test_float16_needs_a_gpu():
    with pytest.raises(ValueError, match="float16 needs a GPU"):
        train(make_task(), replace(SETTINGS, autocast="float16"))


@pytest.mark.parametrize("options", [{"resume": True}, {"save_every": 2}])
def test_a_checkpoint_needs_a_folder(options):
    with pytest.raises(ValueError, match="need a folder"):
        train(make_task(), SETTINGS, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluate_every": 0}, "evaluate_every must be a whole number, at least 1, not 0"),
        ({"evaluate_every": -2}, "evaluate_every must be a whole number"),
        ({"save_every": 0, "folder": "out"}, "save_every must be a whole number"),
        ({"resume": "no", "folder": "out"}, "resume must be True or False, not 'no'"),
        ({"evaluate": "sts"}, "evaluate must be a function .*, not 'sts'"),
        ({"evaluate": lambda _: {"a": 1.0}, "score": 1}, "score must be the name"),
        ({"score": "x"}, "without evaluate there are no scores for score"),
        ({"score": "x", "evaluate_every": 2}, "no scores for score and evaluate_every"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        train(make_task(), SETTINGS, **options)
    assert list(tmp_path.iterdir()) == []


def test_where_all_is_frozen_nothing_can_be_learned(tmp_path):
    task = make_task()
    task.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the task requires gradients"):
        train(task, SETTINGS, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("save_every", "advice"), [(6, "resume=True .* goes on"), (None, "name another folder")])
def test_a_folder_in_use_is_left_as_it_is(tmp_path, save_every, advice):
    train(make_task(), SETTINGS, folder=tmp_path, save_every=save_every)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=f"holds a training already: {advice}"):
        train(make_task(), replace(SETTINGS, seed=1), folder=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_labels_out_of_range_are_refused_before_the_first_step():
    labels = torch.zeros(ROWS)
    labels[17] = 4.0
    with pytest.raises(ValueError, match=r"row 17 has 4;"):
        make_task(CosineRegression(), (U, V), labels)


def test_chunks_of_nothing_are_refused():
    with pytest.raises(ValueError, match="chunk_size must be a whole number, at least 1, not 0"):
        make_task(chunk_size=0)


def test_what_is_cut_off_is_told():
    with pytest.warns(UserWarning, match="texts longer than 40 tokens: 1"):
        SentenceTask(make_encoder(), InBatchNegatives(), Examples([["cat " * 60], ["dog"]]))
