"""Every head against transformers: names, logits, gradients, folders in both directions, fill-mask, the logit lens."""

import dataclasses

import pytest
import safetensors.torch
import torch
import transformers
from helpers import TINY, random_batch, widen
from parity.pair import EXACT, Pair, assert_same
from tiny_folder import write_vocabulary

import minibert
from minibert import BertConfig, BertForMaskedLM, ClassifierConfig
from minibert.checkpoint.names import TIED, canonical_name, published_name
from minibert.model import Activation
from minibert.research.lens import fill_mask, logit_lens

HEADS = [
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
    "BertForSequenceClassification",
    "BertForTokenClassification",
]
every_head = pytest.mark.parametrize("name", HEADS)
LABELLED = ClassifierConfig(**dataclasses.asdict(TINY), id2label={0: "no", 1: "maybe", 2: "yes"})
BATCH = random_batch(TINY, (9, 5, 1))


def make_pair(name, **changes):
    """Tiny, float64, eval, every parameter drawn wide, carried from theirs to ours by our own name table."""
    config = dataclasses.replace(LABELLED if "Classification" in name else TINY, **changes)
    their_config = transformers.BertConfig(**config.to_dict(), attn_implementation="eager")
    theirs = widen(getattr(transformers, name)(their_config)).double().eval()
    ours = getattr(minibert, name)(config).double().eval()
    weights = theirs.state_dict()
    ours.load_state_dict({name: weights[published_name(name)] for name in ours.state_dict()})
    return Pair(ours, theirs)


def logits(output):
    """All logits of a model's output, ours or theirs, by their names."""
    fields = output._asdict() if isinstance(output, tuple) else dict(output)
    return {name: value for name, value in fields.items() if name.endswith("logits")}


def assert_same_logits(ours, theirs, below=EXACT, batch=BATCH):
    mine, reference = logits(ours(**batch)), logits(theirs(**batch))
    assert mine.keys() == reference.keys()
    assert mine
    for name, value in mine.items():
        assert value.shape == reference[name].shape
        assert (value - reference[name]).abs().max() < below, name


# --- The arithmetic


@every_head
def test_published_names_and_shapes_are_those_of_transformers(name):
    ours, theirs = make_pair(name)
    shapes = {published_name(own): value.shape for own, value in ours.state_dict().items()}
    assert shapes == {own: value.shape for own, value in theirs.state_dict().items() if own not in TIED}


@every_head
@pytest.mark.parametrize("lengths", [(9, 5, 1), (7,), (40, 3)], ids=str)
def test_logits(name, lengths):
    assert_same_logits(*make_pair(name), batch=random_batch(TINY, lengths, seed=1))


@every_head
@pytest.mark.parametrize(
    "changes", [{"hidden_act": "gelu_new"}, {"hidden_act": "relu"}, {"layer_norm_eps": 0.1}], ids=str
)
def test_logits_by_the_config(name, changes):
    assert_same_logits(*make_pair(name, **changes))


@pytest.mark.parametrize("number", [1, 2, 7])
@pytest.mark.parametrize("name", ["BertForSequenceClassification", "BertForTokenClassification"])
def test_logits_of_any_number_of_labels(name, number):
    assert_same_logits(*make_pair(name, num_labels=number, id2label=None, label2id=None))


@every_head
def test_every_parameter_has_the_gradient_of_the_reference(name):
    pair = make_pair(name)
    gradients = []
    for model in pair:
        generator = torch.Generator().manual_seed(1)
        loss = torch.zeros((), dtype=torch.float64)
        for value in logits(model(**BATCH)).values():
            weights = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            real = BATCH["attention_mask"].bool() if value.ndim == 3 else slice(None)
            loss = loss + (value * weights)[real].sum()
        loss.backward()
        gradients.append({own: parameter.grad for own, parameter in model.named_parameters()})
    mine, reference = gradients
    assert sorted(map(published_name, mine)) == sorted(reference)
    for own, gradient in mine.items():
        unread = own.startswith("bert.pooler") and name == "BertForTokenClassification"
        assert (gradient is None) == unread
        assert_same(gradient, reference[published_name(own)])


@pytest.mark.parametrize("rate", [None, 0.4])
@pytest.mark.parametrize("name", HEADS)
def test_every_dropout_is_in_its_place_and_has_its_rate(monkeypatch, name, rate):
    """Where chance decides, the two can't be compared. So here it is always the same numbers that are forgotten."""

    def forget_every_fifth(x, p=0.5, training=True, inplace=False):
        kept = (torch.arange(x.numel()) % 5 > 0).view(x.shape)
        return x * kept / (1 - p) if training else x

    own = {"classifier_dropout": rate} if "Classification" in name else {}
    ours, theirs = make_pair(name, hidden_dropout_prob=0.3, **own)
    monkeypatch.setattr(torch.nn.functional, "dropout", forget_every_fifth)
    assert_same_logits(ours.train(), theirs.train())


# --- The comparison would notice


@torch.no_grad()
def bias_lost(ours):
    ours.masked_lm.bias.zero_()


@torch.no_grad()
def another_activation(ours):
    ours.masked_lm.activation = Activation("gelu_new")


@torch.no_grad()
def norm_skipped(ours):
    ours.masked_lm.norm = torch.nn.Identity()


@torch.no_grad()
def transform_skipped(ours):
    ours.masked_lm.dense = torch.nn.Identity()


@torch.no_grad()
def another_table(ours):
    ours.to_vocabulary = lambda x: ours.masked_lm(x, ours.bert.embeddings.token.weight.roll(1, dims=0))


@torch.no_grad()
def the_raw_vector_for_the_pooled(ours):
    ours.bert.pooler.forward = lambda x: x[:, 0]


@torch.no_grad()
def labels_in_another_order(ours):
    ours.classifier.weight.copy_(ours.classifier.weight.flip(0))


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        *(("BertForMaskedLM", make) for make in (bias_lost, another_activation, norm_skipped, transform_skipped)),
        *(("BertForPreTraining", make) for make in (another_table, the_raw_vector_for_the_pooled)),
        ("BertForNextSentencePrediction", the_raw_vector_for_the_pooled),
        *(("BertForSequenceClassification", m) for m in (the_raw_vector_for_the_pooled, labels_in_another_order)),
        ("BertForTokenClassification", labels_in_another_order),
    ],
)
def test_each_mistake_is_noticed(name, mistake):
    pair = make_pair(name)
    mistake(pair.ours)
    with pytest.raises(AssertionError, match="logits"):
        assert_same_logits(*pair, below=1e-6)  # and not narrowly: ten thousand times the tolerance


# --- Folders


@every_head
def test_transformers_loads_what_is_saved_with_nothing_left_over(tmp_path, name):
    ours, _ = make_pair(name)
    ours.save_pretrained(tmp_path)
    theirs, info = getattr(transformers, name).from_pretrained(
        tmp_path, dtype=torch.float64, output_loading_info=True, local_files_only=True
    )
    assert not any(info.values())
    assert_same_logits(ours, theirs.eval())


@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertForPreTraining"])
@pytest.mark.parametrize("said", [True, False])
def test_a_decoder_of_its_own_is_computed_by_both(tmp_path, name, said):
    """transformers 5.23 computes it; 4.57 tied it."""
    ours, theirs = make_pair(name)
    theirs.config.tie_word_embeddings = said
    decoder = theirs.cls.predictions.decoder
    decoder.weight = torch.nn.Parameter(decoder.weight.flip(0).clone())
    theirs.save_pretrained(tmp_path / "theirs")
    ours = getattr(minibert, name).from_pretrained(tmp_path / "theirs", dtype="float64")
    assert_same_logits(ours, theirs.eval())
    ours.save_pretrained(tmp_path / "ours")
    again = getattr(transformers, name).from_pretrained(tmp_path / "ours", dtype=torch.float64, local_files_only=True)
    assert_same_logits(ours, again.eval())


@every_head
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_what_transformers_saves_is_loaded_with_nothing_left_over(tmp_path, name, file):
    _, theirs = make_pair(name)
    theirs.save_pretrained(tmp_path)
    if file == "pytorch_model.bin":  # which holds every name, the decoder's second ones too
        (tmp_path / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / file)
    ours = getattr(minibert, name).from_pretrained(tmp_path, dtype="float64")
    assert set(ours.report.known_harmless) == (TIED.keys() & theirs.state_dict().keys() if ".bin" in file else set())
    assert not ours.training
    assert_same_logits(ours, theirs)


@every_head
def test_a_checkpoint_of_both_training_tasks_loads_into_each_of_their_classes(tmp_path, name):
    """And into a Bert with a new classifier: no, for nothing would say that its numbers are chance."""
    _, theirs = make_pair("BertForPreTraining")
    theirs.save_pretrained(tmp_path)
    if "Classification" in name:
        with pytest.raises(minibert.CheckpointError, match=r"classifier\.weight"):
            getattr(minibert, name).from_pretrained(tmp_path)
        return
    ours = getattr(minibert, name).from_pretrained(tmp_path, dtype="float64")
    reference = getattr(transformers, name).from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert_same_logits(ours, reference)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertForPreTraining"])
def test_the_names_of_the_first_checkpoints(tmp_path, name):
    """gamma and beta, and the decoder's matrix once more."""
    ours, theirs = make_pair(name)
    ours.save_pretrained(tmp_path)
    old = {
        own.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value.clone()
        for own, value in theirs.state_dict().items()
        if own != "cls.predictions.decoder.bias"
    }
    assert {"cls.predictions.transform.LayerNorm.gamma", "cls.predictions.decoder.weight"} < old.keys()
    safetensors.torch.save_file(old, tmp_path / "model.safetensors")
    again = getattr(minibert, name).from_pretrained(tmp_path, dtype="float64")
    assert again.report.known_harmless == ("cls.predictions.decoder.weight",)
    assert_same_logits(again, theirs)


# --- Labels


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"num_labels": 1},
        {"num_labels": 5},
        {"id2label": {0: "no", 1: "yes"}},
        {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}},
        {"id2label": {1: "one", 3: "three", 7: "seven"}, "problem_type": "multi_label_classification"},
        {"num_labels": 1, "problem_type": "regression", "classifier_dropout": 0.5},
    ],
    ids=str,
)
def test_labels_are_read_as_transformers_reads_them_and_written_so_that_it_reads_the_same(said):
    ours = ClassifierConfig(**said)
    theirs = transformers.BertConfig(**said)
    for name in ("num_labels", "id2label", "problem_type", "classifier_dropout"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.label2id == (theirs.label2id or {name: i for i, name in theirs.id2label.items()})
    again = transformers.BertConfig(**ours.to_dict())
    assert (again.num_labels, again.id2label, again.label2id) == (ours.num_labels, ours.id2label, ours.label2id)


def test_labels_survive_the_way_there_and_back(tmp_path):
    ours, _ = make_pair("BertForTokenClassification", problem_type="single_label_classification")
    ours.save_pretrained(tmp_path / "ours")
    theirs = transformers.BertForTokenClassification.from_pretrained(tmp_path / "ours", local_files_only=True)
    assert theirs.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    theirs.save_pretrained(tmp_path / "theirs")
    assert minibert.BertForTokenClassification.from_pretrained(tmp_path / "theirs").config == ours.config


# --- Fill-mask and the logit lens


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    make_pair("BertForMaskedLM").theirs.save_pretrained(folder)
    return write_vocabulary(folder, config={"do_lower_case": True, "tokenizer_class": "BertTokenizer"})


@pytest.mark.parametrize("text", ["the [MASK] sat on the mat.", "[MASK] cat [MASK] on [MASK]", "[MASK]"])
def test_fill_mask_gives_what_the_pipeline_gives(folder, text):
    theirs = transformers.pipeline(
        "fill-mask", model=str(folder), tokenizer=str(folder), device="cpu", dtype=torch.float64
    )
    ours = BertForMaskedLM.from_pretrained(folder, dtype="float64")
    mine = fill_mask(ours, minibert.Tokenizer.from_pretrained(folder), text, top_k=7)
    reference = theirs(text, top_k=7)
    reference = [reference] if isinstance(reference[0], dict) else reference
    assert len(mine) == len(reference) == text.count("[MASK]")
    for guesses, expected in zip(mine, reference, strict=True):
        assert [guess.token for guess in guesses] == [guess["token"] for guess in expected]
        assert [guess.token_str for guess in guesses] == [guess["token_str"] for guess in expected]
        assert [guess.score for guess in guesses] == pytest.approx([guess["score"] for guess in expected], abs=EXACT)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertForPreTraining"])
def test_the_logit_lens_is_each_hidden_state_through_their_head(name):
    ours, theirs = make_pair(name)
    states = theirs(**BATCH, output_hidden_states=True).hidden_states
    predictions = theirs.cls.predictions
    expected = torch.stack([predictions(state) for state in states])
    assert_same(logit_lens(ours, **BATCH), expected)


def test_a_config_of_theirs_is_one_of_ours(tmp_path):
    """What a classifier's folder says is no trouble to a plain Bert."""
    _, theirs = make_pair("BertForSequenceClassification")
    theirs.save_pretrained(tmp_path)
    assert BertConfig.from_file(tmp_path / "config.json") == TINY
    names = {canonical_name(name) for name in theirs.state_dict()}
    report = minibert.Bert.from_pretrained(tmp_path).report
    assert set(report.used) | set(report.known_harmless) == names
