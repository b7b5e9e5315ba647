"""Folders of sentence-transformers give its vectors here, and folders of ours give our vectors there."""

import copy

import numpy as np
import pytest
import torch
from helpers import MINILM, TINY, widen
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import quantize_embeddings
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tiny_folder import TEXTS, write_json, write_vocabulary
from torch import nn
from transformers import BertConfig, BertModel

from minibert import SentenceEncoder

D = TINY.hidden_size
# Text with capitals, accents and more than the tiny model's 40 tokens, beside the short ones.
SENTENCES = [*TEXTS, "The Cat sat on the MAT, the Dog: who?", "caf\u00e9", "the dog eats the cat eats food " * 8, "x"]
WAYS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A tiny BERT as transformers saves it, with a cased vocabulary."""
    folder = tmp_path_factory.mktemp("bert")
    widen(BertModel(BertConfig(**TINY.to_dict()))).save_pretrained(folder)
    return write_vocabulary(folder, config={"do_lower_case": False, "tokenizer_class": "BertTokenizer"})


@pytest.fixture
def make(bert, tmp_path):
    """Modules after the transformer -> their model, made and saved by them, and ours, loaded from what they saved."""

    def pair(*modules, max_seq_length=None, do_lower_case=False, **settings):
        first = Transformer(str(bert), max_seq_length=max_seq_length, do_lower_case=do_lower_case)
        torch.manual_seed(0)
        theirs = SentenceTransformer(modules=[first, *modules], device="cpu", **settings)
        for module in modules:
            widen(module)
        theirs.save(str(tmp_path / "theirs"), create_model_card=False)
        return load(tmp_path / "theirs"), theirs

    return pair


def load(folder, **options):
    return SentenceEncoder.from_pretrained(folder, device="cpu", truncation="silent", **options)


def assert_same(mine, reference, below=1e-5):
    mine, reference = np.asarray(mine), np.asarray(reference)
    assert mine.shape == reference.shape
    assert mine.dtype == reference.dtype
    assert np.abs(mine - reference).max() < below * max(1, np.abs(reference).max())


def assert_same_vectors(ours, theirs, **options):
    assert_same(ours.encode(SENTENCES, **options), theirs.encode(SENTENCES, **options))


# --- Their folders, our vectors


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_pooling(make, way):
    assert_same_vectors(*make(Pooling(D, way)))


@pytest.mark.parametrize("ways", [("cls", "mean"), ("mean", "cls"), ("max", "weightedmean", "lasttoken"), WAYS])
def test_several_ways_side_by_side(make, ways):
    assert_same_vectors(*make(Pooling(D, ways)))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [nn.Identity, nn.Tanh, nn.ReLU, nn.Sigmoid, nn.GELU])
def test_dense(make, activation, residual):
    dense = Dense(D, 12, bias=not residual, activation_function=activation(), use_residual=residual)
    assert_same_vectors(*make(Pooling(D, "cls"), dense))


def test_dense_with_a_residual_of_the_same_width(make):
    assert_same_vectors(*make(Pooling(D, "mean"), Dense(D, D, use_residual=True), Normalize()))


def test_all_that_may_follow_each_other(make):
    modules = [Pooling(D, ("cls", "max")), Dense(2 * D, 20), Dense(20, 10, bias=False), Normalize()]
    assert_same_vectors(*make(*modules))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("include", [True, False])
def test_prompts_that_count_and_that_do_not(make, include, way):
    ours, theirs = make(Pooling(D, way, include_prompt=include), prompts={"query": "who is: ", "bare": ""})
    short = [text[:30] for text in SENTENCES]  # so that something is left beside the prompt
    for options in ({"prompt_name": "query"}, {"prompt": "the world "}, {"prompt_name": "bare"}, {}):
        assert_same(ours.encode(short, **options), theirs.encode(short, **options))


def test_the_default_prompt_and_how_to_do_without_it(make):
    prompts = {"query": "who is: ", "document": "passage: ", "other": "food "}
    ours, theirs = make(Pooling(D, "mean"), prompts=prompts, default_prompt_name="other")
    for options in ({}, {"prompt": ""}, {"prompt_name": "query"}):
        assert_same_vectors(ours, theirs, **options)
    assert_same(ours.encode_query(SENTENCES), theirs.encode_query(SENTENCES))
    assert_same(ours.encode_document(SENTENCES), theirs.encode_document(SENTENCES))


def test_queries_without_a_prompt_of_their_own_have_none(make, tmp_path):
    make(Pooling(D, "mean"))
    settings = {"prompts": {"other": "food "}, "default_prompt_name": "other"}
    write_json(tmp_path / "theirs", "config_sentence_transformers.json", settings)
    ours, theirs = load(tmp_path / "theirs"), SentenceTransformer(str(tmp_path / "theirs"), device="cpu")
    assert_same_vectors(ours, theirs)
    assert_same(ours.encode_query(SENTENCES), theirs.encode_query(SENTENCES))
    assert_same(ours.encode_document(SENTENCES), theirs.encode_document(SENTENCES))


@pytest.mark.parametrize("name", ["passage", "corpus"])
def test_the_prompt_for_documents_may_have_another_name(make, tmp_path, name):
    """As sentence-transformers says; version 6.2 itself puts an empty "document" beside it, and then takes that."""
    _, theirs = make(Pooling(D, "mean"))
    write_json(tmp_path / "theirs", "config_sentence_transformers.json", {"prompts": {name: "passage: "}})
    ours = load(tmp_path / "theirs")
    assert_same(ours.encode_document(SENTENCES), theirs.encode(SENTENCES, prompt="passage: "))


@pytest.mark.parametrize("keep", [1, 7, 1000])
def test_truncate_dim(make, keep):
    ours, theirs = make(Pooling(D, "mean"), Normalize(), truncate_dim=keep)
    assert_same_vectors(ours, theirs)
    assert_same_vectors(ours, theirs, normalize_embeddings=True)
    assert_same_vectors(ours, theirs, truncate_dim=5)
    expected = theirs.get_embedding_dimension()
    assert ours.get_sentence_embedding_dimension() == min(D, keep) == min(D, expected)


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("length", [None, 9, 25, 1000])
def test_length_and_case(make, length, lower):
    ours, theirs = make(Pooling(D, "mean"), max_seq_length=length, do_lower_case=lower)
    sentences = SENTENCES if length != 1000 else SENTENCES[:-2]  # beyond its 40 positions their model fails
    assert_same(ours.encode(sentences), theirs.encode(sentences))
    assert ours.max_seq_length == min(length or 40, 40)


@pytest.mark.parametrize("measure", ["cosine", "dot", "euclidean", "manhattan"])
def test_the_measure_of_similarity(make, measure):
    ours, theirs = make(Pooling(D, "mean"), similarity_fn_name=measure)
    a, b = theirs.encode(SENTENCES[:5]), theirs.encode(SENTENCES[5:10])
    assert ours.similarity_fn_name == measure
    assert_same(ours.similarity(a, b), theirs.similarity(a, b))
    assert_same(ours.similarity_pairwise(a, b), theirs.similarity_pairwise(a, b))


def test_without_modules_json_it_is_the_mean_there_too(bert):
    assert_same_vectors(load(bert), SentenceTransformer(str(bert), device="cpu"))


# --- Our folders, their vectors


def both_ways(ours, tmp_path):
    """Save ours and load it there."""
    ours.save_pretrained(tmp_path / "ours")
    return ours, SentenceTransformer(str(tmp_path / "ours"), device="cpu")


SAVED = {
    "mean": [Pooling(D, "mean")],
    "cls, normalised": [Pooling(D, "cls"), Normalize()],
    "several, in an order of their own": [Pooling(D, ("mean", "lasttoken", "cls"))],
    "all": [Pooling(D, WAYS), Dense(6 * D, 10, use_residual=True), Dense(10, 10), Normalize()],
    "without the prompt": [Pooling(D, "weightedmean", include_prompt=False)],
    **{
        f"dense, {activation.__name__}": [Pooling(D, "max"), Dense(D, 7, activation_function=activation())]
        for activation in (nn.Identity, nn.Tanh, nn.ReLU, nn.Sigmoid, nn.GELU)
    },
}


@pytest.mark.parametrize("name", SAVED)
def test_what_we_save_they_load_to_the_same_vectors(make, tmp_path, name):
    ours, _ = make(*copy.deepcopy(SAVED[name]), prompts={"query": "who: "})
    ours, theirs = both_ways(ours, tmp_path)
    for options in ({}, {"prompt_name": "query"}, {"normalize_embeddings": True}):
        assert_same(
            ours.encode(TEXTS, **options), theirs.encode(TEXTS, **options), 3e-6
        )  # sums of six poolings: 1.4e-6 on an AMD EPYC


def test_what_we_save_keeps_all_settings_there(make, tmp_path):
    """Case, too: their tokenizer is made from the flags that we wrote."""
    settings = {"prompts": {"query": "who: ", "a": "a "}, "default_prompt_name": "a", "truncate_dim": 9}
    ours, _ = make(Pooling(D, "mean"), max_seq_length=17, do_lower_case=True, similarity_fn_name="dot", **settings)
    ours, theirs = both_ways(ours, tmp_path)
    assert_same(ours.encode(SENTENCES), theirs.encode(SENTENCES), 1e-6)
    assert_same(ours.encode_query(SENTENCES), theirs.encode_query(SENTENCES), 1e-6)
    assert theirs.similarity_fn_name == "dot"
    assert (theirs.max_seq_length, theirs.truncate_dim, theirs.default_prompt_name) == (17, 9, "a")


def test_a_cased_model_stays_cased_there(make, tmp_path):
    ours, theirs = both_ways(make(Pooling(D, "mean"))[0], tmp_path)
    assert np.abs(ours.encode("Cat") - ours.encode("cat")).max() > 0.1
    assert_same(ours.encode(["Cat", "cat", *SENTENCES]), theirs.encode(["Cat", "cat", *SENTENCES]), 1e-6)


def test_there_and_back_again(make, tmp_path):
    ours, _ = make(Pooling(D, ("mean", "cls")), Dense(2 * D, 7), Normalize(), prompts={"query": "who: "})
    ours, theirs = both_ways(ours, tmp_path)
    theirs.save(str(tmp_path / "again"), create_model_card=False)
    assert np.array_equal(load(tmp_path / "again").encode(SENTENCES), ours.encode(SENTENCES))


# --- The real all-MiniLM-L6-v2


@pytest.fixture(scope="module")
def minilm():
    return load(MINILM), SentenceTransformer(str(MINILM), device="cpu")


REAL = [
    "A man is eating food.",
    "Someone has a meal",
    "",
    "What is Deep Learning?",
    "Stra\u00dfe, na\u00efve Caf\u00e9 \u6f22\u5b57 \U0001f600",
    "The quick brown fox jumps over the lazy dog. " * 5,
    "word " * 300,
    "12,5% of $3.50",
]


@pytest.fixture(scope="module")
def vectors(minilm):
    return [model.encode(REAL) for model in minilm]


def test_minilm(vectors):
    assert_same(*vectors)


@pytest.mark.parametrize(
    "options",
    [
        {"normalize_embeddings": True},
        {"truncate_dim": 100},
        {"truncate_dim": 100, "normalize_embeddings": True},
        {"prompt": "query: "},
        {"batch_size": 3},
    ],
)
def test_minilm_with(minilm, options):
    ours, theirs = minilm
    sentences = REAL[:5]
    assert_same(ours.encode(sentences, **options), theirs.encode(sentences, **options))


def test_minilm_for_one_string_and_for_none(minilm):
    ours, theirs = minilm
    assert_same(ours.encode(REAL[0]), theirs.encode(REAL[0]))
    assert ours.encode([]).shape == (0, 384)  # theirs is (0,)


@pytest.mark.filterwarnings("ignore:.*these ranges are of")
@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
def test_minilm_in_fewer_bytes_bit_for_bit(minilm, precision):
    ours, _ = minilm
    found = ours.encode(REAL, precision=precision)
    expected = quantize_embeddings(ours.encode(REAL), precision=precision)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_quantisation_with_ranges_bit_for_bit(vectors, precision):
    from minibert import vectors as ours

    ranges = np.stack([vectors[1].min(0), vectors[1].max(0)]) * np.float32(0.7)  # so that some lie outside
    found = ours.quantize_embeddings(vectors[1], precision, ranges)
    assert np.array_equal(found, quantize_embeddings(vectors[1], precision, ranges))


def test_minilm_s_token_vectors(minilm):
    ours, theirs = minilm
    for mine, reference in zip(
        ours.encode(REAL, output_value="token_embeddings"),
        theirs.encode(REAL, output_value="token_embeddings"),
        strict=True,
    ):
        assert_same(mine, reference)


def test_minilm_all_that_was_computed(minilm):
    ours, theirs = minilm
    found, expected = (model.encode(REAL[0], output_value=None) for model in (ours, theirs))
    for name in ("token_embeddings", "sentence_embedding"):
        assert_same(found[name], expected[name])
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(found[name], expected[name])


@pytest.mark.parametrize("method", ["encode_query", "encode_document"])
def test_minilm_for_queries_and_documents(minilm, method):
    ours, theirs = minilm
    assert_same(getattr(ours, method)(REAL[:4]), getattr(theirs, method)(REAL[:4]))


@pytest.mark.parametrize("measure", ["cosine", "dot", "euclidean", "manhattan"])
def test_minilm_s_similarities(minilm, vectors, measure):
    ours, theirs = (copy.copy(model) for model in minilm)
    ours.similarity_fn_name = theirs.similarity_fn_name = measure
    a, b = vectors[1][:5], vectors[1][3:]
    assert_same(ours.similarity(a, b), theirs.similarity(a, b))
    assert_same(ours.similarity_pairwise(a, b), theirs.similarity_pairwise(a, b))
    assert_same(ours.similarity(a[0], torch.from_numpy(b)), theirs.similarity(a[0], torch.from_numpy(b)))


def test_minilm_saved_by_us_gives_the_same_vectors_there(minilm, tmp_path):
    ours, theirs = both_ways(minilm[0], tmp_path)
    assert_same(ours.encode(REAL), theirs.encode(REAL), 1e-6)


class Embed(TransformerMixin, BaseEstimator):
    """A step of a pipeline, as users write it."""

    def __init__(self, encoder):
        self.encoder = encoder


def test_scikit_learn_does_not_copy_an_encoder_for_each_fold():
    encoder = SentenceEncoder.from_pretrained(MINILM)
    pipeline = clone(make_pipeline(Embed(encoder), LogisticRegression()))
    assert pipeline[0].encoder is encoder
