"""The heads by themselves: what they are made of, what may be left aside, folders, and one clear error for the rest."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers import TINY, random_batch, widen
from torch import nn

import minibert
from minibert import (
    Bert,
    BertConfig,
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
    CheckpointError,
    ClassifierConfig,
    ConfigError,
)
from minibert.checkpoint.names import HEAD_NAMES, NEEDED, PUBLISHED_NAMES, RELATIVE_NAMES, published_name
from minibert.checkpoint.tensorflow import read_tf1
from minibert.config import MOST_LABELS
from minibert.fused import fuse
from minibert.heads import BertWithHead

FIXTURE = Path(__file__).parent / "fixtures" / "tf1"
SAFETENSORS = "model.safetensors"
LABELLED = ClassifierConfig(**dataclasses.asdict(TINY), num_labels=3)
HEADS = {
    BertForMaskedLM: TINY,
    BertForNextSentencePrediction: TINY,
    BertForPreTraining: TINY,
    BertForSequenceClassification: LABELLED,
    BertForTokenClassification: LABELLED,
}
every_head = pytest.mark.parametrize("kind", HEADS, ids=[kind.__name__ for kind in HEADS])
BATCH = random_batch(TINY, (9, 5, 1))


def wide(kind, seed=0):
    return widen(kind(HEADS[kind]), seed).eval()


def rewrite(folder, change):
    """Let the folder's tensors be what the function makes of them."""
    tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(folder / SAFETENSORS).items()}
    change(tensors)
    safetensors.torch.save_file(tensors, folder / SAFETENSORS)


def assert_same(one, other):
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


# --- The table


def test_the_table_with_all_its_rows_is_a_bijection():
    rows = PUBLISHED_NAMES | RELATIVE_NAMES | HEAD_NAMES
    assert len(rows) == len(set(rows.values())) == 13 + 1 + 6


@every_head
def test_every_weight_has_a_published_name_of_its_own(kind):
    names = list(wide(kind).state_dict())
    assert len({published_name(name) for name in names}) == len(names)


def test_every_class_is_in_the_list_of_those_that_errors_advise():
    assert set(NEEDED) == {"Bert", *(kind.__name__ for kind in HEADS)}


# --- The arithmetic


SHAPES = {
    BertForMaskedLM: {"logits": (3, 9, 99)},
    BertForNextSentencePrediction: {"logits": (3, 2)},
    BertForPreTraining: {"prediction_logits": (3, 9, 99), "seq_relationship_logits": (3, 2)},
    BertForSequenceClassification: {"logits": (3, 3)},
    BertForTokenClassification: {"logits": (3, 9, 3)},
}


@every_head
def test_what_comes_out(kind):
    model = wide(kind)
    output = model(**BATCH)._asdict()
    assert {name: tuple(value.shape) for name, value in output.items() if "logits" in name} == SHAPES[kind]
    assert torch.equal(output["last_hidden_state"], model.bert(**BATCH).last_hidden_state)


@every_head
def test_read_is_all_that_a_head_does_with_berts_output(kind):
    model = wide(kind)
    for mine, whole in zip(model.read(model.bert(**BATCH)), model(**BATCH), strict=True):
        assert torch.equal(mine, whole)


@every_head
def test_padding_changes_nothing(kind):
    model = wide(kind).double()
    together = model(**BATCH)
    for row, length in enumerate((9, 5, 1)):
        alone = model(**{name: value[row : row + 1, :length] for name, value in BATCH.items()})
        for mine, padded in zip(alone, together, strict=True):
            same = padded[row, :length] if padded.ndim == 3 else padded[row]
            assert (mine[0] - same).abs().max() < 1e-10


@every_head
def test_prepared_equals_the_page(kind):
    page, fast = wide(kind).double(), wide(kind).double()
    fuse(fast)
    for mine, reference in zip(fast(**BATCH), page(**BATCH), strict=True):
        assert (mine - reference).abs().max() < 1e-10


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertForPreTraining])
def test_the_decoder_is_the_token_embedding(kind):
    model = wide(kind)
    assert sum(parameter.shape == (99, 32) for parameter in model.parameters()) == 1
    before = model(**BATCH)[0]
    with torch.no_grad():
        model.bert.embeddings.token.weight[50] += 1
    change = (model.to_vocabulary(model.bert(**BATCH).last_hidden_state) - before).abs().amax((0, 1))
    assert change[50] > 0.1
    other = nn.Embedding(99, 32)
    model.bert.embeddings.token = other
    model(**BATCH)[0].sum().backward()
    assert other.weight.grad is not None


def test_a_fresh_head_is_as_the_papers():
    model = BertForPreTraining(BertConfig(vocab_size=2000, num_hidden_layers=1))
    assert model.training
    for weight in (model.masked_lm.dense.weight, model.next_sentence.weight):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert not model.masked_lm.bias.any()
    assert not model.masked_lm.dense.bias.any()


# --- Folders


@every_head
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_what_is_saved_is_loaded_bit_by_bit(tmp_path, kind, dtype):
    model = wide(kind).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path, dtype=dtype)
    assert type(loaded) is kind
    assert loaded.config == model.config
    assert loaded.report.complete
    assert loaded.report.known_harmless == ()
    assert not any(part.training for part in loaded.modules())
    assert_same(loaded, model)


@every_head
def test_a_bert_takes_what_is_its_own_and_lists_the_rest(tmp_path, kind):
    model = wide(kind)
    model.save_pretrained(tmp_path)
    bert = Bert.from_pretrained(tmp_path)
    assert_same(bert, model.bert)
    heads = {published_name(name) for name in model.state_dict() if not name.startswith("bert.")}
    assert set(bert.report.known_harmless) == heads != set()


def test_a_derived_class_is_saved_as_what_it_derives_from(tmp_path):
    class Mine(BertForMaskedLM):
        pass

    widen(Mine(TINY)).save_pretrained(tmp_path)
    assert type(Mine.from_pretrained(tmp_path)) is Mine
    assert '"BertForMaskedLM"' in (tmp_path / "config.json").read_text()


@every_head
def test_a_replaced_part_is_refused_by_name(tmp_path, kind):
    model = wide(kind)
    model.bert.layers[1].feed_forward.up = nn.Linear(32, 64)
    model.adapter = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"bert\.layers\.1\.feed_forward\.up\.weight.*adapter\.weight"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_head_of_ones_own_has_no_published_form(tmp_path):
    class Mine(BertWithHead):
        reads_pooler = False

    with pytest.raises(CheckpointError, match=r"Mine has no published form: keep it with torch\.save"):
        Mine(TINY).save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_new_head_on_a_published_encoder(tmp_path):
    bert = widen(Bert(TINY))
    bert.save_pretrained(tmp_path / "bert")
    model = BertForTokenClassification(LABELLED)
    model.bert = Bert.from_pretrained(tmp_path / "bert")
    with pytest.raises(CheckpointError, match=r"bert\.pooler\.dense\.weight"):  # which such a classifier doesn't have
        model.save_pretrained(tmp_path / "model")
    model.bert.pooler = None
    model.save_pretrained(tmp_path / "model")
    assert_same(BertForTokenClassification.from_pretrained(tmp_path / "model"), model)


def test_googles_first_checkpoints_have_both_heads():
    model = BertForPreTraining.from_pretrained(FIXTURE)
    stored = read_tf1(FIXTURE / "bert_model.ckpt.index")
    assert "global_step" in model.report.known_harmless
    assert not any(name.endswith((".weight", ".bias")) for name in model.report.known_harmless)
    for ours, theirs in {
        "masked_lm.bias": "cls.predictions.bias",
        "masked_lm.dense.weight": "cls.predictions.transform.dense.weight",
        "masked_lm.norm.weight": "cls.predictions.transform.LayerNorm.gamma",
        "masked_lm.norm.bias": "cls.predictions.transform.LayerNorm.beta",
        "next_sentence.weight": "cls.seq_relationship.weight",
        "next_sentence.bias": "cls.seq_relationship.bias",
    }.items():
        assert torch.equal(model.state_dict()[ours], stored[theirs].read()), ours


# --- The tied decoder

DECODER, BIAS = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"
TABLE, OWN_BIAS = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"


@pytest.fixture
def masked(tmp_path):
    wide(BertForMaskedLM).save_pretrained(tmp_path)
    return tmp_path


TWICE = {
    "both": lambda t: t.update({DECODER: t[TABLE].clone(), BIAS: t[OWN_BIAS].clone()}),
    "the matrix": lambda t: t.update({DECODER: t[TABLE].clone()}),
    "the bias": lambda t: t.update({BIAS: t[OWN_BIAS].clone()}),
    "the bias by its other name only": lambda t: t.update({BIAS: t.pop(OWN_BIAS)}),
    "the matrix by its other name only": lambda t: t.update({DECODER: t.pop(TABLE)}),
}


@pytest.mark.parametrize("change", TWICE.values(), ids=TWICE)
def test_second_names_of_the_tied_tensors(masked, change):
    rewrite(masked, change)
    loaded = BertForMaskedLM.from_pretrained(masked)
    assert set(loaded.report.known_harmless) <= {DECODER, BIAS}
    assert loaded.report.known_harmless != ()
    assert_same(loaded, wide(BertForMaskedLM))


UNTIED = {
    DECODER: lambda t: t.update({DECODER: t[TABLE] + (torch.arange(99) == 98)[:, None]}),
    BIAS: lambda t: t.update({BIAS: t[OWN_BIAS] + (torch.arange(99) == 98)}),
    f"{DECODER} ": lambda t: t.update({DECODER: t[TABLE][:98].clone()}),
}


@pytest.mark.parametrize("name", UNTIED)
def test_a_decoder_of_its_own_does_not_matter_to_others(masked, name):
    rewrite(masked, UNTIED[name])
    assert name.strip() in Bert.from_pretrained(masked).report.known_harmless


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertForPreTraining])
@pytest.mark.parametrize("said", [True, False])
def test_a_decoder_of_its_own_is_loaded_computed_and_saved(tmp_path, kind, said):
    wide(kind).save_pretrained(tmp_path, tie_word_embeddings=said)
    rewrite(tmp_path, UNTIED[DECODER])
    model, tied = kind.from_pretrained(tmp_path), wide(kind)
    assert any("a matrix of its own" in note for note in model.report.notes)
    change = (model(**BATCH)[0] - tied(**BATCH)[0]).abs().amax((0, 1))
    assert change[98] > 0.1
    assert change[:98].max() == 0
    model.save_pretrained(tmp_path)
    assert_same(kind.from_pretrained(tmp_path), model)
    assert {DECODER, BIAS, OWN_BIAS} < safetensors.torch.load_file(tmp_path / "model.safetensors").keys()
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_decoder_that_config_json_promises_must_be_there(masked):
    change = json.loads((masked / "config.json").read_text()) | {"tie_word_embeddings": False}
    (masked / "config.json").write_text(json.dumps(change))
    with pytest.raises(CheckpointError, match=rf"1 missing from the files:\n.*{DECODER}"):
        BertForMaskedLM.from_pretrained(masked)


def test_a_decoder_of_another_shape_is_refused(masked):
    rewrite(masked, UNTIED[f"{DECODER} "])
    with pytest.raises(CheckpointError, match=rf"{DECODER}: \(98, 32\) in the files, \(99, 32\)"):
        BertForMaskedLM.from_pretrained(masked)


def test_the_bias_of_the_decoder_goes_before_the_other(masked):
    rewrite(masked, UNTIED[BIAS])
    assert torch.equal(
        BertForMaskedLM.from_pretrained(masked).masked_lm.bias[98], wide(BertForMaskedLM).masked_lm.bias[98] + 1
    )


# --- What is missing, what is left over


@every_head
@pytest.mark.parametrize("other", HEADS, ids=lambda other: f"from {other.__name__}")
def test_what_a_checkpoint_lacks_for_a_head_is_named_with_the_classes_that_fit(tmp_path, kind, other):
    source = wide(other)
    source.save_pretrained(tmp_path)
    wanted, there = ({published_name(name) for name in wide(each).state_dict()} for each in (kind, other))
    if "Classification" in kind.__name__ and "Classification" in other.__name__ and kind is not other:
        with pytest.raises(CheckpointError, match=f"config.json says {other.__name__}: load it as that, not as"):
            kind.from_pretrained(tmp_path)
    elif wanted <= there:
        loaded = kind.from_pretrained(tmp_path)
        assert loaded.report.complete
        assert {
            f"bert.{name}" if name.startswith(("emb", "enc", "pool")) else name for name in loaded.report.used
        } == wanted
    else:
        with pytest.raises(CheckpointError) as caught:
            kind.from_pretrained(tmp_path)
        lines = str(caught.value).splitlines()
        lacking = wanted - there
        assert {line.strip() for line in lines[2:-1]} == {name.removeprefix("bert.") for name in lacking}
        advised = lines[-1].removeprefix("  The files hold the weights of ").removesuffix(": load them as such.")
        assert advised.split(" or ")[0] == "Bert"
        assert other.__name__ in advised.split(" or ")
        assert kind.__name__ not in advised.split(" or ")


def test_no_advice_where_more_than_a_head_is_wrong(tmp_path):
    wide(BertForMaskedLM).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: (t.pop(OWN_BIAS), t.pop(TABLE)))
    with pytest.raises(CheckpointError, match=r"2 missing") as caught:
        BertForMaskedLM.from_pretrained(tmp_path)
    assert "load them as" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (BertForMaskedLM, "cls.predictions.adapter.weight"),
        (BertForPreTraining, "cls.seq_relationship.second.weight"),
        (BertForSequenceClassification, "classifier.out_proj.weight"),
        (BertForTokenClassification, "classifier.2.bias"),
        (BertForNextSentencePrediction, "pooler.second.weight"),
    ],
)
def test_a_tensor_of_the_very_head_that_is_loaded_is_not_harmless(tmp_path, kind, name):
    wide(kind).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: t.update({name: torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=rf"1 unexpected in the files:\n    {name}"):
        kind.from_pretrained(tmp_path)


@every_head
def test_other_heads_and_leftovers_are_harmless_and_listed(tmp_path, kind):
    wide(kind).save_pretrained(tmp_path)
    own = {
        name
        for name in ("cls.predictions", "cls.seq_relationship", "classifier")
        for o in wide(kind).state_dict()
        if published_name(o).startswith(name)
    }
    others = {"cls.predictions", "cls.seq_relationship", "classifier", "qa_outputs"} - own
    extra = {*(f"{name}.weight" for name in others), "bert.embeddings.position_ids", "global_step"}
    rewrite(tmp_path, lambda t: t.update({name: torch.zeros(2) for name in extra}))
    report = kind.from_pretrained(tmp_path).report
    assert set(report.known_harmless) == {name.removeprefix("bert.") for name in extra}


def test_a_pooler_that_no_head_reads_is_left_aside(tmp_path):
    wide(BertForPreTraining).save_pretrained(tmp_path)
    model = BertForMaskedLM.from_pretrained(tmp_path)
    assert model.bert.pooler is None
    assert {"pooler.dense.weight", "pooler.dense.bias"} < set(model.report.known_harmless)


def test_a_classifier_of_another_width_is_said_with_both_shapes(tmp_path):
    wide(BertForSequenceClassification).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: t.update({"classifier.weight": torch.zeros(4, 32)}))
    with pytest.raises(CheckpointError, match=r"classifier\.weight: \(4, 32\) in the files, \(3, 32\) by config\.json"):
        BertForSequenceClassification.from_pretrained(tmp_path)


def test_labels_that_would_fill_the_memory_are_refused(tmp_path):
    wide(BertForSequenceClassification).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    start, end = text.index('"id2label"'), text.index('"problem_type"')
    (tmp_path / "config.json").write_text(f'{text[:start]}"num_labels": {10**12}, {text[end:]}')
    with pytest.raises(ConfigError, match=f"num_labels must be a whole number from 1 to {MOST_LABELS}"):
        BertForSequenceClassification.from_pretrained(tmp_path)


# --- Labels


def test_labels_by_number_or_by_name():
    assert ClassifierConfig().id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert ClassifierConfig(num_labels=1).label2id == {"LABEL_0": 0}
    named = ClassifierConfig(id2label={"0": "no", "1": "maybe", "2": "yes"})
    assert named.num_labels == 3
    assert named.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert named.label2id == {"no": 0, "maybe": 1, "yes": 2}
    assert hash(named) == hash(ClassifierConfig(id2label={0: "no", 1: "maybe", 2: "yes"}))


@pytest.mark.parametrize("values", [{}, {"num_labels": 7}, {"id2label": {3: "x"}, "label2id": {"x": 3}}], ids=str)
def test_labels_survive_the_way_through_config_json(tmp_path, values):
    config = ClassifierConfig(**values, problem_type="regression", classifier_dropout=0.3)
    minibert.checkpoint.save.write_json(config.to_dict(), tmp_path / "config.json")
    assert ClassifierConfig.from_file(tmp_path / "config.json") == config


def test_in_a_file_the_names_go_before_the_number():
    said = BertConfig().to_dict() | {"num_labels": 2, "id2label": {"0": "a", "1": "b", "2": "c"}}
    assert ClassifierConfig.from_dict(said).num_labels == 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_labels": 0}, "num_labels must be a whole number from 1"),
        ({"num_labels": True}, "num_labels must be a whole number from 1"),
        ({"num_labels": "3"}, "num_labels must be a whole number from 1"),
        ({"num_labels": 3, "id2label": {0: "a", 1: "b"}}, "num_labels is 3, but id2label has 2 names"),
        ({"id2label": {}}, "id2label must map numbers to names"),
        ({"id2label": ["a", "b"]}, "id2label must map numbers to names"),
        ({"id2label": {"zero": "a"}}, "id2label must map numbers to names"),
        ({"id2label": {0: 1}}, "id2label must map numbers to names"),
        ({"label2id": ["a"]}, "label2id must map names to numbers"),
        ({"problem_type": "ranking"}, "problem_type 'ranking' is unknown"),
        ({"classifier_dropout": 1.5}, "classifier_dropout must be null or a probability"),
        ({"classifier_dropout": "0.1"}, "classifier_dropout must be null or a probability"),
        ({"hidden_size": 33}, "hidden_size 33 must be a multiple"),
    ],
    ids=str,
)
def test_bad_labels_are_refused_by_name(values, words):
    with pytest.raises(ConfigError, match=words):
        ClassifierConfig(**values)


@pytest.mark.parametrize("rate", [None, 0.0, 0.4])
def test_the_classifiers_dropout_is_its_own_or_the_hidden_one(rate):
    config = dataclasses.replace(LABELLED, classifier_dropout=rate, hidden_dropout_prob=0.25)
    for kind in (BertForSequenceClassification, BertForTokenClassification):
        assert kind(config).dropout.p == (0.25 if rate is None else rate)


def test_a_classifier_needs_to_know_its_labels():
    with pytest.raises(TypeError, match="BertForTokenClassification needs a ClassifierConfig, not BertConfig"):
        BertForTokenClassification(TINY)


def test_google_s_files_say_no_labels(tmp_path):
    """Their classifiers have names of no model: the error says what is missing."""
    for path in FIXTURE.iterdir():
        shutil.copy(path, tmp_path)
    with pytest.raises(CheckpointError, match=r"classifier\.weight"):
        BertForSequenceClassification.from_pretrained(tmp_path)
