"""An edit of the page is never ignored: in its file, or by a class patched in a process, `encode` computes it."""

import inspect
import json
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from fast_helpers import fast_layers
from helpers import TINY
from tiny_folder import MEAN, TEXTS, write_cross_encoder, write_encoder
from torch import nn

import minibert
from minibert import Bert, BertForSequenceClassification, CrossEncoder, SentenceEncoder
from minibert.fast import check
from minibert.fast.check import page_is_known
from minibert.fused import FusedLayerNorm, fuse
from minibert.heads import HeadOutput
from minibert.model import (
    Activation,
    Embeddings,
    Encoder,
    EncoderLayer,
    FeedForward,
    LayerNorm,
    MultiHeadAttention,
    Pooler,
    ScaledDotProductAttention,
)
from minibert.pooling import Pooling

# --- edits of the file

LAYER = """        x = self.attention_norm(x + self.dropout(self.attention(x, mask)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))"""
PRE_NORM = """        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))"""
SCORES = "scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])"
FEED_FORWARD = "return self.down(self.activation(self.up(x)))"
NEARBY = """        near = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(-16).tril(16)
        scores = scores.masked_fill(~near, torch.finfo(scores.dtype).min)
"""
EDITS = {
    "layer norm: variance by D - 1": (
        "centred.square().mean(-1, keepdim=True)",
        "centred.square().sum(-1, keepdim=True) / (x.shape[-1] - 1)",
    ),
    "layer norm: a larger eps, beside the root": (
        "torch.sqrt(variance + self.eps)",
        "(torch.sqrt(variance) + 1e-3)",
    ),
    "gelu: by tanh": (
        "return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))",
        "return gelu_new(x)",
    ),
    "split: heads interleaved": (
        "x.unflatten(-1, (-1, self.head_size)).transpose(1, 2)",
        "x.unflatten(-1, (self.head_size, -1)).permute(0, 3, 1, 2)",
    ),
    "feed-forward: a further term": (FEED_FORWARD, f"{FEED_FORWARD} + x"),
    "feed-forward: for one width only": (
        FEED_FORWARD,
        f"assert x.shape[-1] == 384\n        {FEED_FORWARD} + x",
    ),
    "layer: normalised first": (LAYER, PRE_NORM),
    "attention: another scale": (SCORES, "scores = q @ k.transpose(-1, -2) / q.shape[-1]"),
    "attention: among neighbours only": (
        "        if mask is not None:\n            # The lowest",
        f"{NEARBY}        if mask is not None:\n            # The lowest",
    ),
    "embeddings: token types left out": (
        "self.token(input_ids) + self.token_type(token_type_ids)",
        "self.token(input_ids)",
    ),
    "encoder: layers in reverse": ("for layer in self:", "for layer in list(self)[::-1]:"),
    "encoder: two layers only": ("for layer in self:", "for layer in self[:2]:"),
    "attention: six heads only": ("return self.out(attended", "attended[:, 6:] = 0\n        return self.out(attended"),
    "embeddings: narrower": (
        "return self.dropout(self.norm(x))",
        "x[..., 256:] = 0\n        return self.dropout(self.norm(x))",
    ),
    "bert: mask ignored": ("x = self.layers(x, mask)", "x = self.layers(x)"),
}
SENTENCES = ["A man is eating food.", "Someone has a meal with a friend, in the garden behind the old house.", "one"]
SENTENCES.append("and so on " * 10)
PROGRAM = """
import json, sys, warnings
import torch
torch.set_num_threads(1)
found = []
for folder in sys.argv[2:]:
    sys.path[0] = folder
    for name in [name for name in sys.modules if name.split(".")[0] == "minibert"]:
        del sys.modules[name]
    from minibert import SentenceEncoder, model
    assert model.__file__.startswith(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder = SentenceEncoder.from_pretrained(device="cpu")
        vectors = [encoder.encode(SENTENCES, fast=fast).tolist() for fast in (None, False)]
        vectors.append(encoder.encode(SENTENCES[0]).tolist())
    found.append({"vectors": vectors, "warnings": [str(each.message) for each in caught], "why": encoder.explain()})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    """The built-in model's vectors with each edit, and unedited, each from a copy of the package; in one process."""
    package = Path(minibert.__file__).parent
    source = (package / "model.py").read_text(encoding="utf-8")
    builtin = package / "checkpoint" / "builtin" / "minibert-tiny"
    names = ["unedited", "a remark", "eps of one's own", *EDITS]
    edits = {
        "unedited": ("", ""),
        "a remark": ("            x = layer(x, mask)\n", "            x = layer(x, mask)  # one more\n"),
        "eps of one's own": ("self.eps = eps", "self.eps = 1e-2"),
        **EDITS,
    }
    folders = []
    for name in names:
        folders.append(tmp_path_factory.mktemp("copy"))
        copy = folders[-1] / "minibert"
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns(builtin.name))
        (copy / builtin.relative_to(package)).symlink_to(builtin)
        before, after = edits[name]
        assert name == "unedited" or source.count(before) == 1, name
        (copy / "model.py").write_text(source.replace(before, after), encoding="utf-8")
    program = f"SENTENCES = {SENTENCES!r}\n{PROGRAM}"
    run = subprocess.run(
        [sys.executable, "-c", program, "", *map(str, folders)], capture_output=True, text=True, timeout=120, check=True
    )
    return dict(zip(names, json.loads(run.stdout), strict=True))


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_a_formula_is_what_encode_computes(edit, edited):
    default, page, alone = map(np.array, edited[edit]["vectors"])
    assert abs(default - page).max() < 1e-5
    if edit != "bert: mask ignored":  # then neighbours count
        assert abs(alone - page[0]).max() < 1e-5
    assert abs(page - np.array(edited["unedited"]["vectors"][1])).max() > 2e-5
    (warning,) = edited[edit]["warnings"]
    assert "the page (minibert/model.py, or a class of it) was changed" in warning
    assert "the page's code was changed" in edited[edit]["why"]


@pytest.mark.parametrize("edit", ["unedited", "a remark"])
def test_an_edit_of_no_number_keeps_the_stack(edit, edited):
    default, page, alone = map(np.array, edited[edit]["vectors"])
    assert abs(default - page).max() < 1e-5
    assert abs(alone - page[0]).max() < 1e-5
    assert edited[edit]["warnings"] == []
    assert edited[edit]["why"].count("fast") == 4


def test_an_edit_of_a_number_that_the_stack_reads_too_is_computed(edited):
    default, page, alone = map(np.array, edited["eps of one's own"]["vectors"])
    assert abs(default - page).max() < 1e-5
    assert abs(alone - page[0]).max() < 1e-5
    assert abs(page - np.array(edited["unedited"]["vectors"][1])).max() > 2e-5


# --- classes patched in this process


def other_norm(before):
    return lambda self, x: before(self, x) * 0.9


def other_split(before):
    return lambda self, x: before(self, x).flip(1)


def other_core(before):
    return lambda self, q, k, v, mask=None, bias=None: before(self, q, k, v, mask, bias) * 0.9


def other_feed_forward(before):
    return lambda self, x: before(self, x) + 0.1 * x


def other_embeddings(before):
    return lambda self, input_ids, token_type_ids=None: before(self, input_ids, token_type_ids) * 0.9


def other_order(before):
    def forward(self, x, mask=None):
        for layer in list(self)[::-1]:
            x = layer(x, mask)
        return x

    return forward


def other_layer(before):
    def forward(self, x, mask=None):
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.feed_forward(self.feed_forward_norm(x))

    return forward


def other_bert(before):
    def forward(self, *arguments, **options):
        output = before(self, *arguments, **options)
        return output._replace(last_hidden_state=output.last_hidden_state * 0.9)

    return forward


def other_attention(before):
    return lambda self, x, mask=None: before(self, x, mask) * 0.9


PATCHES = [
    (LayerNorm, "forward", other_norm),
    (LayerNorm, "__call__", other_norm),
    (Activation, "forward", other_norm),
    (Embeddings, "forward", other_embeddings),
    (ScaledDotProductAttention, "forward", other_core),
    (MultiHeadAttention, "split", other_split),
    (MultiHeadAttention, "forward", other_attention),
    (FeedForward, "forward", other_feed_forward),
    (EncoderLayer, "forward", other_layer),
    (Encoder, "forward", other_order),
    (Bert, "forward", other_bert),
    (nn.Linear, "forward", other_norm),
    (nn.Embedding, "forward", lambda before: lambda self, ids: before(self, ids).tanh()),
    (nn.Dropout, "forward", other_norm),
    (nn.Module, "__call__", lambda before: lambda self, *a, **k: halved(self, before(self, *a, **k))),
]
MANY = [*TEXTS, "the cat the cat the cat the cat the cat the cat the cat"]


def halved(module, result):
    return result * 0.5 if isinstance(module, nn.Linear) else result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder"), ("Pooling", MEAN))


def load(folder, **options):
    return SentenceEncoder.from_pretrained(folder, device="cpu", **options)


def changed_page():
    return pytest.warns(UserWarning, match=r"the page \(minibert/model.py, or a class of it\) was changed")


@contextmanager
def any_warning():
    """The page's, or none: only the numbers count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("encoded", [False, True], ids=["before", "after a first call"])
@pytest.mark.parametrize(("kind", "name", "make"), PATCHES, ids=lambda value: getattr(value, "__name__", value))
def test_a_patched_class_is_what_encode_computes(kind, name, make, encoded, folder, monkeypatch):
    encoder = load(folder)
    before = encoder.encode(MANY, fast=False)
    if encoded:
        encoder.encode(MANY)
    with monkeypatch.context() as patch:
        patch.setattr(kind, name, make(getattr(kind, name)))
        with fast_layers(encoder) as calls, changed_page() as caught:
            found, alone = encoder.encode(MANY), encoder.encode(MANY[0])
            encoder.encode(MANY)
        assert calls == []
        assert len(caught) == 1  # not one a call
        page = encoder.encode(MANY, fast=False)
        assert abs(found - page).max() < 1e-5
        assert abs(alone - page[0]).max() < 1e-5
        assert abs(found - before).max() > 1e-3
        assert "the page's code was changed" in encoder.explain()
        with pytest.raises(ValueError, match="the page's code was changed"):
            encoder.encode(MANY, fast=True)
    with fast_layers(encoder) as calls:
        assert abs(encoder.encode(MANY, fast=True) - before).max() < 1e-5
    assert len(calls) == 2  # the stack again


def test_a_patch_that_computes_the_same_is_called_all_the_same(folder, monkeypatch):
    encoder, seen, forward = load(folder), [], LayerNorm.forward
    encoder.encode(TEXTS)

    def watch(self, x):
        seen.append(x.shape)
        return forward(self, x)

    monkeypatch.setattr(LayerNorm, "forward", watch)
    with fast_layers(encoder) as calls, changed_page():
        encoder.encode(TEXTS)
    assert not calls
    assert seen


def test_a_patch_that_raises_is_the_callers_error(folder, monkeypatch):
    def broken(self, x):
        raise KeyError("no such norm")

    encoder = load(folder)
    before = encoder.encode(TEXTS)
    with monkeypatch.context() as patch:
        patch.setattr(LayerNorm, "forward", broken)
        with changed_page(), pytest.raises(KeyError, match="no such norm"):
            encoder.encode(TEXTS)
    assert np.array_equal(encoder.encode(TEXTS), before)


def test_a_method_whose_code_is_exchanged_is_noticed(folder, monkeypatch):
    """As IPython's %autoreload does it: the function stays, its code is another's."""

    def forward(self, x):
        return x * self.weight

    encoder = load(folder)
    encoder.encode(TEXTS)
    monkeypatch.setattr(LayerNorm.forward, "__code__", forward.__code__)
    with changed_page():
        assert abs(encoder.encode(TEXTS) - encoder.encode(TEXTS, fast=False)).max() < 1e-4


def test_a_formula_exchanged_in_the_pages_table_is_noticed(folder, monkeypatch):
    load(folder).encode(TEXTS)
    monkeypatch.setitem(Activation.formulas, "gelu", torch.sigmoid)
    with changed_page():
        encoder = load(folder)
        assert abs(encoder.encode(TEXTS) - encoder.encode(TEXTS, fast=False)).max() < 1e-5


def test_a_fused_part_that_is_patched_is_noticed(folder, monkeypatch):
    encoder = load(folder)
    fuse(encoder.model)
    encoder.encode(TEXTS)
    monkeypatch.setattr(FusedLayerNorm, "forward", lambda self, x: x * self.weight)
    with any_warning():
        assert abs(encoder.encode(TEXTS) - encoder.encode(TEXTS, fast=False)).max() < 1e-4


def test_an_attribute_that_a_patched_forward_reads_counts(folder, monkeypatch):
    """The patch alone changes nothing, and what it reads is set on one part afterwards."""

    def forward(self, q, k, v, mask=None, bias=None):
        return attend(self, q * getattr(self, "sharpness", 1.0), k, v, mask, bias)

    attend = ScaledDotProductAttention.forward
    monkeypatch.setattr(ScaledDotProductAttention, "forward", forward)
    with any_warning():
        encoder = load(folder)
        encoder.encode(TEXTS)
    encoder.model.layers[1].attention.core.sharpness = 3.0
    assert abs(encoder.encode(TEXTS) - encoder.encode(TEXTS, fast=False)).max() < 1e-5


# --- readers of the last states: the pooler is on the page, the others have rooms of their own


@pytest.fixture
def pair(tmp_path):
    """A cross-encoder, and a pair for it."""
    return CrossEncoder.from_pretrained(write_cross_encoder(tmp_path), device="cpu"), ("the cat sat", "on the mat")


@pytest.mark.parametrize("encoded", [False, True], ids=["before", "after a first call"])
def test_a_patched_pooler_gets_all_positions(pair, encoded, monkeypatch):
    encoder, texts = pair
    if encoded:
        encoder.predict(texts)
    monkeypatch.setattr(Pooler, "forward", lambda self, x: torch.tanh(self.dense(x.mean(1))))
    with any_warning():
        assert abs(encoder.predict(texts) - encoder.predict(texts, fast=False)) < 1e-6


def test_a_patched_head_gets_all_positions(pair, monkeypatch):
    def read(self, out):
        return HeadOutput(self.classifier(out.last_hidden_state.mean(1)), out.last_hidden_state)

    encoder, texts = pair
    monkeypatch.setattr(BertForSequenceClassification, "read", read)
    with any_warning():
        assert abs(encoder.predict(texts) - encoder.predict(texts, fast=False)) < 1e-6


def test_a_patched_model_with_a_head_is_what_predict_computes(pair, monkeypatch):
    forward = BertForSequenceClassification.forward

    def doubled(self, *arguments):
        output = forward(self, *arguments)
        return output._replace(logits=output.logits * 2)

    encoder, texts = pair
    monkeypatch.setattr(BertForSequenceClassification, "forward", doubled)
    with any_warning():
        assert abs(encoder.predict(texts) - encoder.predict(texts, fast=False)) < 1e-6


def test_a_patched_pooling_gets_all_positions(folder, monkeypatch):
    encoder = load(folder, pooling="cls")
    encoder.encode(TEXTS)
    monkeypatch.setattr(Pooling, "forward", lambda self, x, mask, prompt_length=0: x[:, 1])
    with any_warning():
        assert abs(encoder.encode(TEXTS[0]) - encoder.encode(TEXTS[0], fast=False)).max() < 1e-5


# --- the check itself


@pytest.mark.parametrize("eps", [1e-12, 1e-3])
@pytest.mark.parametrize("activation", Activation.formulas)
def test_the_page_as_it_is_passes_the_check(activation, eps):
    assert page_is_known(activation, eps)


def test_an_eps_beside_the_root_is_seen_where_eps_counts(monkeypatch):
    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True).sqrt() + self.eps) * self.weight + self.bias

    monkeypatch.setattr(LayerNorm, "forward", forward)
    with changed_page():
        assert not page_is_known("gelu", 1e-3)


def test_the_check_leaves_torch_as_it_was():
    """Under any settings: its random numbers are its own, and neither dtype, device nor mode of the caller counts."""
    torch.manual_seed(0)
    state = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.inference_mode():
            assert check._compare.__wrapped__("gelu", TINY.layer_norm_eps, 2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_digests_are_those_of_the_sources():
    texts = [inspect.getsource(source) for source in check.SOURCES]
    now = check._digest(texts), check._digest(map(check._code_of, texts))
    assert now == (check.TEXT, check.CODE), f"after an edit that the stack follows, write {now} into fast/check.py"


def test_remarks_are_not_code():
    text = '"""Doc."""\n\ndef f(x):\n    """Doc."""\n    return x + 1  # why\n'
    assert check._code_of(text) == check._code_of(text.replace("Doc", "Other").replace("why", "because"))
    assert check._code_of(text) != check._code_of(text.replace("1", "2"))
