"""A folder of one kind opened as another is refused with the name of the class that fits."""

from __future__ import annotations

import pytest
from helpers import TINY, widen
from tiny_folder import MEAN, MODULE, write_cross_encoder, write_encoder, write_json

from minibert import Bert, BertForMaskedLM, ConfigError, CrossEncoder, SentenceEncoder
from minibert.checkpoint.hub import open_files
from minibert.checkpoint.kinds import kind_of
from minibert.cli import main
from minibert.pooling import POOLINGS

SPARSE, BASE = "sentence_transformers.sparse_encoder.", "sentence_transformers.base.modules."
NEW = f"{BASE}transformer.Transformer"
ROUTED = {"types": {"query_0": f"{SPARSE}models.SparseStaticEmbedding", "": f"{SPARSE}models.MLMTransformer"}}


def kind(folder, *types, architectures=("BertModel",), **files):
    """The kind of a folder whose modules.json lists these classes; without any there is none."""
    write_json(folder, "config.json", {"architectures": list(architectures)})
    if types:
        write_json(folder, "modules.json", [{"type": name, "path": ""} for name in types])
    for name, values in files.items():
        write_json(folder, f"{name}.json", values)
    return kind_of(open_files(folder))


@pytest.mark.parametrize(
    ("types", "said", "expected"),
    [
        ([MODULE + "Transformer", MODULE + "Pooling"], None, "SentenceEncoder"),
        ([NEW, "sentence_transformers.sentence_transformer.modules.pooling.Pooling"], "Sentence", "SentenceEncoder"),
        ([MODULE + "BERT", MODULE + "Pooling", MODULE + "Dense"], None, "SentenceEncoder"),
        ([NEW], "Cross", "CrossEncoder"),
        ([NEW, MODULE + "Pooling", MODULE + "Dense"], "Cross", "CrossEncoder"),
        ([f"{SPARSE}models.MLMTransformer", f"{SPARSE}models.SpladePooling"], None, "SparseEncoder"),
        ([NEW, f"{SPARSE}modules.splade_pooling.SpladePooling"], "Sparse", "SparseEncoder"),
        ([NEW, MODULE + "Pooling", f"{SPARSE}models.SparseAutoEncoder"], None, "SparseEncoder"),
        ([NEW, f"{BASE}dense.Dense"], "MultiVector", "MultiVectorEncoder"),
        ([MODULE + "Transformer", "pylate.models.Dense.Dense"], None, "MultiVectorEncoder"),
        ([MODULE + "Transformer"], None, None),
    ],
)
def test_the_modules_tell_the_kind(tmp_path, types, said, expected):
    types_of_said = {"Sentence": "SentenceTransformer", None: None}
    settings = {"model_type": types_of_said.get(said, f"{said}Encoder")}
    assert kind(tmp_path, *types, config_sentence_transformers=settings) == expected


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("BertModel", None),
        ("BertForMaskedLM", None),  # as bert-base-uncased: mean pooling, or SPLADE
        ("BertForTokenClassification", None),
        ("BertForSequenceClassification", "CrossEncoder"),
        ("HF_ColBERT", "MultiVectorEncoder"),
    ],
)
def test_a_folder_without_modules_is_told_by_its_architecture(tmp_path, architecture, expected):
    assert kind(tmp_path, architectures=[architecture]) == expected


def test_a_router_is_told_by_what_it_leads_to(tmp_path):
    assert kind(tmp_path, f"{BASE}router.Router", router_config=ROUTED) == "SparseEncoder"


def test_a_sentence_encoder_with_weights_of_another_head_stays_one(tmp_path):
    types = MODULE + "Transformer", MODULE + "Pooling"
    for architecture in ("BertForMaskedLM", "BertForSequenceClassification"):
        assert kind(tmp_path, *types, architectures=[architecture]) == "SentenceEncoder"


@pytest.mark.parametrize("values", [["x"], [], [{"type": 3}], [{"path": 3, "type": MODULE + "Transformer"}]])
def test_what_is_damaged_is_left_to_the_reader(tmp_path, values):
    write_json(tmp_path, "modules.json", values)
    assert kind_of(open_files(tmp_path)) is None


def test_each_class_names_the_one_that_fits(tmp_path):
    sentences, pairs = write_encoder(tmp_path / "a", ("Pooling", MEAN)), write_cross_encoder(tmp_path / "b")
    with pytest.raises(ConfigError, match=r"a is for SentenceEncoder, not for CrossEncoder: load it by SentenceEnc"):
        CrossEncoder.from_pretrained(sentences)
    with pytest.raises(ConfigError, match=r"b is for CrossEncoder, not for SentenceEncoder: load it by CrossEncoder"):
        SentenceEncoder.from_pretrained(pairs)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_classifier_is_pooled_where_that_was_asked_for(tmp_path, pooling):
    encoder = SentenceEncoder.from_pretrained(write_cross_encoder(tmp_path), pooling=pooling, device="cpu")
    assert encoder.encode("hello").shape == (TINY.hidden_size,)


@pytest.mark.parametrize("kind", [Bert, BertForMaskedLM])
def test_a_bare_bert_is_a_sentence_encoder_with_mean_pooling(tmp_path, kind):
    write_encoder(tmp_path)
    widen(kind(TINY)).save_pretrained(tmp_path)
    assert SentenceEncoder.from_pretrained(tmp_path, device="cpu").pooling.modes == ("mean",)


def test_inspect_shows_the_bert_of_another_kind(tmp_path, capsys):
    assert main(["inspect", str(write_cross_encoder(tmp_path))]) == 0
    assert "the checkpoint is for CrossEncoder: this is its Bert" in capsys.readouterr().out
