"""Search and mining give what sentence-transformers' own functions give."""

import numpy as np
import pytest
import torch
from sentence_transformers import util

from minibert import SentenceEncoder
from minibert.bulk import community_detection, paraphrase_mining, paraphrase_mining_embeddings, semantic_search
from minibert.bulk import mining as mining_module
from minibert.vectors import SIMILARITIES

DRAW = np.random.default_rng(0)
VECTORS = DRAW.standard_normal((230, 16)).astype(np.float32)
NEAR = (np.repeat(DRAW.standard_normal((23, 16)), 10, axis=0) + 0.4 * DRAW.standard_normal((230, 16))).astype(
    np.float32
)


def same_hits(ours, theirs):
    assert [[hit["corpus_id"] for hit in hits] for hits in ours] == [[hit["corpus_id"] for hit in h] for h in theirs]
    scores = [[[hit["score"] for hit in hits] for hits in found] for found in (ours, theirs)]
    assert np.allclose(*scores, atol=1e-6)


@pytest.mark.parametrize("sizes", [{}, {"query_chunk_size": 3, "corpus_chunk_size": 7}])
@pytest.mark.parametrize("top_k", [1, 10, 1000])
def test_semantic_search(top_k, sizes):
    for queries in (VECTORS[:8], VECTORS[3]):
        ours = semantic_search(queries, VECTORS, top_k=top_k, **sizes)
        same_hits(ours, util.semantic_search(torch.tensor(queries), torch.tensor(VECTORS), top_k=top_k))
        assert ours[0][0].keys() == {"corpus_id", "score"}


def test_semantic_search_by_another_measure():
    ours = semantic_search(VECTORS[:8], VECTORS, score_function=SIMILARITIES["dot"])
    same_hits(ours, util.semantic_search(VECTORS[:8], VECTORS, score_function=util.dot_score))


@pytest.mark.parametrize("sizes", [{}, {"query_chunk_size": 9, "corpus_chunk_size": 50}])
@pytest.mark.parametrize(("top_k", "max_pairs"), [(100, 500_000), (3, 500_000), (5, 40), (1000, 1000), (1, 1)])
@pytest.mark.parametrize("vectors", [VECTORS, NEAR], ids=["far", "near"])
def test_paraphrase_mining(vectors, top_k, max_pairs, sizes):
    options = {"top_k": top_k, "max_pairs": max_pairs}
    ours = paraphrase_mining_embeddings(vectors, **options, **sizes)
    theirs = util.paraphrase_mining_embeddings(torch.tensor(vectors), **options)
    assert np.allclose([pair[0] for pair in ours], [pair[0] for pair in theirs], atol=1e-6)
    assert {(i, j) for _, i, j in ours} == {(i, j) for _, i, j in theirs}  # nearly equal scores may change places
    assert all(i < j for _, i, j in ours)


def test_paraphrase_mining_of_sentences():
    encoder = SentenceEncoder.from_pretrained()
    texts = ["A man eats.", "The sky is blue.", "Someone has lunch.", "The sky is azure.", "He is eating."]
    ours = paraphrase_mining(encoder, texts, max_pairs=2)
    assert ours == paraphrase_mining_embeddings(encoder.encode(texts), max_pairs=2)
    assert ours[0][1:] == [0, 4]


@pytest.mark.parametrize("threshold", [0.3, 0.75, 0.85])
@pytest.mark.parametrize("size", [1, 4, 10])
@pytest.mark.parametrize("rows", [mining_module.ROWS, 37])
def test_community_detection(threshold, size, rows, monkeypatch):
    monkeypatch.setattr(mining_module, "ROWS", rows)
    options = {"threshold": threshold, "min_community_size": size}
    for vectors in (VECTORS, NEAR):
        ours = community_detection(vectors, batch_size=50, **options)
        assert ours == util.community_detection(torch.tensor(vectors), **options)


def test_of_nothing_and_of_one():
    for vectors in (VECTORS[:0], VECTORS[:1]):
        assert paraphrase_mining_embeddings(vectors) == []
        assert community_detection(vectors, min_community_size=2) == []
        assert len(semantic_search(VECTORS[:2], vectors)[0]) == len(vectors)
