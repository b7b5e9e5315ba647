"""Evaluators give the numbers of scipy and of sentence-transformers' own evaluators, on the same published weights."""

import numpy as np
import pytest
import torch
from helpers import MINILM
from scipy.stats import pearsonr, spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import evaluation
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
)
from sentence_transformers.sentence_transformer.evaluation import TripletEvaluator as TheirTripletEvaluator

from minibert import SentenceEncoder
from minibert.training.evaluate import (
    RetrievalEvaluator,
    STSEvaluator,
    TripletEvaluator,
    pearson,
    spearman,
)
from minibert.training.examples import Examples

# 24 sentences: near ones stand beside each other, and every third is of another kind.
TEXTS = [
    f"{who} {does} {what}."
    for does, what in (("is eating", "some food"), ("plays", "the guitar"), ("reads", "a letter"), ("sells", "cars"))
    for who in ("A man", "The man", "A woman", "My sister", "Nobody", "The old king")
]


@pytest.fixture(scope="module")
def both():
    return SentenceEncoder.from_pretrained(MINILM, device="cpu"), SentenceTransformer(str(MINILM), device="cpu")


@pytest.mark.parametrize("ties", [1000, 5])
@pytest.mark.parametrize("n", [2, 3, 200])
def test_correlations_are_scipys(n, ties):
    generator = np.random.default_rng(n)
    a = generator.integers(ties, size=n) + np.arange(n) % 2  # never all equal
    b = a * generator.normal(size=n) + generator.normal(size=n)
    assert pearson(a, b) == pytest.approx(pearsonr(a, b).statistic, abs=1e-12)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_sts_is_sentence_transformers(both):
    ours, theirs = both
    first, second = TEXTS, TEXTS[3:] + TEXTS[:3]
    scores = torch.rand(len(TEXTS), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = EmbeddingSimilarityEvaluator(first, second, scores.tolist())(theirs)
    found = STSEvaluator(Examples([first, second], scores))(ours)
    assert found["spearman"] == pytest.approx(expected["spearman_cosine"], abs=1e-9)
    assert found["pearson"] == pytest.approx(expected["pearson_cosine"], abs=1e-6)


def test_triplets_are_sentence_transformers(both):
    ours, theirs = both
    columns = TEXTS, TEXTS[1:] + TEXTS[:1], TEXTS[9:] + TEXTS[:9]
    expected = TheirTripletEvaluator(*columns)(theirs)["cosine_accuracy"]
    assert 0 < expected < 1  # or anything would do
    assert TripletEvaluator(Examples(columns))(ours)["accuracy"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("chunk", [7, 50])
def test_retrieval_is_sentence_transformers(both, chunk):
    ours, theirs = both
    queries = {f"q{i:02}": text.replace("is eating", "eats") for i, text in enumerate(TEXTS[::3])}
    corpus = {f"d{i:02}": text for i, text in enumerate(TEXTS)}
    relevant = {f"q{i:02}": {f"d{(3 * i + step) % 24:02}" for step in range(2, 3 + 2 * (i % 3), 2)} for i in range(7)}
    at = [1, 3, 5, 10, 40]
    expected = InformationRetrievalEvaluator(
        queries, corpus, relevant, mrr_at_k=at, ndcg_at_k=at, accuracy_at_k=at, precision_recall_at_k=at, map_at_k=[1]
    )
    # Its accuracy and MRR are divided by the queries that have relevant documents, as ours.
    theirs_found = expected(theirs)
    found = RetrievalEvaluator(queries, corpus, relevant, at=at, chunk=chunk)(ours)
    assert len(found) == 4 * len(at)
    for name, value in found.items():
        assert value == pytest.approx(theirs_found[f"cosine_{name}"], abs=1e-9), name
    assert 0 < found["mrr@10"] < 1


NEAR, FAR = TEXTS[1:] + TEXTS[:1], TEXTS[9:] + TEXTS[:9]
IDS = {str(i): text for i, text in enumerate(TEXTS)}
NEXT = {str(i): str((i + 1) % len(TEXTS)) for i in range(len(TEXTS))}
RELEVANT = {name: {other} for name, other in NEXT.items()}
SCORES = np.linspace(0, 1, len(TEXTS)).tolist()
LABELS = [int(i % 3 == 0) for i in range(len(TEXTS))]
FOUR = ["cosine", "dot", "euclidean", "manhattan"]
SAMPLES = [{"query": q, "positive": [p], "negative": [n]} for q, p, n in zip(TEXTS, NEAR, FAR, strict=True)]


class LocalNanoBEIR(evaluation.NanoBEIREvaluator):
    """With a collection of this machine in the place of the hub's."""

    def _load_dataset_subset_split(self, subset, split, required_columns):
        if subset == "qrels":
            return [{"query-id": name, "corpus-id": other} for name, other in NEXT.items()]
        return [{"_id": name, "text": text} for name, text in IDS.items()]


@pytest.mark.parametrize(
    ("name", "columns", "options"),
    [
        ("EmbeddingSimilarityEvaluator", (TEXTS, NEAR, SCORES), {"similarity_fn_names": FOUR}),
        ("EmbeddingSimilarityEvaluator", (TEXTS, NEAR, SCORES), {"precision": "ubinary"}),
        ("TripletEvaluator", (TEXTS, NEAR, FAR), {"similarity_fn_names": FOUR}),
        ("BinaryClassificationEvaluator", (TEXTS, NEAR, LABELS), {"similarity_fn_names": FOUR}),
        ("InformationRetrievalEvaluator", (IDS, IDS, RELEVANT), {"query_prompt": "query: ", "truncate_dim": 100}),
        ("ParaphraseMiningEvaluator", (IDS,), {"duplicates_list": list(NEXT.items())}),
        ("RerankingEvaluator", (SAMPLES,), {}),
        ("TranslationEvaluator", (TEXTS, NEAR), {}),
        ("LocalNanoBEIR", (["msmarco"],), {"query_prompts": "query: "}),
    ],
)
def test_their_evaluators_run_on_our_encoder(both, name, columns, options):
    kind = LocalNanoBEIR if name == "LocalNanoBEIR" else getattr(evaluation, name)
    ours, theirs = (model.evaluate(kind(*columns, **options)) for model in both)
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_either_is_the_others_teacher(both):
    ours, theirs = both
    expected, *found = (
        student.evaluate(evaluation.MSEEvaluator(TEXTS, NEAR, teacher_model=teacher))["negative_mse"]
        for teacher, student in ((theirs, theirs), (ours, theirs), (theirs, ours), (ours, ours))
    )
    assert found == pytest.approx([expected] * 3, abs=1e-5)
