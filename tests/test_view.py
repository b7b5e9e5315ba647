"""The page shows the captured numbers, no text in it can run, and a browser draws it without an error."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from helpers import MINILM
from tiny_folder import MEAN, write_encoder

from minibert import Bert, BertConfig, SentenceEncoder, Tokenizer
from minibert.pooling import Pooling
from minibert.research import capture, prune_heads
from minibert.research.attribute import attribute
from minibert.research.view import _layer, collect, page, pooling_weights, view

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
NASTY = '<script>document.title="caught"</script><!-- </script> & \u2028 "\' the cat'


class Parts(HTMLParser):
    """Collects the scripts and styles that a browser would see, with their attributes."""

    def __init__(self, html):
        super().__init__()
        self.found, self.meta, self.links, self.open = [], {}, [], None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        own = dict(attributes)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag == "meta" and "http-equiv" in own:
            self.meta[own["http-equiv"]] = own["content"]
        if tag in ("script", "style"):
            self.found.append([tag, own, ""])
            self.open = tag

    def handle_data(self, data):
        if self.open:
            self.found[-1][2] += data

    def handle_endtag(self, tag):
        self.open = None if tag == self.open else self.open


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return SentenceEncoder.from_pretrained(write_encoder(tmp_path_factory.mktemp("tiny"), ("Pooling", MEAN)))


@pytest.fixture(scope="module")
def minilm():
    return SentenceEncoder.from_pretrained(MINILM)


def data_in(path):
    (source,) = [text for tag, own, text in Parts(path.read_text(encoding="utf-8")).found if own.get("id") == "data"]
    return json.loads(source)


def numbers(source, dtype, *shape):
    return np.frombuffer(base64.b64decode(source), dtype).reshape(shape)


def test_the_page_has_the_captured_values_to_the_stated_precision(tiny, tmp_path):
    texts = ["the cat sat on the mat.", "hello"]
    with capture(tiny, "layers.*.attention.core.probs", "layers.*.attention.[qk]") as values:
        vectors = tiny.encode(texts)
    data = data_in(view(tiny, *texts, path=tmp_path / "page.html"))
    assert data["cosine"] == pytest.approx(tiny.similarity(vectors[:1], vectors[1:]).item(), abs=1e-6)
    for i, text in enumerate(data["texts"]):
        assert text["tokens"] == ["[CLS]", *tiny.tokenizer.tokenize(texts[i]), "[SEP]"]
        S = len(text["tokens"])
        for layer, own in enumerate(text["layers"]):
            H, K = own["heads"], own["size"]
            expected = values[f"layers.{layer}.attention.core.probs"][i].numpy()
            roots = numbers(own["probs"], np.uint8, H, S, S) / 255
            assert np.abs(roots - np.sqrt(expected)).max() <= 0.5 / 255 + 1e-6
            for name in "qk":
                step = numbers(own[f"{name}_step"], np.float32, H, S, 1)
                expected = values[f"layers.{layer}.attention.{name}"][i].numpy()
                assert np.abs(numbers(own[name], np.int8, H, S, K) * step - expected).max() <= step.max() * 0.501
                assert np.allclose(step[..., 0] * 127, np.abs(expected).max(-1))


def test_no_text_escapes_from_the_data(minilm, tmp_path):
    html = view(minilm, NASTY, NASTY, path=tmp_path / "page.html").read_text(encoding="utf-8")
    parts = Parts(html)
    assert [(tag, own) for tag, own, _ in parts.found] == [
        ("style", {}),
        ("script", {"type": "application/json", "id": "data"}),
        ("script", {}),
    ]
    assert not set("<>&\u2028\u2029") & set(parts.found[1][2])


def test_tokens_that_look_like_html_survive(tiny):
    data = collect(tiny, ["hello"])
    data["texts"][0]["tokens"] = [NASTY, "@script@", "</script>"]
    (source,) = [text for _, own, text in Parts(page(data)).found if own.get("id") == "data"]
    assert json.loads(source) == data


def test_the_page_loads_nothing_and_runs_only_its_own_script(tiny, tmp_path):
    parts = Parts(view(tiny, "hello", path=tmp_path / "page.html").read_text(encoding="utf-8"))
    (style,), (script,) = (
        [t for tag, own, t in parts.found if tag == name and not own] for name in ("style", "script")
    )
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    assert parts.links == []
    assert "url(" not in style
    assert "@import" not in style
    assert parts.meta["Content-Security-Policy"] == (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'"
    )


def test_64_tokens_in_12_layers_of_12_heads_are_under_3_megabytes(minilm):
    encoder = SentenceEncoder(Bert(BertConfig()).eval(), Tokenizer.from_pretrained(MINILM))
    data = collect(encoder, ["the cat " * 31])
    assert len(data["texts"][0]["tokens"]) == 64
    assert len(page(data).encode()) < 3_000_000


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cls", [1, 0, 0, 0]),
        ("lasttoken", [0, 0, 0, 1]),
        ("mean", [0.25] * 4),
        ("mean_sqrt_len_tokens", [0.5] * 4),
        ("weightedmean", [0.1, 0.2, 0.3, 0.4]),
        (["cls", "mean"], [0.625, 0.125, 0.125, 0.125]),
    ],
    ids=str,
)
def test_pooling_weights_of_each_mode(mode, expected):
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(pooling_weights(Pooling(mode), x), torch.tensor(expected, dtype=torch.float32))


def test_pooling_weights_of_max_are_the_share_of_dimensions_won():
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    won = torch.bincount(x.argmax(0), minlength=4) / 8
    assert torch.allclose(pooling_weights(Pooling("max"), x), won)


def test_shares_are_integrated_gradients_of_the_cosine(tiny):
    found = collect(tiny, ["A man eats.", "Someone has lunch."])
    expected = attribute(tiny, "Someone has lunch.", "A man eats.")
    assert found["shares"][1] == pytest.approx(expected.scores.tolist(), abs=1e-6)
    assert len(found["shares"][0]) == len(found["texts"][0]["tokens"])


def test_a_text_without_words_has_no_shares(tiny):
    assert "shares" not in collect(tiny, ["A man eats.", " "])


def test_shares_may_be_left_out(tiny, capsys):
    texts = ["A man eats.", "Someone has lunch."]
    assert {"cosine"} == collect(tiny, texts, shares=False).keys() - {"version", "relative", "pooling", "texts"}
    collect(tiny, texts, show_progress_bar=True)
    assert capsys.readouterr().err.count("100%") == 2


def test_a_page_that_no_browser_would_open_is_refused_before_it_is_computed(tiny, monkeypatch):
    monkeypatch.setattr("minibert.research.view.MOST_MEGABYTES", 0.02)
    monkeypatch.setattr(tiny, "truncation", "silent")
    texts = ["the cat " * 20, "the cat " * 30]
    with pytest.raises(ValueError, match=r"the page would take .* \(--max-length\) to (\d+), and") as error:
        collect(tiny, texts)
    monkeypatch.setattr(tiny, "_max_seq_length", int(re.search(r"to (\d+),", str(error.value))[1]))
    assert "shares" in collect(tiny, texts)


def test_layers_of_different_heads_are_shown_as_they_are(tmp_path):
    encoder = SentenceEncoder.from_pretrained(write_encoder(tmp_path, ("Pooling", MEAN)))
    prune_heads(encoder, {0: [1, 2]})
    assert [layer["heads"] for layer in collect(encoder, ["hello"])["texts"][0]["layers"]] == [2, 4]


class Still(torch.nn.Module):
    """Attention that attends to nothing."""

    def forward(self, x, mask=None):
        return torch.zeros_like(x)


def test_an_attention_without_such_values_is_refused_by_name(tmp_path):
    encoder = SentenceEncoder.from_pretrained(write_encoder(tmp_path, ("Pooling", MEAN)))
    encoder.model.layers[1].attention = Still()
    with pytest.raises(ValueError, match=r"layers\.1\.attention\.core\.probs"):
        collect(encoder, ["hello"])


def test_the_number_of_truncated_tokens_is_shown(tiny, monkeypatch):
    monkeypatch.setattr(tiny, "truncation", "report")
    assert [text["lost"] for text in collect(tiny, ["hello", "a " * 50])["texts"]] == [0, 12]


def browse(html, tmp_path, script):
    """Open a page, run a script after the page's own, and return the title that it sets; refuse any error."""
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = html.replace("script-src ", f"script-src 'sha256-{own}' ", 1)
    path = tmp_path / "browsed.html"
    path.write_text(html.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run([*command, profile, path.as_uri()], capture_output=True, timeout=120, check=True)
    assert b"CONSOLE" not in done.stderr, done.stderr.decode()
    return json.loads(re.search(r"<title>(.*?)</title>", done.stdout.decode(), re.DOTALL)[1].replace("&lt;", "<"))


@in_a_browser
def test_a_browser_draws_and_a_click_selects_a_head(tiny, tmp_path):
    html = view(tiny, "the cat sat on the mat.", "a dog", path=tmp_path / "page.html").read_text(encoding="utf-8")
    found = browse(
        html,
        tmp_path,
        """
        const drawn = () => {
          const canvas = document.querySelector("#panel canvas");
          return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((n) => n > 0);
        };
        const key = (node, name) => node.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
        const result = { cells: document.querySelectorAll(".head").length, drawn: [drawn()] };
        document.getElementById("head-1-2").click();
        result.clicked = document.getElementById("chosen").textContent;
        result.selected = [...document.querySelectorAll(".head[aria-selected=true]")].map((cell) => cell.id);
        key(document.activeElement.id ? document.activeElement : document.getElementById("head-1-2"), "ArrowRight");
        key(document.activeElement, "ArrowUp");
        result.moved = document.activeElement.id;
        document.getElementById("tab-matrix").click();
        result.drawn.push(drawn());
        key(document.querySelector(".matrix"), "ArrowDown");
        result.said = document.getElementById("said").textContent;
        document.querySelectorAll(".token")[2].click();
        document.getElementById("tab-neuron").click();
        result.drawn.push(drawn());
        document.getElementById("tab-words").click();
        result.words = [...document.querySelectorAll(".word > span")].map((word) => word.textContent);
        document.getElementById("text-1").click();
        result.tokens = [...document.querySelectorAll(".token")].map((token) => token.childNodes[1].textContent);
        const before = document.documentElement.dataset.theme;
        document.getElementById("theme").click();
        result.toggled = before !== document.documentElement.dataset.theme;
        document.title = JSON.stringify(result);
        """,
    )
    assert found.pop("said").startswith("[CLS] (0) looks at [CLS] (0): ")
    assert found == {
        "cells": 8,
        "drawn": [True, True, True],
        "clicked": "layers.1, head 2",
        "selected": ["head-1-2"],
        "moved": "head-0-3",
        "words": ["[CLS]", "the", "cat", "sat", "on", "the", "mat", ".", "[SEP]", "[CLS]", "a", "dog", "[SEP]"],
        "tokens": ["[CLS]", "a", "dog", "[SEP]"],
        "toggled": True,
    }


@in_a_browser
@pytest.mark.parametrize("size", [1, 2, 200])
def test_a_browser_shows_the_numbers_of_any_length(tiny, tmp_path, size):
    data = collect(tiny, ["hello"])
    text, generator = data["texts"][0], torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 4, size, 8, generator=generator)
    probs = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
    text |= {"tokens": [NASTY] * size, "pooled": [1 / size] * size, "layers": [_layer(probs, q, k)]}
    found = browse(
        page(data),
        tmp_path,
        """
        chooseHead(0, 3);
        for (const name of ["lines", "matrix", "neuron"]) chooseView(name);
        const at = text().size - 1;
        const q = text().vector("q", 0, 3, at), k = text().vector("k", 0, 3, 0);
        const bytes = weights();
        document.title = JSON.stringify({
          weight: WEIGHT[bytes[at * text().size]],
          score: q.reduce((sum, n, i) => sum + n * k[i], 0) / Math.sqrt(8),
          scripts: document.scripts.length,
        });
        """,
    )
    assert found["weight"] == pytest.approx(probs[3, -1, 0].item(), abs=2 / 255 * probs[3, -1, 0].sqrt().item() + 1e-5)
    assert found["score"] == pytest.approx((q[3, -1] @ k[3, 0]).item() / 8**0.5, abs=0.05)
    assert found["scripts"] == 3
