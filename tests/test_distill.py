"""Layers of a student imitate a teacher's, token by token."""

import numpy as np
import pytest
import torch
from tiny_training import make_encoder, make_texts
from tokenizers.normalizers import Replace

from minibert import SentenceEncoder
from minibert.training import Examples, LayerTask, SentenceTask, Settings, TeacherVectors, Triplet, train
from minibert.training.loop import layers_checkpointed

ROWS = 12
U, V, W = (make_texts(ROWS, seed) for seed in range(3))


def make_task(layers=None, columns=(U,), objective=None, *, width=32, labels=None, **options):
    teacher = make_encoder(layers=3, width=width)
    torch.manual_seed(0)
    return LayerTask(make_encoder(), teacher, layers or {0: 1, 1: 2}, Examples(columns, labels), objective, **options)


def layer(encoder, text, number):
    seen = []
    with torch.no_grad():
        hook = encoder.model.layers[number].register_forward_hook(lambda *call: seen.append(call[2]))
        encoder(**encoder.tokenize([text]))
        hook.remove()
    return seen[0][0]  # (S, D)


@pytest.mark.parametrize("columns", [(U,), (U, V)])
@pytest.mark.parametrize("width", [32, 40])
def test_the_loss_is_the_mean_square_difference_of_real_tokens_vectors(width, columns):
    task = make_task(width=width, columns=columns)
    means = []
    for column in columns:
        for number, (own, other) in enumerate({0: 1, 1: 2}.items()):
            project, squares = task.projections[number], []
            for text in column:  # one by one, so that nothing is padded
                difference = project(layer(task.model, text, own)) - layer(task.teacher[0], text, other)
                squares.append(difference.detach().square().mean(-1))
            means.append(torch.cat(squares).mean().item())
    assert task.loss(np.arange(ROWS)).item() == pytest.approx(np.mean(means), abs=1e-12)


def test_an_objective_of_the_vectors_is_added():
    alone, both = make_task(columns=(U, V, W)), make_task(None, (U, V, W), Triplet(), weight=0.25)
    triplet = SentenceTask(make_encoder(), Triplet(), Examples((U, V, W)))
    rows = np.arange(ROWS)
    expected = 0.25 * alone.loss(rows) + triplet.loss(rows)
    torch.testing.assert_close(both.loss(rows), expected)


def test_gradients_reach_the_student_up_to_the_layer_and_never_the_teacher():
    task = make_task({0: 2})
    task.loss(np.arange(ROWS)).backward()
    reached = {name for name, value in task.named_parameters() if value.grad is not None and value.grad.any()}
    assert any("layers.0" in name for name in reached)
    assert any("embeddings" in name for name in reached)
    assert not any("layers.1" in name for name in reached)
    assert all(value.grad is None for value in task.teacher[0].parameters())


@pytest.mark.parametrize("width", [32, 40])
def test_the_student_learns_and_the_teacher_stays(width, tmp_path):
    task = make_task(width=width)
    before = {name: value.clone() for name, value in task.teacher[0].state_dict().items()}
    losses = [
        record["loss"] for record in train(task, Settings(steps=40, learning_rate=3e-3, batch_size=4), folder=tmp_path)
    ]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert all(torch.equal(value, before[name]) for name, value in task.teacher[0].state_dict().items())
    saved = SentenceEncoder.from_pretrained(tmp_path / "model", device="cpu", dtype="float64", fast=False)
    assert np.abs(saved.encode(U) - task.model.encode(U)).max() < 1e-12  # a plain encoder, without projections


def test_layers_can_be_checkpointed_while_they_are_imitated():
    task = make_task()
    task.loss(np.arange(ROWS)).backward()
    plain = [value.grad.clone() for value in task.parameters() if value.grad is not None]
    task.zero_grad()
    with layers_checkpointed(task):
        task.loss(np.arange(ROWS)).backward()
    again = [value.grad for value in task.parameters() if value.grad is not None]
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_teachers_vectors_train_a_student_without_the_teacher_at_hand():
    vectors = make_encoder(layers=3, width=40).encode(U)  # numpy, as encode gives them
    task = SentenceTask(make_encoder(), TeacherVectors("cosine", widths=(32, 40)), Examples([U], vectors))
    losses = [record["loss"] for record in train(task, Settings(steps=40, learning_rate=3e-3, batch_size=4))]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.parametrize("layers", [{2: 0}, {-1: 0}, {0: 3}])
def test_a_layer_that_does_not_exist_is_named(layers):
    with pytest.raises(ValueError, match=r"there are layers from 0 to [12], but no layer (-1|2|3)"):
        make_task(layers)


def test_no_layers_are_refused():
    with pytest.raises(ValueError, match="say which layers"):
        LayerTask(make_encoder(), make_encoder(), {}, Examples([U]))


def test_a_tokenizer_that_cuts_otherwise_is_refused():
    teacher = make_encoder()
    teacher.tokenizer._backend.normalizer = Replace("cat", "cat dog")
    with pytest.raises(ValueError, match="row 1 has 4 tokens for the student and 5 for the teacher"):
        LayerTask(make_encoder(), teacher, {0: 0}, Examples([["the dog", "the cat"]]))
