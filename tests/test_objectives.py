"""Each objective is its paper's formula, computed here by hand, and refuses what it can't learn from."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from minibert.training import (
    Combined,
    CosineRegression,
    Examples,
    InBatchNegatives,
    Matryoshka,
    SimilarityMatrix,
    SimilarityRanking,
    Softmax,
    TeacherVectors,
    Triplet,
)

B, D = 5, 6


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(B, D, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(4)]


def cos(a, b):
    return (a @ b / (a.norm() * b.norm())).item()


# --- The formulas


def test_softmax_is_the_papers_classification_objective(vectors):
    objective = Softmax(D, 3).double()
    u, v, labels = vectors[0], vectors[1], torch.tensor([0, 2, 1, 1, 0])
    total = 0.0
    for row in range(B):
        x = torch.cat([u[row], v[row], (u[row] - v[row]).abs()])
        scores = objective.classifier.weight @ x + objective.classifier.bias
        total -= math.log((scores[labels[row]].exp() / scores.exp().sum()).item())
    assert objective([u, v], labels).item() == pytest.approx(total / B, abs=1e-12)


def test_softmax_of_narrower_vectors_uses_the_first_columns_of_each_term(vectors):
    objective = Softmax(D, 3, ["u", "u*v"]).double()
    u, v = (x[:, :2] for x in vectors[:2])
    weight = objective.classifier.weight.view(3, 2, D)
    expected = u @ weight[:, 0, :2].T + (u * v) @ weight[:, 1, :2].T + objective.classifier.bias
    torch.testing.assert_close(objective.logits(u, v), expected)


def test_cosine_regression_is_the_mean_square_error_of_the_cosine(vectors):
    scores = torch.tensor([1.0, -1.0, 0.0, 0.5, 0.25])
    errors = [(cos(vectors[0][row], vectors[1][row]) - float(scores[row])) ** 2 for row in range(B)]
    assert CosineRegression()(vectors[:2], scores).item() == pytest.approx(np.mean(errors), abs=1e-12)


def test_triplet_is_the_papers_with_euclidean_distance_and_margin_1(vectors):
    u, v, w = vectors[0], vectors[1], torch.tensor([[1.0], [1], [1], [3], [3]]) * vectors[2]
    parts = [max(((u[row] - v[row]).norm() - (u[row] - w[row]).norm()).item() + 1, 0) for row in range(B)]
    assert min(parts) == 0 < max(parts)
    assert Triplet()([u, v, w]).item() == pytest.approx(np.mean(parts), abs=1e-12)


def test_triplets_of_identical_texts_have_finite_gradients(vectors):
    u = vectors[0]
    Triplet()([u, u, u]).backward()
    assert u.grad.isfinite().all()


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_in_batch_negatives_rank_the_second_among_all_candidates(vectors, columns):
    u, candidates = vectors[0], torch.cat(vectors[1:columns])
    total = 0.0
    for row in range(B):
        scores = [math.exp(20 * cos(u[row], candidate)) for candidate in candidates]
        total -= math.log(scores[row] / sum(scores))
    assert InBatchNegatives()(vectors[:columns]).item() == pytest.approx(total / B, abs=1e-12)


def test_a_right_answer_to_the_same_question_is_no_negative(vectors):
    texts = torch.tensor([[0, 10, 20], [0, 11, 10], [1, 10, 21], [2, 1, 22], [3, 13, 3]])  # u, v, w of each row
    u, v = (texts[:, column].tolist() for column in (0, 1))
    candidates = list(zip(torch.cat(vectors[1:3]), texts[:, 1:].T.reshape(-1).tolist(), strict=True))
    total, left_out = 0.0, 0
    for row in range(B):
        scores = {}
        partners = {v[other] for other in range(B) if u[other] == u[row]}
        for place, (vector, text) in enumerate(candidates):
            if place == row or text not in {u[row], *partners}:
                scores[place] = math.exp(20 * cos(vectors[0][row], vector))
        left_out += 2 * B - len(scores)
        total -= math.log(scores[row] / sum(scores.values()))
    assert left_out == 10
    objective = InBatchNegatives()
    assert objective(vectors[:3], None, texts).item() == pytest.approx(total / B, abs=1e-12)
    different = torch.arange(3 * B).view(B, 3)
    assert torch.equal(objective(vectors[:3], None, different), objective(vectors[:3]))


def test_objectives_of_objectives_hand_on_which_texts_are_equal(vectors):
    texts = torch.tensor([[0, 7], [0, 8], [1, 7], [2, 9], [3, 9]])
    inner, plain = InBatchNegatives(), Triplet()
    assert Combined([inner])(vectors[:2], None, texts).item() == inner(vectors[:2], None, texts).item()
    both = Combined([inner, plain])(vectors[:3], None, torch.cat([texts, texts[:, :1]], 1))
    assert both.item() != Combined([inner, plain])(vectors[:3]).item()
    assert Matryoshka(inner, [D])(vectors[:2], None, texts).item() == pytest.approx(
        inner(vectors[:2], None, texts).item()
    )
    assert Matryoshka(plain, [4])(vectors[:3], None, texts).item() == Matryoshka(plain, [4])(vectors[:3]).item()


def test_matryoshka_sums_over_widths_of_cut_and_normalised_vectors(vectors):
    def cut(width):
        return [functional.normalize(x[:, :width], dim=-1) for x in vectors[:3]]

    expected = 2 * Triplet()(cut(4)) + 0.5 * Triplet()(cut(2))
    torch.testing.assert_close(Matryoshka(Triplet(), [4, 2], [2, 0.5])(vectors[:3]), expected)


@pytest.mark.parametrize(
    ("objective", "columns", "labels"),
    [
        (Softmax(D), 2, torch.arange(B) % 3),
        (CosineRegression(), 2, torch.linspace(-1, 1, B)),
        (Triplet(), 3, None),
        (InBatchNegatives(), 2, None),
        (TeacherVectors("mse", widths=(D, 9)), 1, torch.ones(B, 9)),
        (SimilarityMatrix(), 1, torch.ones(B, 9)),
        (SimilarityRanking(), 1, torch.ones(B, 9)),
        (nn.Module(), 1, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_matryoshka_wraps_any_objective(vectors, objective, columns, labels):
    if type(objective) is nn.Module:  # somebody's own
        objective.forward = lambda vectors, labels: vectors[0].square().sum()
    loss = Matryoshka(objective.double(), [D, 3])(vectors[:columns], labels)
    loss.backward()
    assert loss.isfinite()
    assert all(x.grad.abs().sum() > 0 for x in vectors[:columns])


def test_combined_adds_with_weights(vectors):
    both = Combined([Triplet(), Triplet(margin=2)], [1, 3])(vectors[:3])
    torch.testing.assert_close(both, Triplet()(vectors[:3]) + 3 * Triplet(2)(vectors[:3]))


@pytest.mark.parametrize("columns", [1, 2])
def test_a_teachers_vectors_by_square_error_and_by_cosine(vectors, columns):
    teacher = vectors[3].detach()
    square = [(x - teacher).square().mean().item() for x in vectors[:columns]]
    apart = [1 - cos(x[row], teacher[row]) for x in vectors[:columns] for row in range(B)]
    assert TeacherVectors()(vectors[:columns], teacher).item() == pytest.approx(np.mean(square), abs=1e-12)
    assert TeacherVectors("cosine")(vectors[:columns], teacher).item() == pytest.approx(np.mean(apart), abs=1e-12)


def test_a_projection_lets_a_narrow_student_learn_from_a_wide_teacher(vectors):
    objective = TeacherVectors(widths=(D, 9)).double()
    teacher = torch.ones(B, 9)
    expected = (objective.projection(vectors[0]) - teacher).square().mean()
    torch.testing.assert_close(objective(vectors[:1], teacher), expected)


def test_similarity_matrices_are_compared_whatever_the_widths(vectors):
    x, teacher = vectors[0], torch.randn(B, 9, dtype=torch.float64)
    errors = [
        (cos(x[row], x[other]) - cos(teacher[row], teacher[other])) ** 2 for row in range(B) for other in range(B)
    ]
    assert SimilarityMatrix()([x], teacher).item() == pytest.approx(np.mean(errors), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.05, 1])
def test_rankings_are_compared_by_the_divergence_of_their_softmaxes(vectors, temperature):
    x, teacher = vectors[0], torch.randn(B, 9, dtype=torch.float64)

    def shares(y, row):
        cosines = [cos(y[row], y[other]) for other in range(B) if other != row]
        logits = torch.tensor(cosines, dtype=torch.float64) / temperature
        return logits.softmax(0)

    found = [(shares(teacher, row), shares(x, row)) for row in range(B)]
    expected = sum((p * (p / q).log()).sum().item() for p, q in found) / B
    assert SimilarityRanking(temperature)([x], teacher).item() == pytest.approx(expected, abs=1e-12)
    assert SimilarityRanking(temperature)([teacher], 3 * teacher).item() == pytest.approx(0, abs=1e-12)
    assert SimilarityRanking(temperature)([x[:1]], teacher[:1]).item() == 0  # nothing to rank


def test_a_temperature_that_ranks_nothing_is_refused():
    for temperature in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="temperature must be above 0"):
            SimilarityRanking(temperature)


# --- What is refused, in a batch and for all data before the first step

BAD = [
    (Softmax(D), 2, None, "Softmax needs labels"),
    (Softmax(D), 2, torch.tensor([0, 1, 3, 0, 0]), "from 0 to 2, but row 2 has 3"),
    (Softmax(D), 2, torch.tensor([0, -1, 1, 0, 0]), "from 0 to 2, but row 1 has -1"),
    (Softmax(D), 2, torch.ones(B), "whole numbers as classes.*torch.float32"),
    (Softmax(D), 2, torch.ones(B, 3).long(), r"not labels of shape \(5, 3\)"),
    (Softmax(D), 3, torch.zeros(B).long(), "2 columns of texts, not 3"),
    (CosineRegression(), 2, None, "CosineRegression needs labels"),
    (CosineRegression(), 2, torch.tensor([0, 1, 4.2, 0, 0]), "row 2 has 4.2; divide them by the highest"),
    (CosineRegression(), 2, torch.ones(B).long(), "floating-point scores.*torch.int64"),
    (CosineRegression(), 1, torch.ones(B), "2 columns of texts, not 1"),
    (Triplet(), 2, None, "3 columns of texts, not 2"),
    (Triplet(), 3, torch.ones(B), "doesn't use labels"),
    (InBatchNegatives(), 1, None, "2 columns of texts or more, not 1"),
    (InBatchNegatives(), 2, torch.ones(B), "doesn't use labels"),
    (TeacherVectors(), 1, None, "needs labels: a teacher's vector"),
    (TeacherVectors(), 1, torch.ones(B), "needs a teacher's vector"),
    (TeacherVectors(), 1, torch.ones(B, D).long(), "floating-point"),
    (SimilarityMatrix(), 1, None, "needs labels: a teacher's vector"),
    (SimilarityRanking(), 1, None, "needs labels: a teacher's vector"),
]


@pytest.mark.parametrize(("objective", "columns", "labels", "message"), BAD)
def test_what_an_objective_cannot_learn_from_is_one_clear_error(vectors, objective, columns, labels, message):
    for wrapped in (objective, Matryoshka(objective, [3]), Combined([objective])):
        with pytest.raises(ValueError, match=message):
            wrapped.check(columns, labels)
        with pytest.raises(ValueError, match=message):
            wrapped.double()(vectors[:columns], labels)


def test_a_teacher_of_another_width_is_refused_with_what_helps(vectors):
    with pytest.raises(ValueError, match=r"student's width is 6, the teacher's 9: give the objective widths="):
        TeacherVectors()(vectors[:1], torch.ones(B, 9))


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((4, 9), r"widths=\(4, 9\), the student's and the teacher's, but the student's width is 6"),
        ((D, 8), r"widths=\(6, 8\), .*, but the labels' width is 9"),
    ],
)
def test_a_projection_of_other_widths_is_refused_with_both(vectors, widths, message):
    with pytest.raises(ValueError, match=message):
        TeacherVectors("mse", widths).double()(vectors[:1], torch.ones(B, 9))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Softmax(D, terms=["u", "w"]), "terms must be"),
        (lambda: Softmax(D, terms="u"), "terms must be"),
        (lambda: Softmax(D, 1), "at least 2"),
        (lambda: InBatchNegatives(scale=0), "above 0"),
        (lambda: Matryoshka(Triplet(), []), "there must be widths"),
        (lambda: Matryoshka(Triplet(), [4, 0]), "a width must be a whole number, at least 1, not 0"),
        (lambda: Matryoshka(Triplet(), [4], [1, 2]), "with a weight each"),
        (lambda: Combined([Triplet()], [1, 2]), "1 objectives, but 2 weights"),
        (lambda: TeacherVectors("manhattan"), "mse or cosine"),
    ],
)
def test_an_objective_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_matryoshka_wider_than_the_vectors_is_refused(vectors):
    with pytest.raises(ValueError, match="asks for 7 of 6 dimensions"):
        Matryoshka(Triplet(), [7])(vectors[:3])


def test_vectors_wider_than_the_classifier_are_refused(vectors):
    with pytest.raises(ValueError, match="made for vectors of width 4, these have 6"):
        Softmax(4).double()(vectors[:2], torch.zeros(B).long())


# --- Examples


@pytest.mark.parametrize(
    ("columns", "labels", "error", "message"),
    [
        ([], None, ValueError, "there are no examples"),
        ([[], []], None, ValueError, "there are no examples"),
        ([["a"], ["b", "c"]], None, ValueError, "as many rows, not 1, 2"),
        ([["a", None]], None, TypeError, "column 0: text 1 is None"),
        (["abc", "def"], None, TypeError, "column 0"),
        ([["a", "b"]], [1.0], ValueError, r"2 rows of texts, but labels of shape \(1,\)"),
        ([["a", "b"]], 1.0, ValueError, r"labels of shape \(\)"),
        ([["a", "b"]], [1.0, math.nan], ValueError, "row 1 is not a finite number"),
        ([["a", "b"]], np.array([[1.0, 2], [math.inf, 0]]), ValueError, "row 1 is not a finite number"),
        (5, None, TypeError, "columns of texts, not int"),
        ([["a"], 5], None, TypeError, "column 1 is of type int: a column is a list of texts"),
        ([{"a", "b"}], None, TypeError, "column 0: .* a set, which has no order"),
        ([["a", "b"]], [1.0, "2"], ValueError, "the label of row 1 is not a number, .* but '2'"),
        ([["a", "b"]], ["1", "2"], ValueError, "the label of row 0 is not a number, .* but '1'"),
        ([["a", "b"]], [1.0, None], ValueError, "the label of row 1 is not a number, .* but None"),
        ([["a", "b"]], [[1.0, 2.0], [1.0]], ValueError, "labels must be a number for each row, or as many"),
    ],
)
def test_examples_that_are_none(columns, labels, error, message):
    with pytest.raises(error, match=message):
        Examples(columns, labels)


def test_columns_and_labels_may_be_iterators():
    examples = Examples((iter(column) for column in (["a", "b"], ("c", "d"))), (label for label in (0.5, 1.0)))
    assert examples.columns == [["a", "b"], ["c", "d"]]
    assert torch.equal(examples.labels, torch.tensor([0.5, 1.0]))


def test_the_digest_sees_every_text_and_label():
    digests = [
        Examples(columns, labels).digest()
        for columns, labels in [
            ([["a", "b"]], None),
            ([["ab", ""]], None),
            ([["a"], ["b"]], None),
            ([["a", "b"]], [0, 1]),
            ([["a", "b"]], [0.0, 1.0]),
            ([["a", "b"]], [0.0, 2.0]),
            ([["a", "b"]], np.array([[0.0], [1.0]], dtype=np.float32)),
        ]
    ]
    assert len(set(digests)) == len(digests)
    assert Examples([["a", "b"]], torch.tensor([0, 1])).digest() == digests[3]
