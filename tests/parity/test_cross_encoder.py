"""CrossEncoder against sentence-transformers' own: scores, order, activations, labels, folders in both directions."""

import json

import numpy as np
import pytest
import sentence_transformers
import torch
from helpers import parameter_id
from tiny_folder import TEXTS, write_cross_encoder, write_json
from torch import nn

from minibert import CrossEncoder

# Every text with every other; and pairs too long for the tiny model's 40 tokens: by the first, the second, both.
PAIRS = [(first, second) for first in TEXTS for second in TEXTS]
PAIRS += [("the cat " * 30, "food"), ("who is", "man eats food " * 20), ("the cat " * 30, "man eats food " * 20)]
LABELS = [1, 2, 3]


def load(folder, **options):
    """Ours and theirs, float32."""
    ours = CrossEncoder.from_pretrained(folder, device="cpu", truncation="silent", **options)
    return ours, sentence_transformers.CrossEncoder(str(folder), device="cpu")


def assert_same(mine, reference, below):
    mine, reference = np.asarray(mine), np.asarray(reference)
    assert mine.shape == reference.shape
    assert mine.dtype == reference.dtype
    assert np.abs(mine - reference).max() < below * max(1, np.abs(reference).max())


def assert_same_scores(ours, theirs, pairs=PAIRS, **options):
    """In float64, where only the order of summation differs."""
    mine, reference = (model.double().predict(pairs, convert_to_tensor=True, **options) for model in (ours, theirs))
    assert mine.dtype == torch.float64
    assert_same(mine, reference, 1e-10)


@pytest.mark.parametrize("num_labels", LABELS)
@pytest.mark.parametrize("fast", [None, False])
def test_scores(tmp_path, num_labels, fast):
    ours, theirs = load(write_cross_encoder(tmp_path, num_labels), fast=fast)
    assert np.ptp(theirs.predict(PAIRS), axis=0).min() > 0.1  # no two of them are mixed up unseen
    assert_same(ours.predict(PAIRS), theirs.predict(PAIRS), 1e-6)
    assert_same_scores(ours, theirs)


OPTIONS = [
    {"apply_softmax": True},
    {"activation_fn": nn.Identity()},
    {"activation_fn": nn.Tanh()},
    {"activation_fn": torch.exp, "apply_softmax": True},
    {"activation_fn": lambda logits: logits[:, -1]},
    {"batch_size": 1},
    {"batch_size": 5},
    {"convert_to_tensor": True},
    {"convert_to_tensor": True, "convert_to_numpy": False},
    {"convert_to_numpy": False},
    {"prompt": "who is "},
    {"show_progress_bar": False},
]


@pytest.mark.parametrize("num_labels", LABELS)
@pytest.mark.parametrize("options", OPTIONS, ids=parameter_id)
def test_every_option(tmp_path, num_labels, options):
    ours, theirs = load(write_cross_encoder(tmp_path, num_labels))
    for inputs in (PAIRS[:9], PAIRS[4], list(PAIRS[4]), [PAIRS[4]], [list(pair) for pair in PAIRS[:3]]):
        mine, reference = ours.predict(inputs, **options), theirs.predict(inputs, **options)
        assert type(mine) is type(reference)
        assert_same(mine, reference, 1e-5)


@pytest.mark.parametrize("inputs", [np.array(PAIRS[:4]), np.array(PAIRS[3])], ids=["pairs", "a pair"])
def test_arrays_of_text(tmp_path, inputs):
    ours, theirs = load(write_cross_encoder(tmp_path))
    assert_same_scores(ours, theirs, inputs)


DOTTED = ["torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Tanh", "torch.nn.Sigmoid", "torch.nn.ReLU"]


@pytest.mark.parametrize("num_labels", LABELS)
@pytest.mark.parametrize("dotted", DOTTED)
@pytest.mark.parametrize("place", ["oldest", "old", "oldest, and the version", "both", "modules"])
def test_the_checkpoints_activation_wherever_it_stands(tmp_path, num_labels, dotted, place):
    settings = {
        "oldest": {"sbert_ce_default_activation_function": dotted},
        "old": {"sentence_transformers": {"activation_fn": dotted, "version": "4.1.0"}},
        "oldest, and the version": {
            "sentence_transformers": {"version": "4.1.0"},
            "sbert_ce_default_activation_function": dotted,
        },
        "both": {
            "sentence_transformers": {"activation_fn": dotted},
            "sbert_ce_default_activation_function": "torch.nn.modules.activation.GELU",
        },
        "modules": {"sbert_ce_default_activation_function": "torch.nn.modules.activation.GELU"},
    }
    write_cross_encoder(tmp_path, num_labels, **settings[place])
    if place == "modules":
        kind = "sentence_transformers.base.modules.transformer.Transformer"
        write_json(tmp_path, "modules.json", [{"idx": 0, "name": "0", "path": "", "type": kind}])
        write_json(tmp_path, "sentence_bert_config.json", {"transformer_task": "sequence-classification"})
        write_json(
            tmp_path, "config_sentence_transformers.json", {"model_type": "CrossEncoder", "activation_fn": dotted}
        )
    ours, theirs = load(tmp_path)
    assert type(theirs.activation_fn).__name__ == dotted.rsplit(".", 1)[-1]
    assert_same_scores(ours, theirs)


@pytest.mark.parametrize("length", [8, 9, 23])
def test_the_longest_pair(tmp_path, length):
    folder = write_cross_encoder(tmp_path)
    ours = CrossEncoder(folder, max_length=length, truncation="silent", device="cpu")
    theirs = sentence_transformers.CrossEncoder(str(folder), max_length=length, device="cpu")
    assert ours.max_seq_length == theirs.max_seq_length == length
    assert_same_scores(ours, theirs)


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"return_documents": True}, {"activation_fn": nn.Identity()}])
def test_rank(tmp_path, options):
    ours, theirs = load(write_cross_encoder(tmp_path))
    documents = [*TEXTS, "a man eats food", "hello cat", "who"]
    mine, reference = (
        ours.rank("who is on the mat?", documents, **options),
        theirs.rank("who is on the mat?", documents, **options),
    )
    assert [hit.keys() for hit in mine] == [hit.keys() for hit in reference]
    assert [hit["corpus_id"] for hit in mine] == [hit["corpus_id"] for hit in reference]
    assert [hit.get("text") for hit in mine] == [hit.get("text") for hit in reference]
    assert [hit["score"] for hit in mine] == pytest.approx([hit["score"] for hit in reference], abs=1e-6)


# --- The calls of scripts


DOCUMENTS = [*TEXTS, "a man eats food", "hello cat", "who"]
QUERY = "who is on the mat?"


def changed(model, **attributes):
    for name, value in attributes.items():
        setattr(model, name, value)
    return model.predict(PAIRS)


def pooled(model):
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        hits = model.rank(QUERY, DOCUMENTS, pool=pool)
        return [
            model.predict(PAIRS, pool=pool, chunk_size=5),
            model.predict(PAIRS, pool=pool, activation_fn=nn.Tanh(), convert_to_tensor=True).numpy(),
            np.stack(model.predict(PAIRS[:9], pool=pool, convert_to_numpy=False)),
            model.predict(PAIRS[3], pool=pool),
            np.array([hit["score"] for hit in hits]),
        ]
    finally:
        model.stop_multi_process_pool(pool)


CALLS = {
    "max_length": lambda model: changed(model, max_length=9),
    "max_length, read": lambda model: np.array([model.max_length, model.get_max_seq_length()]),
    "max_seq_length": lambda model: changed(model, max_seq_length=9),
    "activation_fn": lambda model: changed(model, activation_fn=nn.Tanh()),
    "default_activation_function": lambda model: np.array(str(model.default_activation_function) == "Sigmoid()", float),
    "activation_fn, read": lambda model: np.array(str(model.activation_fn) == "Sigmoid()", float),
    "num_labels": lambda model: np.array([model.num_labels, model.config.num_labels]),
    "prompts": lambda model: changed(model, prompts={"x": "who is "}, default_prompt_name="x"),
    "by position": lambda model: model.predict(PAIRS, None, "who is ", 4, False, nn.Tanh(), False, True, False, "cpu"),
    "all by position": lambda model: model.predict(
        PAIRS, None, None, 4, False, None, False, True, False, "cpu", None, 3
    ),
    "sentences": lambda model: model.predict(sentences=PAIRS),
    "num_workers": lambda model: model.predict(PAIRS, num_workers=0),
    "activation_fct": lambda model: model.predict(PAIRS, activation_fct=nn.Tanh()),
    "devices": lambda model: model.predict(PAIRS, device=["cpu", "cpu"]),
    "pools": pooled,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.filterwarnings("default")
def test_a_call_gives_what_it_gives_there(tmp_path, call):
    mine, reference = map(call, load(write_cross_encoder(tmp_path)))
    assert type(mine) is type(reference)
    pairs = zip(mine, reference, strict=True) if isinstance(mine, list) else [(mine, reference)]
    for each in pairs:
        assert_same(*each, 1e-5)


@pytest.mark.parametrize("num_labels", LABELS)
def test_processes_and_labels(tmp_path, num_labels):
    ours, theirs = load(write_cross_encoder(tmp_path, num_labels))
    options = {"device": ["cpu", "cpu"], "apply_softmax": True, "chunk_size": 4, "prompt": "who is "}
    assert_same(ours.predict(PAIRS, **options), theirs.predict(PAIRS, **options), 1e-5)


RANKS = [
    {"convert_to_tensor": False},
    {"convert_to_tensor": True, "convert_to_numpy": False, "apply_softmax": True, "num_workers": 0},
    {"activation_fct": nn.Tanh()},
    {"prompt": "who is ", "batch_size": 2, "show_progress_bar": False, "device": "cpu", "pool": None, "chunk_size": 3},
    {"device": ["cpu", "cpu"], "chunk_size": 3},
    [3, True, None, "who is ", 2, False, nn.Tanh(), "cpu", None, 3],
]


@pytest.mark.parametrize("options", RANKS, ids=parameter_id)
def test_every_way_to_rank(tmp_path, options):
    arguments, options = ([], options) if isinstance(options, dict) else (options, {})
    mine, reference = (
        model.rank(QUERY, DOCUMENTS, *arguments, **options) for model in load(write_cross_encoder(tmp_path))
    )
    for a, b in zip(mine, reference, strict=True):
        assert a.keys() == b.keys()
        assert (a["corpus_id"], a.get("text")) == (b["corpus_id"], b.get("text"))
        assert a["score"] == pytest.approx(b["score"], abs=1e-6)


LOADS = [
    {"num_labels": 1},
    {"num_labels": None},
    {"default_activation_function": nn.Tanh()},
    {"automodel_args": {"torch_dtype": "float32"}},
    {"tokenizer_args": None, "config_args": {}, "processor_kwargs": {}, "config_kwargs": None},
    {"cache_dir": None, "keep_in_fp32_modules": [], "model_card_data": None},
]


@pytest.mark.parametrize("options", LOADS, ids=parameter_id)
def test_every_keyword_of_loading(tmp_path, options):
    folder = str(write_cross_encoder(tmp_path))
    classes = CrossEncoder, sentence_transformers.CrossEncoder
    mine, reference = (kind(folder, device="cpu", **options).predict(PAIRS[:9]) for kind in classes)
    assert_same(mine, reference, 1e-5)
    mine, reference = (kind(model_name=folder, device="cpu").predict(PAIRS[:9]) for kind in classes)
    assert_same(mine, reference, 1e-5)


@pytest.mark.parametrize("num_labels", LABELS)
@pytest.mark.parametrize("dotted", [None, "torch.nn.modules.activation.Tanh", "torch.nn.modules.activation.GELU"])
def test_the_activation_is_the_module_that_it_is_there(tmp_path, num_labels, dotted):
    settings = {"sbert_ce_default_activation_function": dotted} if dotted else {}
    ours, theirs = load(write_cross_encoder(tmp_path, num_labels, **settings))
    assert str(ours.activation_fn) == str(theirs.activation_fn)


# --- Folders


@pytest.mark.parametrize("num_labels", LABELS)
@pytest.mark.parametrize("activation", [None, nn.Tanh(), torch.sigmoid])
def test_what_we_save_they_load(tmp_path, num_labels, activation):
    folder = write_cross_encoder(tmp_path / "first", num_labels)
    ours = CrossEncoder(folder, activation_fn=activation, max_length=23, truncation="silent", device="cpu")
    ours.prompts, ours.default_prompt_name = {"query": "who is "}, "query"
    ours.save_pretrained(tmp_path / "ours")
    theirs = sentence_transformers.CrossEncoder(str(tmp_path / "ours"), device="cpu")
    assert theirs.max_seq_length == 23
    again, _ = load(tmp_path / "ours")
    assert np.array_equal(again.predict(PAIRS), ours.predict(PAIRS))
    assert_same_scores(ours, theirs)


def test_what_we_save_they_load_by_config_json_alone_as_their_older_versions_did(tmp_path):
    ours, _ = load(write_cross_encoder(tmp_path / "first"), activation_fn=nn.Tanh())
    ours.save_pretrained(tmp_path / "ours")
    for name in ("modules", "sentence_bert_config", "config_sentence_transformers"):
        (tmp_path / "ours" / f"{name}.json").unlink()
    theirs = sentence_transformers.CrossEncoder(str(tmp_path / "ours"), device="cpu")
    assert isinstance(theirs.activation_fn, nn.Tanh)
    assert_same_scores(ours, theirs)


@pytest.mark.parametrize("num_labels", LABELS)
def test_what_they_save_we_load(tmp_path, num_labels):
    folder = write_cross_encoder(tmp_path / "first", num_labels)
    theirs = sentence_transformers.CrossEncoder(
        str(folder),
        device="cpu",
        activation_fn=nn.Tanh(),
        max_length=23,
        prompts={"query": "who is "},
        default_prompt_name="query",
    )
    theirs.save_pretrained(str(tmp_path / "theirs"), create_model_card=False)
    assert "max_seq_length" not in json.loads((tmp_path / "theirs" / "sentence_bert_config.json").read_text())
    ours, _ = load(tmp_path / "theirs")
    assert ours.max_seq_length == 23
    assert ours.prompts == theirs.prompts
    assert_same_scores(ours, theirs)
    assert_same_scores(ours, theirs, prompt="")
