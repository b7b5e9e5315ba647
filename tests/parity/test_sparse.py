"""Folders of sentence-transformers' SparseEncoder give its weights here, and folders of ours give our weights there."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.sparse
import torch
from helpers import MINILM, TINY, widen
from sentence_transformers import SparseEncoder as Reference
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SparseStaticEmbedding, SpladePooling
from tiny_folder import TEXTS, VOCABULARY, write_json, write_vocabulary
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from minibert import SparseEncoder

# Theirs makes sparse tensors without saying whether their invariants are checked.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")

SENTENCES = [*TEXTS, "The Cat sat on the MAT, the Dog: who?", "caf\u00e9", "the dog eats the cat eats food " * 8, "x"]
METHODS = ("encode", "encode_query", "encode_document")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A tiny masked LM as transformers saves it."""
    folder = tmp_path_factory.mktemp("bert")
    widen(BertForMaskedLM(BertConfig(**TINY.to_dict()))).save_pretrained(folder)
    return write_vocabulary(folder, config={"do_lower_case": True, "tokenizer_class": "BertTokenizer"})


@pytest.fixture
def make(bert, tmp_path):
    """Modules, by default the masked LM and a SpladePooling -> ours, loaded from what they saved, and theirs."""

    def pair(*modules, pooling=(), first=None, **settings):
        modules = modules or (first or masked_lm(bert), SpladePooling(*pooling))
        theirs = Reference(modules=[*modules], device="cpu", **settings)
        theirs.save(str(tmp_path / "theirs"), create_model_card=False)
        return load(tmp_path / "theirs"), theirs.double()

    return pair


def masked_lm(bert, **options):
    return Transformer(str(bert), transformer_task="fill-mask", **options)


def static(bert, weight, **options):
    return SparseStaticEmbedding(AutoTokenizer.from_pretrained(bert), weight=weight, **options)


def load(folder, **options):
    return SparseEncoder.from_pretrained(folder, device="cpu", truncation="silent", **{"dtype": "float64", **options})


def their_double(folder):
    return Reference(str(folder), device="cpu").double()


def assert_same(mine, theirs, below=1e-10):
    mine, theirs = mine.to_dense(), theirs.to_dense()
    assert mine.shape == theirs.shape
    assert (mine - theirs).abs().max() < below * max(1, theirs.abs().max())


def assert_same_weights(ours, theirs, below=1e-10, methods=METHODS, **options):
    """By the stack and by the page, all three methods; the very words too."""
    for method in methods:
        reference = getattr(theirs, method)(SENTENCES, **options)
        for fast in (None, False):
            mine = getattr(ours, method)(SENTENCES, fast=fast, **options)
            assert_same(mine, reference, below)
            assert torch.equal(mine.to_dense() == 0, reference.to_dense() == 0)


# --- Their folders, our weights


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_every_pooling(make, strategy, activation):
    ours, theirs = make(pooling=(strategy, activation))
    assert ours.explain().count("fast") == 3  # the embeddings and both layers
    assert_same_weights(ours, theirs)


def test_the_masked_lm_of_version_5(make, bert):
    assert_same_weights(*make(MLMTransformer(str(bert)), SpladePooling("sum")))


@pytest.mark.parametrize("keep", [1, 5, 98, 99, 1000])
@pytest.mark.parametrize("strategy", ["max", "sum"])
def test_a_number_of_words_at_most(make, keep, strategy):
    ours, theirs = make(pooling=(strategy,), max_active_dims=keep)
    assert ours.max_active_dims == keep
    assert_same_weights(ours, theirs)
    assert_same_weights(ours, theirs, max_active_dims=3)


def test_prompts(make):
    ours, theirs = make(prompts={"query": "who: ", "document": "the ", "other": "cat "}, default_prompt_name="other")
    assert ours.prompts == theirs.prompts
    assert_same_weights(ours, theirs)
    assert_same_weights(ours, theirs, prompt="dog ")
    assert_same_weights(ours, theirs, prompt_name="query")


def test_a_prompt_for_passages(make):
    assert_same_weights(*make(prompts={"passage": "the ", "query": "who "}))


def test_a_limit_in_tokens(make, bert):
    first = masked_lm(bert)
    first.max_seq_length = 7
    assert_same_weights(*make(first=first))


@pytest.mark.parametrize("measure", ["dot", "cosine", "euclidean", "manhattan"])
def test_every_similarity(make, measure):
    """Theirs is float32. Their distance of equal vectors is not 0, but what sparse products leave."""
    ours, theirs = make(similarity_fn_name=measure)
    assert ours.similarity_fn_name == measure
    a, b = ours.encode(SENTENCES[:4]).float(), ours.encode(SENTENCES[4:]).float()
    for x, y in [(a, b), (a.to_dense(), b), (a, b.to_dense())]:
        assert_same(ours.similarity(x, y), theirs.similarity(x, y), 1e-3 if measure == "euclidean" else 1e-5)
    x, y = a, ours.encode(SENTENCES[4:8]).float()
    assert_same(ours.similarity_pairwise(x, y), theirs.similarity_pairwise(x, y), 1e-5)


def test_a_masked_lm_without_modules(bert):
    """As the first published SPLADE models are."""
    ours = load(bert)
    assert "SPLADE's max pooling" in str(ours.report)
    assert_same_weights(ours, their_double(bert))


def test_a_head_with_a_matrix_of_its_own(tmp_path):
    config = BertConfig(**{**TINY.to_dict(), "tie_word_embeddings": False})
    widen(BertForMaskedLM(config)).save_pretrained(tmp_path)
    write_vocabulary(tmp_path, config={"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    assert_same_weights(load(tmp_path), their_double(tmp_path))


def test_one_text_no_text_and_lists(make):
    ours, theirs = make()
    assert_same(ours.encode("the cat"), theirs.encode("the cat"))
    assert ours.encode("").shape == theirs.encode("").shape
    assert ours.encode([]).shape == (0, TINY.vocab_size)
    for sparse in (True, False):
        mine, reference = (
            model.encode(SENTENCES, convert_to_tensor=False, convert_to_sparse_tensor=sparse)
            for model in (ours, theirs)
        )
        assert len(mine) == len(reference)
        for x, y in zip(mine, reference, strict=True):
            assert x.layout == y.layout
            assert_same(x, y)


def test_words_and_sparsity(make):
    ours, theirs = make()
    embeddings = theirs.encode(SENTENCES)
    assert ours.sparsity(embeddings) == pytest.approx(theirs.sparsity(embeddings))
    assert ours.sparsity(embeddings[0]) == pytest.approx(theirs.sparsity(embeddings[0]))
    for top_k in (None, 1, 7):
        for mine, reference in zip(
            ours.decode(embeddings, top_k=top_k), theirs.decode(embeddings, top_k=top_k), strict=True
        ):
            assert [word for word, _ in mine] == [word for word, _ in reference]
            assert [weight for _, weight in mine] == pytest.approx([weight for _, weight in reference])
    assert ours.decode(embeddings[0], top_k=3) == theirs.decode(embeddings[0], top_k=3)


# --- Queries without a model


@pytest.fixture
def weight():
    weight = torch.rand(len(VOCABULARY), generator=torch.Generator().manual_seed(1))
    weight[70:75] = 0
    weight[75] = -0.5
    return weight


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("default", ["document", "query", None])
def test_a_router_to_static_weights(make, bert, weight, frozen, default):
    router = Router.for_query_document(
        [static(bert, weight, frozen=frozen)], [masked_lm(bert), SpladePooling("max", "log1p_relu")], default
    )
    ours, theirs = make(router, prompts={"query": "who ", "document": "the "}, similarity_fn_name="dot")
    assert ours.static.frozen is frozen
    assert ours.static.weight.requires_grad is not frozen
    assert_same_weights(ours, theirs)
    assert_same_weights(ours, theirs, max_active_dims=3)
    assert_same_weights(ours, theirs, methods=["encode"], task="query")
    assert_same_weights(ours, theirs, methods=["encode"], task="document")
    queries, documents = ours.encode_query(SENTENCES), ours.encode_document(SENTENCES)
    assert_same(ours.similarity(queries, documents), theirs.similarity(queries, documents), 1e-6)


def test_a_router_by_mappings(make, bert, weight):
    router = Router(
        {"light": [static(bert, weight)], "heavy": [masked_lm(bert), SpladePooling()]},
        route_mappings={("query", "text"): "light", ("document", None): "heavy"},
        default_route="heavy",
    )
    assert_same_weights(*make(router))


def test_a_router_that_leads_both_to_one_model(make, bert):
    modules = [masked_lm(bert), SpladePooling()]
    ours, theirs = make(Router.for_query_document(modules, modules))
    assert ours.static is None
    assert_same_weights(ours, theirs)


def test_static_weights_of_a_file_of_words(make, bert, weight, tmp_path):
    router = Router.for_query_document([static(bert, weight)], [masked_lm(bert), SpladePooling()])
    make(router)
    folder = tmp_path / "theirs" / "query_0_SparseStaticEmbedding"
    words = {word: 0.1 * i for i, word in enumerate(VOCABULARY[5:])} | {"not-a-word": 2.5}
    write_json(folder, "idf.json", words)
    write_json(folder, "config.json", {"frozen": True, "path": str(folder / "idf.json")})
    (folder / "model.safetensors").unlink()
    ours, theirs = load(tmp_path / "theirs"), their_double(tmp_path / "theirs")
    assert_same_weights(ours, theirs, 1e-7, ["encode_query"])


def test_long_queries_are_cut_at_the_limit_of_their_own_tokenizer(make, bert, weight, tmp_path):
    make(Router.for_query_document([static(bert, weight)], [masked_lm(bert), SpladePooling()]))
    path = tmp_path / "theirs" / "query_0_SparseStaticEmbedding" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 6}))
    ours, theirs = load(tmp_path / "theirs"), their_double(tmp_path / "theirs")
    assert_same_weights(ours, theirs, methods=["encode_query"])
    ours.encode_query(SENTENCES)
    assert ours.truncation_report


# --- Our folders, their weights


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_what_is_saved_here_they_load(make, tmp_path, strategy, activation):
    ours, _ = make(
        pooling=(strategy, activation), prompts={"query": "who "}, max_active_dims=9, similarity_fn_name="cosine"
    )
    ours.max_seq_length = 9
    ours.save_pretrained(tmp_path / "ours")
    theirs = their_double(tmp_path / "ours")
    assert theirs.max_active_dims == 9
    assert theirs.similarity_fn_name == "cosine"
    assert theirs.max_seq_length == 9
    assert_same_weights(ours, theirs)
    assert_same_weights(load(tmp_path / "ours"), theirs)


@pytest.mark.parametrize("default", ["document", "query"])
def test_a_saved_router_they_load(make, bert, weight, tmp_path, default):
    router = Router.for_query_document([static(bert, weight)], [masked_lm(bert), SpladePooling("sum")], default)
    ours, _ = make(router, prompts={"query": "who "})
    ours.save_pretrained(tmp_path / "ours")
    assert_same_weights(ours, their_double(tmp_path / "ours"))
    again = load(tmp_path / "ours")
    assert again.static.tasks == ours.static.tasks
    assert_same_weights(again, their_double(tmp_path / "ours"))


# --- Real weights


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """all-MiniLM-L6-v2 with a random masked-LM head, whose bias leaves few words a weight."""
    folder = tmp_path_factory.mktemp("minilm")
    torch.manual_seed(0)
    model = BertForMaskedLM.from_pretrained(MINILM)
    with torch.no_grad():
        model.cls.predictions.bias.fill_(-4)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(MINILM).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("strategy", ["max", "sum"])
def test_real_weights(minilm, tmp_path, strategy):
    theirs = Reference(modules=[masked_lm(minilm), SpladePooling(strategy)], device="cpu")
    theirs.save(str(tmp_path), create_model_card=False)
    ours = SparseEncoder.from_pretrained(tmp_path, device="cpu")
    lines = [line for line in (MINILM / "README.md").read_text(encoding="utf-8").splitlines() if line][:64]
    reference = theirs.encode(lines, convert_to_sparse_tensor=False)
    assert 20 < (reference != 0).sum() / len(lines) < 3000
    for fast in (True, False):
        mine = ours.encode(lines, convert_to_sparse_tensor=False, fast=fast)
        assert mine.dtype == torch.float32
        assert (mine - reference).abs().max() < 1e-5 * max(1, reference.max())


def test_forms_hold_the_same_numbers(make):
    ours, theirs = make()
    reference = theirs.encode(SENTENCES).to_dense().numpy()
    matrix = ours.encode(SENTENCES, layout="scipy")
    assert isinstance(matrix, scipy.sparse.csr_matrix)
    assert np.abs(matrix.toarray() - reference).max() < 1e-10
    assert np.abs(ours.encode(SENTENCES, layout="csr").to_dense().numpy() - reference).max() < 1e-10
    words = ours.encode(SENTENCES, layout="words")
    assert [len(row) for row in words] == (reference != 0).sum(1).tolist()
    assert ours.decode(matrix) == ours.decode(ours.encode(SENTENCES))
    assert torch.equal(ours.similarity(matrix, matrix), ours.similarity(ours.encode(SENTENCES), matrix))
