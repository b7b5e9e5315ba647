"""docs/index.md quotes the page as it is, and its numbers are those of the weights, in numpy, and of the page."""

import math
import re

import numpy as np
import pytest
import torch
from documents import DOCS, blocks, run
from safetensors.torch import load_file

from minibert import Bert, BertConfig, SentenceEncoder, Tokenizer, pooling
from minibert.checkpoint import builtin
from minibert.model import Pooler
from minibert.research import capture

INDEX = (DOCS / "index.md").read_text(encoding="utf-8")
PAGE = (DOCS.parent / "minibert" / "model.py").read_text(encoding="utf-8")
SENTENCE = "A man is eating food."
NUMBERS = {
    (name, tuple(map(int, index.split(", ")))): float(number)
    for name, index, number in re.findall(r"^\| `([\w.]+)\[([\d, ]+)\]` \| (-?\d+\.\d{4}) \|$", INDEX, re.MULTILINE)
}
EXAMPLE, *QUOTES = blocks(INDEX)


class Formulas:
    """The equations of the document, in numpy and float64, on one text: no batch axis but in `values`."""

    def __init__(self, ids):
        stored = load_file(builtin.FOLDER / "model.safetensors")
        self.weights = {name.removeprefix("bert."): w.double().numpy() for name, w in stored.items()}
        self.values = {}
        x = self.embeddings(ids)
        for number in range(3):
            x = self.layer(x, number)
        cls = x[0]
        self.keep("last_hidden_state", x)
        self.keep("cls", cls)
        self.keep("mean", x.mean(0))
        self.keep("max", x.max(0))
        self.keep("encode", cls / math.sqrt((cls**2).sum()))
        self.keep("pooler", np.tanh(cls))  # its weight the identity

    def keep(self, name, value):
        self.values[name] = value[None]
        return value

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, name, x):
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        gain, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return gain * (x - mean) / np.sqrt(variance + 1e-12) + bias

    def embeddings(self, ids):
        tables = [self.weights[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "token_type", "position")]
        token, kind, position = tables[0][ids], tables[1][[0] * len(ids)], tables[2][: len(ids)]
        self.keep("embeddings.token", token)
        self.keep("embeddings.token_type", kind)
        self.values["embeddings.position"] = position
        total = self.keep("embeddings.norm.before", token + kind + position)
        return self.keep("embeddings.norm", self.norm("embeddings.LayerNorm", total))

    def layer(self, x, number):
        ours, theirs = f"layers.{number}", f"encoder.layer.{number}"
        q, k, v = (self.head_by_head(f"{theirs}.attention.self.{part}", x) for part in ("query", "key", "value"))
        for part, value in zip("qkv", (q, k, v), strict=True):
            self.keep(f"{ours}.attention.{part}", value)
        scores = self.keep(f"{ours}.attention.core.scores", q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]))
        probs = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        self.keep(f"{ours}.attention.core.probs", probs)
        heads = self.keep(f"{ours}.attention.core", probs @ v)
        joined = heads.transpose(1, 0, 2).reshape(x.shape)
        attention = self.keep(f"{ours}.attention", self.linear(f"{theirs}.attention.output.dense", joined))
        a = self.norm(f"{theirs}.attention.output.LayerNorm", x + attention)
        self.keep(f"{ours}.attention_norm", a)
        up = self.keep(f"{ours}.feed_forward.up", self.linear(f"{theirs}.intermediate.dense", a))
        gelu = self.keep(f"{ours}.feed_forward.activation", up * 0.5 * (1 + np.vectorize(math.erf)(up / math.sqrt(2))))
        down = self.keep(f"{ours}.feed_forward", self.linear(f"{theirs}.output.dense", gelu))
        y = self.norm(f"{theirs}.output.LayerNorm", a + down)
        self.keep(f"{ours}.feed_forward_norm", y)
        return self.keep(ours, y)

    def head_by_head(self, name, x):
        return self.linear(name, x).reshape(len(x), 12, 32).transpose(1, 0, 2)


@pytest.fixture(scope="module")
def batch():
    return Tokenizer.from_pretrained("minibert-tiny")([SENTENCE], return_tensors="pt")


@pytest.fixture(scope="module")
def formulas(batch):
    return Formulas(batch["input_ids"][0].tolist()).values


@pytest.fixture(scope="module")
def page(batch):
    """The same values, as the page computes them."""
    model = Bert.from_pretrained("minibert-tiny")
    with capture(model, "**") as values, torch.no_grad():
        state = model(**batch).last_hidden_state
    pooler = Pooler(BertConfig(hidden_size=384))
    torch.nn.init.eye_(pooler.dense.weight)
    torch.nn.init.zeros_(pooler.dense.bias)
    found = {name: values[name].detach() for name in values}
    found["last_hidden_state"], found["pooler"] = state, pooler(state).detach()
    for name in ("cls", "mean", "max"):
        found[name] = getattr(pooling, name)(state, batch["attention_mask"].bool())
    found["encode"] = SentenceEncoder.from_pretrained().encode([SENTENCE])
    return found


def test_its_sizes_are_the_models():
    config = Bert.from_pretrained("minibert-tiny").config
    widths = f"D = {config.hidden_size}, H = {config.num_attention_heads} heads of K = {config.head_size}"
    sizes = f"{config.num_hidden_layers} layers, {widths}, F = {config.intermediate_size}."
    assert sizes in " ".join(INDEX.split())


def test_each_part_has_a_number():
    assert len(NUMBERS) == 26
    sections = re.split(r"^## \d\. ", INDEX, flags=re.MULTILINE)[1:]
    assert len(sections) == 8
    assert all("\n| `" in section for section in sections)


@pytest.mark.parametrize(("name", "index"), NUMBERS, ids=lambda part: str(part).replace(" ", ""))
def test_each_number_is_the_formulas_and_the_pages(name, index, formulas, page):
    shown = NUMBERS[name, index]
    assert float(formulas[name][index]) == pytest.approx(shown, abs=5.1e-5)
    assert float(page[name][index]) == pytest.approx(shown, abs=5.1e-5)
    assert float(page[name][index]) == pytest.approx(float(formulas[name][index]), abs=1e-5)


def test_the_page_is_quoted_as_it_is():
    lines = {line.split("  #")[0].strip() for line in PAGE.splitlines()}
    assert len(QUOTES) >= 9
    for quote, _ in QUOTES:
        assert {line.strip() for line in quote.splitlines()} <= lines, quote


def test_its_code_prints_what_is_shown(capsys):
    code, shown = EXAMPLE
    run(code, {}, DOCS / "index.md")
    assert capsys.readouterr().out == shown


def test_its_links_lead_somewhere():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", INDEX):
        assert (DOCS / link).resolve().exists(), link
    for document in DOCS.glob("*.md"):
        assert document.name == "index.md" or f"({document.name})" in INDEX, document
