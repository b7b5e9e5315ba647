"""CrossEncoder by itself: what goes in, what comes out, and one clear error for what can't."""

import threading
from dataclasses import asdict

import numpy as np
import pytest
import torch
from helpers import TINY, parameter_id, random_batch, widen
from tiny_folder import MEAN, TEXTS, write_cross_encoder, write_encoder, write_json, write_vocabulary
from torch import nn

from minibert import (
    Bert,
    BertForSequenceClassification,
    BertForTokenClassification,
    CheckpointError,
    ClassifierConfig,
    ConfigError,
    CrossEncoder,
    HubError,
    SentenceEncoder,
    Tokenizer,
)
from minibert.truncation import TooLongError

PAIRS = [(first, second) for first in TEXTS for second in TEXTS]
LONG = ("the cat sat on the mat. " * 9, "a man eats food " * 3)


@pytest.fixture
def folder(tmp_path):
    return write_cross_encoder(tmp_path / "model")


@pytest.fixture
def encoder(folder):
    return CrossEncoder.from_pretrained(folder, device="cpu")


# --- Scores


@pytest.mark.parametrize("num_labels", [1, 2, 3])
def test_scores_are_the_activated_logits_of_each_pair_by_itself(tmp_path, num_labels):
    encoder = CrossEncoder(write_cross_encoder(tmp_path, num_labels), device="cpu", dtype="float64")
    scores = encoder.predict(PAIRS)
    assert scores.shape == ((36,) if num_labels == 1 else (36, num_labels))
    for pair, score in zip(PAIRS, scores, strict=True):
        batch = encoder.tokenizer(*pair, return_tensors="pt")
        logits = encoder.model(**batch).logits[0]
        expected = torch.sigmoid(logits)[0] if num_labels == 1 else logits
        assert np.abs(score - expected.detach().numpy()).max() < 1e-12


def test_the_second_text_is_the_second_sentence(encoder):
    """Told by its token types, and that matters."""
    batch = encoder.tokenizer("the cat", "sat", return_tensors="pt")
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1]]
    logit = encoder.predict(("the cat", "sat"), activation_fn=nn.Identity())
    assert logit == pytest.approx(encoder(**batch).item(), abs=1e-5)
    as_one = encoder(**batch | {"token_type_ids": torch.zeros_like(batch["token_type_ids"])}).item()
    assert abs(logit - as_one) > 0.01


def test_the_order_is_the_callers(encoder):
    shuffled = [PAIRS[i] for i in np.random.default_rng(0).permutation(len(PAIRS))]
    alone = {pair: encoder.predict(pair) for pair in set(PAIRS)}
    assert encoder.predict(shuffled) == pytest.approx([alone[pair] for pair in shuffled], abs=1e-6)


def test_batch_invariant_scores_are_the_same_bits_alone_and_among_others(encoder):
    together = encoder.predict(PAIRS, batch_invariant=True)
    for order in (slice(None, None, -1), slice(3, 4), slice(5, None, 7)):
        assert np.array_equal(encoder.predict(PAIRS[order], batch_invariant=True), together[order])


def test_a_single_pair_is_a_number_or_a_row(tmp_path, encoder):
    assert encoder.predict(("the cat", "sat")).shape == ()
    three = CrossEncoder(write_cross_encoder(tmp_path / "three", 3), device="cpu")
    assert three.predict(["the cat", "sat"]).shape == (3,)
    assert three.predict([["the cat", "sat"]]).shape == (1, 3)


@pytest.mark.parametrize(("num_labels", "shape"), [(1, (0,)), (3, (0, 3))])
def test_no_pairs_make_no_scores(tmp_path, num_labels, shape):
    encoder = CrossEncoder(write_cross_encoder(tmp_path, num_labels), device="cpu")
    assert encoder.predict([]).shape == shape
    assert encoder.predict([]).dtype == np.float32
    assert encoder.predict([], convert_to_tensor=True).shape == shape
    assert encoder.predict([], convert_to_numpy=False) == []


def test_any_iterable_of_pairs(encoder):
    expected = encoder.predict(PAIRS[:4])
    assert np.array_equal(encoder.predict(iter(PAIRS[:4])), expected)
    assert np.array_equal(encoder.predict(zip(*zip(*PAIRS[:4], strict=True), strict=True)), expected)


@pytest.mark.filterwarnings("ignore:.* times as slow as float32 on this processor")
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "int8"])
def test_scores_have_float32_at_least(folder, dtype):
    scores = CrossEncoder(folder, device="cpu", dtype=dtype).predict(PAIRS, activation_fn=torch.tanh)
    assert scores.dtype == (np.float64 if dtype == "float64" else np.float32)
    exact = CrossEncoder(folder, device="cpu", dtype="float64").predict(PAIRS, activation_fn=torch.tanh)
    assert 1 - np.corrcoef(scores, exact)[0, 1] < (0.1 if dtype == "int8" else 0.01)


def test_a_list_of_tensors_and_a_tensor(encoder):
    listed = encoder.predict(PAIRS[:3], convert_to_numpy=False)
    tensor = encoder.predict(PAIRS[:3], convert_to_tensor=True)
    assert [type(score) for score in listed] == [torch.Tensor] * 3
    assert torch.equal(torch.stack(listed), tensor)
    assert not tensor.requires_grad


def test_dropout_is_off_and_comes_back(encoder):
    expected = encoder.predict(PAIRS[:3])
    encoder.train()
    assert np.array_equal(encoder.predict(PAIRS[:3]), expected)
    assert encoder.model.dropout.training


def test_gradients_flow_through_the_call(encoder):
    batch = random_batch(TINY, (5, 3))
    logits = encoder(**batch)
    assert logits.shape == (2, 1)
    logits.sum().backward()
    assert encoder.model.bert.embeddings.token.weight.grad.abs().sum() > 0


def test_from_several_threads_at_once(encoder):
    expected, found = encoder.predict(PAIRS), []
    threads = [threading.Thread(target=lambda: found.append(encoder.predict(PAIRS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(np.array_equal(scores, expected) for scores in found)


def test_what_is_put_in_place_of_a_part_is_what_computes(encoder):
    encoder.model.classifier = nn.Linear(TINY.hidden_size, 1, bias=False)
    nn.init.zeros_(encoder.model.classifier.weight)
    assert encoder.predict(PAIRS[:3]).tolist() == [0.5, 0.5, 0.5]


# --- Activations


def test_an_activation_may_be_changed_for_a_call_and_for_good(encoder):
    logits = encoder.predict(PAIRS, activation_fn=nn.Identity())
    assert encoder.predict(PAIRS) == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-6)
    for activation in (nn.Tanh(), torch.tanh):
        encoder.activation_fn = activation
        assert encoder.predict(PAIRS) == pytest.approx(np.tanh(logits), abs=1e-6)
    assert "activation_fn" not in dict(encoder.named_children())


@pytest.mark.parametrize("wrong", ["sigmoid", nn.Sigmoid, 1], ids=str)
def test_what_is_no_activation_is_refused_wherever_it_is_given(encoder, folder, wrong):
    kind = "the class Sigmoid" if wrong is nn.Sigmoid else repr(wrong)
    for call in (
        lambda: CrossEncoder(folder, activation_fn=wrong),
        lambda: CrossEncoder(encoder.model, encoder.tokenizer, activation_fn=wrong),
        lambda: encoder.predict(PAIRS, activation_fn=wrong),
        lambda: encoder.rank("who", ["the cat"], activation_fn=wrong),
        lambda: setattr(encoder, "activation_fn", wrong),
        lambda: setattr(encoder, "default_activation_function", wrong),
    ):
        with pytest.raises(TypeError, match=rf"function of the logits, such as torch\.nn\.Sigmoid\(\).* not {kind}"):
            call()
    assert isinstance(encoder.activation_fn, nn.Sigmoid)


def test_an_activation_with_weights_leaves_no_graph_behind(encoder):
    assert encoder.predict(PAIRS[:3], activation_fn=nn.Linear(1, 1)).shape == (3,)


@pytest.mark.parametrize("place", ["config", "modules"])
@pytest.mark.parametrize("dotted", ["my.package.Activation", "torch.nn.modules.activation.Mish", "os.system", 3])
def test_an_activation_that_is_not_on_the_list_is_refused_and_never_imported(tmp_path, place, dotted):
    if place == "config":
        write_cross_encoder(tmp_path, sbert_ce_default_activation_function=dotted)
    else:
        write_cross_encoder(tmp_path)
        write_json(tmp_path, "modules.json", [{"type": "sentence_transformers.models.Transformer", "path": ""}])
        write_json(tmp_path, "config_sentence_transformers.json", {"activation_fn": dotted})
    with pytest.raises(
        ConfigError, match=r"the activation \(or pass activation_fn=...\) .* is not one of torch\.nn\.Ident"
    ):
        CrossEncoder(tmp_path)
    assert CrossEncoder(tmp_path, activation_fn=torch.exp).activation_fn is torch.exp


@pytest.mark.parametrize("activation", [torch.exp, nn.Softplus(), nn.GELU(approximate="tanh")], ids=parameter_id)
def test_an_activation_without_a_published_name_is_not_saved(tmp_path, encoder, activation):
    encoder.activation_fn = activation
    with pytest.raises(ConfigError, match="has no published form: set activation_fn to one of"):
        encoder.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


# --- Prompts and length


def test_a_prompt_stands_before_the_first_text(encoder):
    expected = encoder.predict([("who is the cat", "sat")])
    assert encoder.predict([("the cat", "sat")], prompt="who is ") == expected
    encoder.prompts = {"query": "who is "}
    assert encoder.predict([("the cat", "sat")], prompt_name="query") == expected
    encoder.default_prompt_name = "query"
    assert encoder.predict([("the cat", "sat")]) == expected
    with pytest.raises(ValueError, match="no prompt 'other'; it has 'query'"):
        encoder.predict(PAIRS, prompt_name="other")


def test_what_is_cut_off_is_said(encoder):
    with pytest.warns(UserWarning, match="texts longer than 40 tokens: 1; tokens cut off at their ends: 38"):
        encoder.predict([("the cat", "sat"), LONG])
    assert encoder.truncation_report.lost == {1: 38}


def test_what_is_too_long_is_refused_on_request(folder, encoder):
    with pytest.raises(TooLongError, match="the first is text 1"):
        encoder.predict([("the cat", "sat"), LONG], truncation="error")
    with pytest.raises(TooLongError):
        CrossEncoder(folder, truncation="error", device="cpu").rank(*LONG[:1], [LONG[1]])


def test_the_longest_pair_is_never_longer_than_the_positions(folder, encoder):
    assert encoder.max_seq_length == 40
    encoder.max_seq_length = 1000
    assert encoder.max_seq_length == 40
    assert CrossEncoder(folder, max_length=7, device="cpu").max_seq_length == 7
    for length in (0, True, "9"):
        with pytest.raises(ValueError, match="max_seq_length must be a whole number"):
            CrossEncoder(folder, max_length=length)


def test_the_length_and_lower_case_of_a_folder_with_modules(tmp_path):
    folder = write_cross_encoder(tmp_path)
    write_vocabulary(folder, config={"do_lower_case": False, "tokenizer_class": "BertTokenizer"})
    write_json(folder, "modules.json", [{"type": "sentence_transformers.models.Transformer", "path": ""}])
    write_json(folder, "sentence_bert_config.json", {"max_seq_length": 9, "do_lower_case": True})
    encoder = CrossEncoder(folder, device="cpu", truncation="silent")
    assert encoder.max_seq_length == 9
    assert encoder.predict(("Cat", "Dog")) == encoder.predict(("cat", "dog"))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("config", "change a part of encoder.model"),
        ("device", "call encoder.to"),
        ("num_labels", "that of the checkpoint's classifier"),
        ("processor", "set tokenizer"),
        ("model_card_data", r"README\.md"),
    ],
)
def test_no_attribute_is_set_in_vain(encoder, name, advice):
    for of in (encoder, SentenceEncoder.from_pretrained(device="cpu")):
        with pytest.raises(AttributeError, match=f"^{name} of a {type(of).__name__} can't be set: .*{advice}"):
            setattr(of, name, nn.Identity() if name == "config" else 1)
        assert name not in {**of.__dict__, **of._modules}
        with pytest.raises(TypeError, match=r"tokenizer must be a Tokenizer of minibert, .* not int"):
            of.tokenizer = 1


def test_a_sentence_encoders_length_has_one_name():
    with pytest.raises(AttributeError, match="max_length of a SentenceEncoder can't be set: set max_seq_length"):
        SentenceEncoder.from_pretrained(device="cpu").max_length = 9


def test_a_length_that_is_set_on_the_model_inside_is_an_error(encoder):
    sentences = SentenceEncoder.from_pretrained(device="cpu")
    for of, inside, call in (
        (sentences, sentences[0], lambda: sentences.encode("a")),
        (encoder, encoder.model, lambda: encoder.predict(("the cat", "sat"))),
    ):
        inside.max_seq_length = 16
        with pytest.raises(ValueError, match=r"max_seq_length=16 was set on the model inside.*set the encoder's"):
            call()
        of.max_seq_length = 16
        call()
    assert sentences._first_module() is sentences[0]


# --- Ranking


def test_the_best_comes_first_and_equals_keep_their_order(encoder):
    documents = ["the dog", "hello world", "the dog", "food", "the dog"]
    hits = encoder.rank("who eats?", documents, return_documents=True, batch_invariant=True)
    scores = encoder.predict([("who eats?", document) for document in documents], batch_invariant=True)
    assert sorted(hit["corpus_id"] for hit in hits) == [0, 1, 2, 3, 4]
    assert [hit["score"] for hit in hits] == sorted(scores.tolist(), reverse=True)
    assert [hit["text"] for hit in hits] == [documents[hit["corpus_id"]] for hit in hits]
    assert [hit["corpus_id"] for hit in hits if hit["text"] == "the dog"] == [0, 2, 4]
    assert encoder.rank("who eats?", documents, top_k=2, batch_invariant=True) == [
        {"corpus_id": hit["corpus_id"], "score": hit["score"]} for hit in hits[:2]
    ]
    assert encoder.rank("who eats?", []) == []


def test_ranking_needs_one_score(tmp_path, encoder):
    two = CrossEncoder(write_cross_encoder(tmp_path / "two", 2), device="cpu")
    with pytest.raises(ValueError, match=r"one label, and this one has 2 \(LABEL_0, LABEL_1\)"):
        two.rank("who", ["the cat"])
    with pytest.raises(ValueError, match="top_k must be a whole number, at least 1, not 0"):
        encoder.rank("who", ["the cat"], top_k=0)


# --- Bad input


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        ("the cat", TypeError, "a pair of texts or a list of pairs, not str"),
        (7, TypeError, "a pair of texts or a list of pairs, not int"),
        (["the cat"], ValueError, "pair 0 must be two texts"),
        (["the", "cat", "sat"], ValueError, "pair 0 must be two texts"),
        ([("the", "cat"), ("the", "cat", "sat")], ValueError, "pair 1 must be two texts"),
        ([("the", "cat"), "ab"], ValueError, "pair 1 must be two texts, but is 'ab'"),
        ([("the", "cat"), None], ValueError, "pair 1 must be two texts, but is None"),
        ([("the", "cat"), ("the", None)], TypeError, "the second text of pair 1 is None, not a string"),
        ([("the", "cat"), (3, "cat")], TypeError, "the first text of pair 1 is of type int, not a string"),
        ([("the", "cat"), ("\ud800", "cat")], ValueError, "the first text of pair 1 is not valid Unicode"),
    ],
    ids=str,
)
def test_what_is_no_pair_is_refused(encoder, inputs, error, words):
    with pytest.raises(error, match=words):
        encoder.predict(inputs)


def test_other_bad_values_are_refused(encoder, folder):
    with pytest.raises(ValueError, match="batch_size must be a whole number, at least 1, not 0"):
        encoder.predict(PAIRS, batch_size=0)
    with pytest.raises(ValueError, match="truncation must be one of"):
        encoder.predict(PAIRS, truncation="hide")
    with pytest.raises(ValueError, match="truncation must be one of"):
        CrossEncoder(folder, truncation="hide")
    with pytest.raises(TypeError, match="documents must be a list of texts, not one text"):
        encoder.rank("who", "the cat")
    with pytest.raises(TypeError, match="which brings its own tokenizer"):
        CrossEncoder(folder, encoder.tokenizer)
    for query in (None, 3):
        with pytest.raises(TypeError, match=r"the query is .*, not a string"):
            encoder.rank(query, ["the cat"])
    with pytest.raises(TypeError, match="document 1 is None, not a string"):
        encoder.rank("who", ["the cat", None])
    with pytest.raises(TypeError, match=r"CrossEncoder\.predict got an unexpected keyword argument: batch"):
        encoder.predict(PAIRS, batch=3)
    with pytest.raises(TypeError, match="give what follows the name by its keyword: num_labels"):
        CrossEncoder(folder, 1)
    assert not hasattr(encoder, "fit")


@pytest.mark.parametrize("load", [CrossEncoder, CrossEncoder.from_pretrained])
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"num_labels": 3}, ValueError, r"num_labels=3, but .* has 1 \(LABEL_0\): leave num_labels out"),
        ({"num_labels": 0}, ValueError, "num_labels must be a whole number"),
        ({"pooling": "cls"}, TypeError, "CrossEncoder got an unexpected keyword: pooling; there are activation_fn, "),
        ({"truncate_dim": 3}, TypeError, "CrossEncoder got an unexpected keyword: truncate_dim; there are "),
        ({"processor_kwargs": {"model_max_length": 9}}, TypeError, "takes no processor_kwargs: give max_length"),
        ({"tokenizer_args": {"model_max_length": 9}}, TypeError, "takes no tokenizer_args: give max_length"),
        ({"config_args": {"num_labels": 3}}, TypeError, "takes no config_args: leave it out"),
        ({"classifier_dropout": 0.0}, TypeError, r"takes no classifier_dropout: .*model\.dropout\.p"),
        ({"keep_in_fp32_modules": ["x"]}, TypeError, "takes no keep_in_fp32_modules: .*dtype='float32'"),
    ],
    ids=str,
)
def test_keywords_of_loading_are_refused_by_their_own_names(folder, load, options, error, words):
    with pytest.raises(error, match=words):
        load(folder, **options)


# --- Checkpoints that are none


def test_a_checkpoint_without_a_classifier(tmp_path):
    widen(Bert(TINY)).save_pretrained(tmp_path)
    write_vocabulary(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        CrossEncoder(tmp_path)
    assert str(caught.value).splitlines() == [
        f"{tmp_path}: the weights do not fit config.json",
        "  2 missing from the files:",
        "    classifier.weight",
        "    classifier.bias",
        "  The files hold the weights of Bert: load them as such.",
    ]


def test_a_sentence_encoder(tmp_path):
    write_encoder(tmp_path, ("Pooling", MEAN))
    with pytest.raises(
        ConfigError, match=r"is for SentenceEncoder, not for CrossEncoder: load it by SentenceEncoder\.from_pretrained"
    ):
        CrossEncoder(tmp_path)


def test_a_classifier_of_tokens(tmp_path):
    config = ClassifierConfig(**asdict(TINY), num_labels=1)
    widen(BertForTokenClassification(config)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.json says BertForTokenClassification: load it as that"):
        CrossEncoder(tmp_path)


def test_a_model_and_a_tokenizer_that_do_not_fit(tmp_path, folder):
    model = BertForSequenceClassification.from_pretrained(folder)
    with pytest.raises(TypeError, match="a model needs a Tokenizer"):
        CrossEncoder(model)
    write_vocabulary(tmp_path / "other", pieces=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(200))])
    with pytest.raises(ConfigError, match="ids up to 204, the model knows 99 tokens"):
        CrossEncoder(model, Tokenizer.from_pretrained(tmp_path / "other"))


def test_parts_put_together_are_a_cross_encoder(folder, encoder):
    model, tokenizer = BertForSequenceClassification.from_pretrained(folder), Tokenizer.from_pretrained(folder)
    assert CrossEncoder(model, tokenizer).predict(PAIRS) == pytest.approx(encoder.predict(PAIRS), abs=1e-6)


def test_a_name_without_owner_is_cross_encoders(tmp_path):
    with pytest.raises(HubError, match=r"here, and cross-encoder/ms-marco-MiniLM-L6-v2 has no file"):
        CrossEncoder("ms-marco-MiniLM-L6-v2", cache_dir=tmp_path, local_files_only=True)


def test_the_report_tells_what_was_loaded(encoder, folder):
    assert encoder.report.source == str(folder)
    assert {"classifier.weight", "classifier.bias", "pooler.dense.weight"} < set(encoder.report.used)
    assert encoder.config.id2label == {0: "LABEL_0"}


def test_a_replaced_part_is_not_half_saved(tmp_path, encoder):
    encoder.model.classifier = nn.Linear(TINY.hidden_size, 2)
    with pytest.raises(CheckpointError, match=r"no published form: classifier\.weight, classifier\.bias"):
        encoder.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["reading", "per_token", "pairs"])
def test_a_keyword_that_only_our_own_code_knows_is_refused_by_its_name(folder, name):
    encoder = CrossEncoder.from_pretrained(folder, device="cpu")
    with pytest.raises(TypeError, match=f"CrossEncoder.predict got an unexpected keyword argument: {name}"):
        encoder.predict([("a", "b")], **{name: "cpu"})
    with pytest.raises(TypeError, match=f"CrossEncoder.rank got an unexpected keyword argument: {name}"):
        encoder.rank("a", ["b"], **{name: "cpu"})
