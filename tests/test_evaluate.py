"""Evaluators: their numbers are those of the definitions, worked out by hand on vectors that are known."""

import math

import numpy as np
import pytest
import torch
from tiny_folder import MEAN, TEXTS, write_encoder

from minibert import SentenceEncoder
from minibert.training.evaluate import (
    NLIEvaluator,
    RetrievalEvaluator,
    STSEvaluator,
    TripletEvaluator,
    pearson,
    ranks,
    spearman,
)
from minibert.training.examples import Examples
from minibert.vectors import similarity, similarity_pairwise


class Known:
    """An encoder whose vectors are known: each text is a number, the angle of its vector in degrees."""

    similarity = staticmethod(similarity)
    similarity_pairwise = staticmethod(similarity_pairwise)

    def __init__(self):
        self.encoded = []

    def encode(self, texts, *, convert_to_tensor):
        assert convert_to_tensor
        self.encoded.append(list(texts))
        angles = torch.tensor([float(text) for text in texts], dtype=torch.float64).deg2rad()
        return torch.stack([angles.cos(), angles.sin()], 1)

    encode_query = encode_document = encode


def pairs(*rows, labels=None):
    return Examples([list(column) for column in zip(*rows, strict=True)], labels)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return SentenceEncoder.from_pretrained(write_encoder(tmp_path_factory.mktemp("tiny"), ("Pooling", MEAN)))


def test_equal_values_share_the_mean_of_their_places():
    assert ranks(np.array([3.0, 1, 3, 0, 3])).tolist() == [4, 2, 4, 1, 4]


def test_correlations_on_numbers_worked_out_by_hand():
    a, b = np.array([1.0, 2, 3, 4]), np.array([1.0, 4, 9, 16])
    assert spearman(a, b) == pytest.approx(1)
    assert pearson(a, b) == pytest.approx(25 / math.sqrt(5 * 129))
    assert spearman(a, -b) == pytest.approx(-1)


def test_where_all_are_equal_there_is_no_correlation_and_no_warning():
    assert math.isnan(pearson(np.ones(3), np.arange(3)))
    assert math.isnan(spearman(np.arange(3), np.ones(3)))


def test_sts_correlates_cosines_with_scores():
    angles = ("10", "80", "30", "60")
    scores = torch.tensor([5, 0.5, 1, 3])
    found = STSEvaluator(pairs(*(("0", angle) for angle in angles), labels=scores))(Known())
    cosines = np.array([math.cos(math.radians(float(angle))) for angle in angles])
    assert found["pearson"] == pytest.approx(np.corrcoef(cosines, scores)[0, 1])
    assert found["spearman"] == pytest.approx(0.8)  # 1 - 6 * (1 + 1) / (4 * 15): two neighbours are swapped


def test_a_text_that_occurs_twice_is_encoded_once():
    known = Known()
    STSEvaluator(pairs(("0", "10"), ("0", "20"), ("10", "0"), labels=torch.tensor([1.0, 2, 3])))(known)
    assert known.encoded == [["0", "10", "20"]]


def test_nli_counts_the_classes_that_the_classifier_finds():
    def classifier(u, v):  # class 0 where both point the same way, class 1 where not
        same = (u * v).sum(-1)
        return torch.stack([same, 1 - same], -1)

    examples = pairs(("0", "10"), ("0", "80"), ("30", "20"), ("0", "170"), labels=torch.tensor([0, 1, 1, 1]))
    assert NLIEvaluator(examples, classifier)(Known()) == {"accuracy": 0.75}


def test_triplets_count_where_the_positive_is_nearer_and_a_tie_is_none():
    triplets = pairs(("0", "10", "20"), ("0", "30", "20"), ("0", "15", "15"), ("90", "80", "0"))
    assert TripletEvaluator(triplets)(Known()) == {"accuracy": 0.5}


QUERIES = {"x": "0", "y": "90", "none": "45"}
CORPUS = {"a": "5", "b": "10", "c": "85", "d": "20", "e": "10"}  # x: a, b, e, d, c; y: c, d, b, e, a
RELEVANT = {"x": ["b", "c"], "y": ["c"], "none": []}


def test_retrieval_on_numbers_worked_out_by_hand():
    found = RetrievalEvaluator(QUERIES, CORPUS, RELEVANT, at=(1, 2, 10))(Known())
    ideal = 1 + 1 / math.log2(3)
    expected = {
        "accuracy@1": (0 + 1) / 2,
        "recall@1": (0 + 1) / 2,
        "mrr@1": (0 + 1) / 2,
        "ndcg@1": (0 + 1) / 2,
        "accuracy@2": 1,
        "recall@2": (1 / 2 + 1) / 2,
        "mrr@2": (1 / 2 + 1) / 2,
        "ndcg@2": (1 / math.log2(3) / ideal + 1) / 2,
        "accuracy@10": 1,
        "recall@10": 1,
        "mrr@10": (1 / 2 + 1) / 2,
        "ndcg@10": ((1 / math.log2(3) + 1 / math.log2(6)) / ideal + 1) / 2,
    }
    assert found == pytest.approx(expected)


def test_equally_similar_documents_stand_in_the_order_of_the_corpus():
    for relevant, place in (("b", 2), ("e", 3)):
        assert RetrievalEvaluator(QUERIES, CORPUS, {"x": [relevant]}, at=[5])(Known())["mrr@5"] == 1 / place


def test_a_document_that_is_not_a_number_comes_last():
    found = RetrievalEvaluator(QUERIES, {"nan": "nan", **CORPUS}, {"x": ["a"], "y": ["nan"]}, at=[1, 6])(Known())
    assert (found["accuracy@1"], found["mrr@6"]) == (0.5, pytest.approx((1 + 1 / 6) / 2))


@pytest.mark.parametrize("cells", [1, 3, 10])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_the_size_of_parts_changes_nothing(chunk, cells, monkeypatch):
    whole = RetrievalEvaluator(QUERIES, CORPUS, RELEVANT)(Known())
    monkeypatch.setattr("minibert.training.evaluate.CELLS", cells)
    known = Known()
    assert RetrievalEvaluator(QUERIES, CORPUS, RELEVANT, chunk=chunk)(known) == whole
    assert max(map(len, known.encoded[1:])) <= chunk


def test_retrieval_from_pairs_finds_all_documents_of_a_query():
    examples = pairs(("0", "10"), ("0", "5"), ("90", "10"), ("45", "90"))
    found = RetrievalEvaluator.from_pairs(examples, at=[2])(Known())
    # 0: 5, 10 (both its own); 90: 90, 10 (the second); 45: 10, 5 (none)
    assert found["recall@2"] == pytest.approx((1 + 1 + 0) / 3)
    assert found["mrr@2"] == pytest.approx((1 + 1 / 2 + 0) / 3)


def test_the_prompts_are_those_of_queries_and_documents(tmp_path):
    told = {"prompts": {"query": "query ", "document": "passage "}}
    folder = write_encoder(tmp_path, ("Pooling", MEAN), config_sentence_transformers=told)
    prompted = SentenceEncoder.from_pretrained(folder)
    anchors, near, far = ["the cat", "hello"], ["a dog", "world"], ["the mat", "who"]
    similar = [
        prompted.similarity_pairwise(prompted.encode_query(anchors), prompted.encode_document(texts))
        for texts in (near, far)
    ]
    expected = (similar[0] > similar[1]).double().mean().item()
    assert TripletEvaluator(Examples([anchors, near, far]))(prompted)["accuracy"] == expected
    matrix = prompted.similarity(prompted.encode_query(anchors), prompted.encode_document(near + far))
    first = matrix.argmax(1)
    relevant = {str(i): [str(int(place))] for i, place in enumerate(first)}
    corpus = {str(i): text for i, text in enumerate(near + far)}
    queries = {str(i): text for i, text in enumerate(anchors)}
    assert RetrievalEvaluator(queries, corpus, relevant, at=[1])(prompted)["accuracy@1"] == 1


def test_an_encoder_in_training_is_measured_without_dropout_and_goes_on_training(encoder):
    evaluator = STSEvaluator(Examples([TEXTS[:4], TEXTS[1:5]], torch.tensor([1.0, 2, 3, 4])))
    expected = evaluator(encoder)
    encoder.train()
    try:
        assert evaluator(encoder) == evaluator(encoder) == expected
        assert encoder.training
        assert encoder.model.training
    finally:
        encoder.eval()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: STSEvaluator(pairs(("a", "b"), ("c", "d"))), "needs labels"),
        (lambda: STSEvaluator(pairs(("a", "b"), labels=torch.tensor([1.0]))), "two pairs"),
        (lambda: STSEvaluator(pairs(("a", "b", "c"), labels=torch.tensor([1.0]))), "needs 2 columns"),
        (lambda: NLIEvaluator(pairs(("a", "b")), torch.add), "needs labels"),
        (lambda: TripletEvaluator(pairs(("a", "b"))), "needs 3 columns"),
        (lambda: RetrievalEvaluator(QUERIES, CORPUS, {"x": ["b", "z"]}), "query 'x': the document 'z' is not in"),
        (lambda: RetrievalEvaluator(QUERIES, CORPUS, {"none": []}), "a query that has a relevant document"),
        (lambda: RetrievalEvaluator(QUERIES, CORPUS, RELEVANT, at=[0]), "at least 1"),
        (lambda: RetrievalEvaluator(QUERIES, CORPUS, RELEVANT, chunk=0), "at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
