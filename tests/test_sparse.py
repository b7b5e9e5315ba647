"""SparseEncoder by itself: blocks give the plain formula's weights, memory is bounded, and bad input is named."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from importlib.util import find_spec
from threading import Thread

import pytest
import torch
from documents import DOCS, blocks, run
from helpers import TINY, random_batch, widen
from tiny_folder import TEXTS, VOCABULARY, write_encoder, write_json, write_vocabulary
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from minibert import (
    BertForMaskedLM,
    CheckpointError,
    ConfigError,
    HubError,
    SentenceEncoder,
    SparseEncoder,
    Tokenizer,
    vectors,
)
from minibert.checkpoint.sparse_encoders import SparseModules
from minibert.pooling import SpladePooling
from minibert.retrieval import sparse_vectors, vocabulary
from minibert.retrieval.static_queries import StaticQueries
from minibert.truncation import TooLongError

V = TINY.vocab_size
SPLADE = "sentence_transformers.sparse_encoder.models."


def write_sparse(folder, config=TINY, modules=("MLMTransformer", "SpladePooling"), **files):
    widen(BertForMaskedLM(config)).save_pretrained(folder)
    write_vocabulary(folder, config={"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    places = ["", *(f"{i}_{kind}" for i, kind in enumerate(modules[1:], 1))]
    rows = [{"path": place, "type": SPLADE + kind} for place, kind in zip(places, modules, strict=True)]
    write_json(folder, "modules.json", rows)
    write_json(folder, "1_SpladePooling/config.json", {"pooling_strategy": "max", "activation_function": "relu"})
    for name, values in files.items():
        write_json(folder, f"{name}.json", values)
    return folder


def make(tokenizer, pooling=None, config=TINY, dtype=torch.float64, static=None, **settings):
    model = widen(BertForMaskedLM(config)).to(dtype).eval()
    modules = SparseModules(pooling=pooling or SpladePooling(), **settings)
    return SparseEncoder(model, tokenizer, modules, static=static).to(dtype)


SCIPY = ["scipy"] if find_spec("scipy") else []  # its matrices, where it is installed


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.from_pretrained(write_vocabulary(tmp_path_factory.mktemp("v"), config={"do_lower_case": True}))


@pytest.fixture
def encoder(tokenizer):
    return make(tokenizer)


def expected(encoder, texts=TEXTS):
    """The formula, text by text: log(1 + relu) of all scores, the highest or the sum over tokens."""
    rows = []
    for text in texts:
        with torch.no_grad():
            weights = encoder.model(**encoder.tokenizer([text], return_tensors="pt")).logits[0].relu().log1p()
        weights = weights.log1p() if encoder.pooling.activation_function == "log1p_relu" else weights
        rows.append(weights.amax(0) if encoder.pooling.pooling_strategy == "max" else weights.sum(0))
    return torch.stack(rows)


def apart(a, b):
    return (a.to_dense() - b.to_dense()).abs().max().item()


def test_the_document_prints_what_it_shows(capsys):
    file = DOCS / "retrieval.md"
    for code, shown in blocks(file.read_text(encoding="utf-8").partition("## Late interaction")[0]):
        run(code, {}, file)
        assert capsys.readouterr().out == shown


# --- Weights


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("size", [1, 7, V])
def test_blocks_give_the_plain_formula(tokenizer, monkeypatch, strategy, activation, fast, size):
    monkeypatch.setattr(vocabulary, "WORDS", size)
    monkeypatch.setattr(vocabulary, "TEXTS", size)
    monkeypatch.setattr(vocabulary.FastHead, "tokens", size)
    encoder = make(tokenizer, SpladePooling(strategy, activation))
    assert apart(encoder.encode(TEXTS * 3, fast=fast), torch.cat([expected(encoder)] * 3)) < 1e-12


@pytest.mark.parametrize("strategy", ["max", "sum"])
def test_only_the_strongest_words_are_kept(tokenizer, strategy):
    encoder = make(tokenizer, SpladePooling(strategy), max_active_dims=4)
    for keep, found in [(4, encoder.encode(TEXTS)), (9, encoder.encode(TEXTS, max_active_dims=9))]:
        weights = expected(encoder)
        lowest = weights.topk(keep, 1).values[:, -1:]
        assert apart(found, weights.where(weights >= lowest, 0)) < 1e-12


def test_scores_of_all_words_for_all_tokens_are_never_in_memory(tokenizer, monkeypatch):
    words = 20_000
    config = replace(TINY, vocab_size=words)
    encoder, texts = (
        make(tokenizer, config=config, dtype=torch.float32, max_active_dims=50),
        ["the cat sat on the mat " * 4] * 100,
    )
    tokens = sum(encoder.tokenizer.encode(texts).lengths)
    monkeypatch.setattr(vocabulary, "WORDS", 128)
    monkeypatch.setattr(vocabulary, "TEXTS", 16)

    class Largest(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, operator, types, arguments=(), options=None):
            result = operator(*arguments, **(options or {}))
            for value in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(value, torch.Tensor) and value.is_floating_point() and value.layout is torch.strided:
                    self.found = max(self.found, value.numel())
            return result

    encoder.encode(texts[:1])  # the head is packed, in blocks of the table
    for fast, bound in ((True, 16 * words * 2), (False, 256 * words)):
        with Largest() as largest:
            assert encoder.encode(texts, fast=fast, save_to_cpu=True).shape == (100, words)
        assert 10_000 < largest.found <= bound < tokens * words / 8


def test_empty_one_and_no_text(encoder):
    assert apart(encoder.encode(""), expected(encoder, [""])[0]) < 1e-12
    assert encoder.encode("the cat").shape == (V,)
    for options in ({}, *({"layout": each} for each in ("csr", *SCIPY)), {"convert_to_sparse_tensor": False}):
        assert encoder.encode([], **options).shape == (0, V)
        assert encoder.encode(["the cat"], **options).shape == (1, V)
    assert encoder.encode([], layout="words") == []
    assert encoder.encode([], convert_to_tensor=False) == []
    assert encoder.encode([]).dtype == torch.float64
    assert isinstance(encoder.encode("the cat", layout="words"), dict)


def test_a_text_without_tokens_has_no_words(tmp_path):
    encoder = SparseEncoder(write_sparse(tmp_path), device="cpu")
    backend = encoder.tokenizer._backend
    backend.post_processor = None
    texts = [*[""] * 150, "the cat", "dog"]
    weights = encoder.encode(texts).to_dense()
    assert (weights != 0).sum(1).bool().tolist() == [False] * 150 + [True] * 2


def test_a_text_has_the_same_bits_alone_and_among_others(tokenizer):
    encoder = make(tokenizer, dtype=torch.float32)
    together = encoder.encode(TEXTS, batch_invariant=True, convert_to_sparse_tensor=False)
    for text, row in zip(TEXTS, together, strict=True):
        assert torch.equal(encoder.encode(text, batch_invariant=True, convert_to_sparse_tensor=False), row)


def test_several_threads_at_once(encoder):
    reference, found = encoder.encode(TEXTS).to_dense(), []
    fresh = copy.deepcopy(encoder)
    threads = [Thread(target=lambda: found.append(fresh.encode(TEXTS).to_dense())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.equal(one, reference) for one in found)


@pytest.mark.parametrize(("dtype", "below"), [("bfloat16", 0.03), ("int8", 0.1)])
def test_other_arithmetics_come_near(tmp_path, dtype, below, recwarn):
    write_sparse(tmp_path)
    reference = SparseEncoder.from_pretrained(tmp_path, device="cpu").encode(TEXTS, convert_to_sparse_tensor=False)
    encoder = SparseEncoder.from_pretrained(tmp_path, device="cpu", dtype=dtype)
    found = encoder.encode(TEXTS, convert_to_sparse_tensor=False)
    assert found.dtype == torch.float32
    assert 0 < (found - reference).norm() / reference.norm() < below


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_the_page(tokenizer, dtype):
    reference = expected(make(tokenizer))
    for strategy in ("max", "sum"):
        encoder = make(tokenizer, SpladePooling(strategy), dtype=dtype)
        found = encoder.encode(TEXTS, convert_to_sparse_tensor=False)
        assert found.dtype == torch.float32
        assert strategy == "sum" or (found - reference).norm() / reference.norm() < 0.05


def test_forward_gives_the_weights_of_encode_with_gradients(encoder):
    batch = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    weights = encoder(**batch)
    assert apart(weights, encoder.encode(TEXTS)) < 1e-12
    weights.sum().backward()
    head = encoder.model.masked_lm
    assert all(value.grad.abs().sum() > 0 for value in (head.bias, head.dense.weight, head.norm.weight))
    assert encoder.model.bert.layers[0].attention.query.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("strategy", ["max", "sum"])
def test_the_gradients_of_the_pooling(strategy):
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    scores = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: SpladePooling(strategy)(x, mask), scores)


# --- What is changed is followed


def test_changed_weights_are_followed(encoder):
    head, table = encoder.model.masked_lm, encoder.model.bert.embeddings.token.weight
    encoder.encode(TEXTS)
    assert encoder._head is not None
    with torch.no_grad():
        for change in (
            lambda: head.bias.add_(0.5),
            lambda: table.mul_(1.5),
            lambda: head.dense.weight.data.mul_(0.5),
            lambda: head.norm.bias.add_(1),
            lambda: setattr(head, "bias", nn.Parameter(head.bias - 0.25)),
            lambda: setattr(head.dense, "weight", nn.Parameter(head.dense.weight * 2)),
            lambda: setattr(head.norm, "eps", 0.5),
        ):
            before = encoder.encode(TEXTS)
            change()
            assert apart(encoder.encode(TEXTS, fast=True), expected(encoder)) < 1e-12
            assert apart(encoder.encode(TEXTS), before) > 1e-3
    torch.optim.AdamW(encoder.parameters(), lr=0.1, fused=True)
    encoder(**random_batch(TINY, (5, 3))).sum().backward()
    torch.optim.AdamW(encoder.parameters(), lr=0.1, fused=True).step()
    assert apart(encoder.encode(TEXTS, fast=True), expected(encoder)) < 1e-12


def test_a_head_that_did_not_change_stays_packed(encoder):
    encoder.encode("the cat")
    before = encoder._head
    encoder.encode("the dog")
    assert encoder._head is before


def test_a_head_of_ones_own_is_used(encoder):
    class Twice(nn.Module):
        def forward(self, x, table):
            return 2 * x @ table.T

    encoder.model.masked_lm = Twice()
    assert apart(encoder.encode(TEXTS), expected(encoder)) < 1e-12
    with pytest.raises(ValueError, match="fast=True, but the page computes: masked_lm is Twice"):
        encoder.encode(TEXTS, fast=True)
    assert "layers.0    fast" in encoder.explain()
    assert encoder.explain().endswith("masked_lm  page  masked_lm is Twice, not the page's MaskedLMHead")


@pytest.mark.parametrize("part", ["model.masked_lm", "model.masked_lm.dense", "model", "model.bert.layers.0"])
def test_a_hook_sees_the_values_and_can_change_them(encoder, part):
    seen = []
    handle = encoder.get_submodule(part).register_forward_hook(lambda *_: seen.append(1))
    assert apart(encoder.encode(TEXTS), expected(encoder)) < 1e-12
    assert seen
    handle.remove()
    assert apart(encoder.encode(TEXTS, fast=True), expected(encoder)) < 1e-12


def test_a_model_of_ones_own_is_called(tokenizer):
    class Doubled(BertForMaskedLM):
        def read(self, out):
            output = super().read(out)
            return output._replace(logits=2 * output.logits)

    encoder = SparseEncoder(widen(Doubled(TINY)).double().eval(), tokenizer)
    assert apart(encoder.encode(TEXTS), expected(encoder)) < 1e-12
    assert "the model is Doubled" in encoder.explain()


def test_a_copy_and_a_pickle_give_the_same(encoder):
    reference = encoder.encode(TEXTS).to_dense()
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert other._head is None
        assert torch.equal(other.encode(TEXTS).to_dense(), reference)


# --- Finished vectors


def test_words_are_named_and_sorted(encoder):
    row = expected(encoder, ["the cat"])[0]
    best = row.topk(3)
    found = encoder.decode(encoder.encode("the cat"), top_k=3)
    assert found == [(VOCABULARY[i], pytest.approx(x)) for x, i in zip(*map(torch.Tensor.tolist, best), strict=True)]
    assert dict(found).items() <= encoder.encode("the cat", layout="words").items()
    assert len(encoder.decode(encoder.encode("the cat"))) == (row > 0).sum()
    assert encoder.decode(torch.zeros(2, V)) == [[], []]
    assert encoder.decode(torch.zeros(0, V).to_sparse()) == []


def test_a_row_of_the_table_without_a_word_has_a_number(tokenizer):
    encoder = make(tokenizer, config=replace(TINY, vocab_size=V + 3))
    assert encoder.decode(torch.eye(V + 3)[[V + 1, 7]], 1) == [[(f"#{V + 1}", 1.0)], [(VOCABULARY[7], 1.0)]]


@pytest.mark.parametrize("measure", vectors.SIMILARITIES)
def test_similarities_are_those_of_dense_vectors(encoder, measure, monkeypatch):
    monkeypatch.setattr(sparse_vectors, "BLOCK", 2)
    encoder.similarity_fn_name = measure
    a, b = encoder.encode(TEXTS, max_active_dims=30), encoder.encode(TEXTS[::-1][:5], max_active_dims=30)
    reference = vectors.similarity(a.to_dense(), b.to_dense(), measure)
    for form in (lambda x: x, lambda x: x.to_sparse_csr(), torch.Tensor.to_dense, lambda x: x.to_dense().numpy(), list):
        assert (encoder.similarity(form(a), b) - reference).abs().max() < 1e-12
        assert (encoder.similarity(a, form(b)) - reference).abs().max() < 1e-12
    assert (encoder.similarity(a[0], b) - reference[:1]).abs().max() < 1e-12
    pairs = encoder.similarity_pairwise(a, a.index_select(0, torch.tensor([1, 0, 2, 3, 5, 4])))
    square = vectors.similarity(a.to_dense(), a.to_dense(), measure)
    assert (pairs - square[torch.arange(6), [1, 0, 2, 3, 5, 4]]).abs().max() < 1e-12


@pytest.mark.parametrize("size", [1e-4, 1.0, 300.0])
def test_float16_vectors_of_any_length_have_cosines(encoder, size):
    """The squares of 1e-4 and 300 are beyond float16."""
    encoder.similarity_fn_name = "cosine"
    a = (torch.eye(2, V) * size).half()
    assert encoder.similarity(a, a).tolist() == [[1, 0], [0, 1]]


def test_vectors_that_do_not_fit_are_refused(encoder):
    a = encoder.encode(TEXTS)
    with pytest.raises(ValueError, match="of different widths: 99 and 98"):
        encoder.similarity(a, torch.zeros(2, 98))
    with pytest.raises(ValueError, match="as many vectors on both sides, not 6 and 1"):
        encoder.similarity_pairwise(a, a[0])
    with pytest.raises(ValueError, match="the vectors have 98 numbers, and the model has 99 words"):
        encoder.decode(torch.zeros(2, 98))
    with pytest.raises(ValueError, match="expected vectors"):
        encoder.similarity(torch.zeros(2, 3, V), a)
    for form in (a, a.to_sparse_csr(), *(encoder.encode(TEXTS, layout=each) for each in SCIPY)):
        with pytest.raises(ValueError, match="these vectors are sparse: compare them by SparseEncoder"):
            vectors.similarity(form, form)
    with pytest.raises(ValueError, match="similarity must be one of cosine, dot"):
        sparse_vectors.similarity(a, a, "maxsim")


def test_sparsity_counts_words(encoder):
    matrix = torch.zeros(2, V)
    matrix[0, :3] = 1
    expected = {"active_dims": 1.5, "sparsity_ratio": 1 - 1.5 / V}
    assert encoder.sparsity(matrix) == encoder.sparsity(matrix.to_sparse()) == pytest.approx(expected)
    assert encoder.sparsity(encoder.encode([])) == {"active_dims": 0.0, "sparsity_ratio": 1.0}


# --- Queries without a model


@pytest.fixture
def static(tokenizer):
    weight = torch.arange(V) / 10.0
    weight[VOCABULARY.index("dog")] = 0
    return StaticQueries(weight, tokenizer, ["query"], frozen=True)


def test_static_queries_never_call_the_model(tokenizer, static):
    encoder = make(tokenizer, static=static)
    encoder.model.register_forward_pre_hook(lambda *_: pytest.fail("the model was called"))
    words = encoder.encode_query(["the cat the dog", ""], layout="words")
    assert words == [{word: pytest.approx(VOCABULARY.index(word) / 10) for word in ("the", "cat")}, {}]
    assert encoder.encode_query("the cat", max_active_dims=1, layout="words").keys() == {"cat"}
    assert encoder.encode_query([]).shape == (0, V)
    with pytest.raises(TypeError, match=r"SparseEncoder\.encode got an unexpected keyword argument: devise"):
        encoder.encode_query("the cat", devise=1)
    with pytest.raises(TypeError, match="text 1 is None, not a string"):
        encoder.encode_query(["the cat", None])


def test_static_weights_of_another_vocabulary_are_refused(tokenizer):
    static = StaticQueries(torch.ones(98), tokenizer, ["query"], frozen=True)
    with pytest.raises(ConfigError, match="the static weights are of 98 words, the masked LM's of 99"):
        make(tokenizer, static=static)


# --- Bad input


def test_wrong_values_are_refused_by_name(encoder):
    for option, value, text in (
        ("layout", "dense", "layout must be one of coo, csr, scipy, words"),
        ("task", "passage", "task must be one of query, document, not 'passage'"),
        ("max_active_dims", 0, "max_active_dims must be a whole number, at least 1, not 0"),
        ("max_active_dims", 2.5, "max_active_dims must be a whole number"),
    ):
        with pytest.raises(ValueError, match=text):
            encoder.encode("the cat", **{option: value})
    with pytest.raises(ValueError, match="and 'coo' for lists and dense tensors, not 'csr'"):
        encoder.encode("the cat", layout="csr", convert_to_tensor=False)
    with pytest.raises(TypeError, match=r"SparseEncoder\.encode got an unexpected keyword argument: devise"):
        encoder.encode("the cat", devise="cpu")
    with pytest.raises(ValueError, match="top_k must be"):
        encoder.decode(encoder.encode("the cat"), top_k=0)
    with pytest.raises(ValueError, match="the model has no prompt 'title'"):
        encoder.encode("the cat", prompt_name="title")
    with pytest.raises(TooLongError):
        encoder.encode("the cat " * 30, truncation="error")


@pytest.mark.parametrize(("name", "value"), [("pooling_strategy", "mean"), ("activation_function", "gelu")])
def test_an_unknown_pooling_is_refused_by_name(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} '{value}' is unknown: choose "):
        SpladePooling(**{name: value})
    write_sparse(tmp_path)
    write_json(tmp_path, "1_SpladePooling/config.json", {name: value})
    with pytest.raises(ConfigError, match=f"1_SpladePooling/config.json: {name} '{value}' is unknown: choose "):
        SparseEncoder.from_pretrained(tmp_path)
    write_json(tmp_path, "1_SpladePooling/config.json", {"temperature": 2})
    with pytest.raises(ConfigError, match="minibert does not know the setting temperature"):
        SparseEncoder.from_pretrained(tmp_path)


def test_other_modules_are_refused_by_name(tmp_path):
    write_sparse(tmp_path, modules=("MLMTransformer", "SpladePooling", "SparseAutoEncoder"))
    with pytest.raises(ConfigError, match="MLMTransformer, SpladePooling, SparseAutoEncoder: minibert computes"):
        SparseEncoder.from_pretrained(tmp_path)
    write_sparse(tmp_path, modules=("Transformer", "SpladePooling"))
    with pytest.raises(ConfigError, match="no transformer_task, so there are no scores of words"):
        SparseEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("transformer_task", "feature-extraction"),
        ("module_output_name", "sentence_embedding"),
        ("modality_config", {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}),
        ("query_length", 32),
        ("processing_kwargs", {"text": {"max_length": 4}}),
    ],
)
def test_settings_of_the_model_that_give_other_numbers_are_refused(tmp_path, name, value):
    write_sparse(tmp_path, sentence_bert_config={name: value})
    with pytest.raises(ConfigError, match=rf"sentence_bert_config\.json: .*{name}"):
        SparseEncoder.from_pretrained(tmp_path)
    write_sparse(tmp_path, sentence_bert_config={"max_seq_length": 9, "query_length": None, "processing_kwargs": {}})
    assert SparseEncoder.from_pretrained(tmp_path).max_seq_length == 9


def test_a_checkpoint_without_the_head(tmp_path):
    write_encoder(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"(?s)cls\.predictions\.bias.*hold the weights of Bert: load them as such"
    ):
        SparseEncoder.from_pretrained(tmp_path)


def test_the_folder_of_another_kind(tmp_path):
    write_sparse(tmp_path)
    with pytest.raises(ConfigError, match="is for SparseEncoder, not for SentenceEncoder: load it by SparseEncoder"):
        SentenceEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"max_active_dims": 0}, "max_active_dims must be a whole number"),
        ({"similarity_fn_name": "maxsim"}, "similarity_fn_name must be one of cosine, dot"),
        ({"prompts": 3}, "prompts must map names to texts"),
    ],
)
def test_damaged_settings_are_named(tmp_path, settings, text):
    write_sparse(tmp_path, config_sentence_transformers=settings)
    with pytest.raises(ConfigError, match=f"config_sentence_transformers.json: {text}"):
        SparseEncoder.from_pretrained(tmp_path)


ROUTES = {"query": ["q"], "document": ["d", "p"]}
TYPES = {"q": SPLADE + "SparseStaticEmbedding", "d": SPLADE + "MLMTransformer", "p": SPLADE + "SpladePooling"}


@pytest.mark.parametrize(
    ("router", "text"),
    [
        ({}, "expected the objects types, structure and parameters"),
        ({"types": TYPES, "structure": {"query": ["x"], "document": ["d", "p"]}}, "structure names 'x'"),
        ({"types": TYPES, "structure": {"query": ["d", "p"], "document": ["q"]}}, "one masked LM for documents"),
        ({"types": TYPES, "structure": {"document": ["d", "p"]}}, "no route for query: it has 'document'"),
        ({"types": TYPES | {"q": "a.Dense"}, "structure": ROUTES}, "one masked LM for documents"),
        ({"types": TYPES, "structure": ROUTES, "parameters": {"route_mappings": {"(": "query"}}}, "route_mappings"),
        ({"types": TYPES, "structure": ROUTES, "parameters": {"route_mappings": ["query"]}}, "route_mappings"),
        ({"types": TYPES, "structure": ROUTES, "parameters": {"route_mappings": {"[]": "query"}}}, "route_mappings"),
        ({"types": TYPES, "structure": ROUTES, "parameters": {"default_route": ["query"]}}, "no route for texts"),
        ({"types": TYPES, "structure": ROUTES, "parameters": {"mix": True}}, "does not know the setting mix"),
        ({"types": TYPES, "structure": {**ROUTES, "query": "q"}}, "structure must map routes to lists of modules"),
        ({"types": TYPES, "structure": {**ROUTES, "query": []}}, "structure must map routes to lists of modules"),
        ({"types": TYPES, "structure": [1]}, "expected the objects"),
    ],
)
def test_other_routers_are_refused(tmp_path, router, text):
    write_json(tmp_path, "config.json", {})
    write_json(tmp_path, "modules.json", [{"path": "", "type": "sentence_transformers.models.Router"}])
    write_json(tmp_path, "config_sentence_transformers.json", {"model_type": "SparseEncoder"})
    write_json(tmp_path, "router_config.json", router)
    with pytest.raises(ConfigError, match=rf"router_config\.json: .*{text}"):
        SparseEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"config": {"frozen": "no"}}, "frozen must be true or false"),
        ({"config": {"scale": 2}}, "does not know the setting scale"),
        ({"config": {"path": "idf.json"}, "idf": {"the": "high"}}, "the weight of 'the' is not a number"),
        ({"config": {"path": "/elsewhere/idf.json"}}, "has no file idf.json"),
        ({}, "has no weights that minibert reads"),
    ],
)
def test_damaged_static_weights_are_named(tokenizer, static, tmp_path, files, text):
    make(tokenizer, static=static).save_pretrained(tmp_path)
    place = tmp_path / "query_0_SparseStaticEmbedding"
    (place / "model.safetensors").unlink()
    for name, values in files.items():
        write_json(place, f"{name}.json", values)
    with pytest.raises((CheckpointError, ConfigError, HubError), match=text):
        SparseEncoder.from_pretrained(tmp_path)


def test_a_pooling_of_ones_own_is_used_and_not_saved(tokenizer, tmp_path):
    class Second(SpladePooling):
        def reduce(self, scores, mask=None):
            return scores[:, :1].amax(1)

    encoder = make(tokenizer, Second())
    first = torch.stack([encoder.model(**tokenizer([text], return_tensors="pt")).logits[0, 0] for text in TEXTS])
    assert apart(encoder.encode(TEXTS), first.relu().log1p().detach()) < 1e-12
    with pytest.raises(ConfigError, match="Second is not a module of sentence-transformers"):
        encoder.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_is_saved_is_loaded_again(tokenizer, static, tmp_path):
    for i, more in enumerate(({}, {"static": static})):
        encoder = make(tokenizer, SpladePooling("sum", "log1p_relu"), max_active_dims=7, **more)
        encoder.prompts, encoder.similarity_fn_name = {"query": "who "}, "cosine"
        encoder.save_pretrained(tmp_path / str(i))
        again = SparseEncoder.from_pretrained(tmp_path / str(i), dtype="float64", device="cpu")
        for method in ("encode", "encode_query", "encode_document"):
            assert apart(getattr(encoder, method)(TEXTS), getattr(again, method)(TEXTS)) < 1e-6
        assert (again.similarity_fn_name, again.max_active_dims) == ("cosine", 7)


def test_the_number_of_words_is_a_keyword_of_loading(tmp_path):
    folder = write_sparse(tmp_path)
    assert SparseEncoder(folder, max_active_dims=3).max_active_dims == 3
    for load in (SentenceEncoder, SparseEncoder):
        with pytest.raises(TypeError, match=r"unexpected keyword: (truncate_dim|max_active_dims)"):
            load.from_pretrained(folder, **{"truncate_dim" if load is SparseEncoder else "max_active_dims": 3})
    with pytest.raises(ValueError, match="max_active_dims"):
        SparseEncoder(folder, max_active_dims=-1)


def test_no_attribute_is_set_in_vain(encoder):
    with pytest.raises(AttributeError, match="max_length of a SparseEncoder can't be set: set max_seq_length"):
        encoder.max_length = 9
    with pytest.raises(TypeError, match=r"tokenizer must be a Tokenizer of minibert, .* not int"):
        encoder.tokenizer = 1
