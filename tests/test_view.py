"""The page shows the captured numbers, no text in it can run, and a browser draws it without an error."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from helpers import MINILM, TINY, widen
from tiny_folder import MEAN, write_encoder, write_vocabulary

from minibert import Bert, BertConfig, BertForMaskedLM, MultiVectorEncoder, SentenceEncoder, Tokenizer
from minibert.checkpoint.colbert import LateModules, QueryExpansion
from minibert.cli import main
from minibert.pooling import Normalize, Pooling
from minibert.research import capture, prune_heads
from minibert.research.attribute import attribute
from minibert.research.corpus import TokenIndex, word_at
from minibert.research.lens import fill_mask
from minibert.research.view import _layer, collect, masked_positions, page, pooling_weights, view

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


LINES = ["the cat sat on the mat.", "a dog sat", "who eats the mat?", "hello world", "</script>"]


@pytest.fixture(scope="module")
def indexes(tiny):
    return [TokenIndex.build(tiny, LINES, layer=1), TokenIndex.build(tiny, LINES, layer=0, heads=[1, 3])]


@pytest.fixture(scope="module")
def masked_lm(tiny):
    model = widen(BertForMaskedLM(TINY)).eval()
    model.bert.load_state_dict({name: x for name, x in tiny.model.state_dict().items() if "pooler" not in name})
    return model


def test_the_page_has_the_nearest_tokens_and_where_their_heads_look(tiny, indexes):
    data = collect(tiny, ["a cat on the mat", "a dog"], shares=False, corpus=indexes, nearest=3)
    corpus = data["corpus"]
    assert corpus["searches"] == [{"layer": 1, "heads": []}, {"layer": 0, "heads": [1, 3]}]
    looks = numbers(corpus["looks"], np.int16, 2, len(corpus["matches"]), 8)
    assert np.array_equal(looks, np.concatenate(indexes[0].attended(corpus["matches"]), axis=2))
    for text, shown in zip(["a cat on the mat", "a dog"], data["texts"], strict=True):
        for index, found in zip(indexes, shown["nearest"], strict=True):
            for hits, expected in zip(found, index.search(index.vectors_of(text), 3), strict=True):
                assert [tuple(corpus["matches"][i]) for i, _ in hits] == [match[:2] for match in expected]
                assert [score for _, score in hits] == pytest.approx([match.score for match in expected], abs=1e-4)
    assert {line for line, _ in corpus["matches"]} == corpus["lines"].keys()
    assert all(tokens == indexes[0].tokens(line) for line, tokens in corpus["lines"].items())
    assert not set("<>&") & set(Parts(page(data)).found[1][2])


def test_indexes_of_two_corpora_are_refused(tiny, indexes):
    other = TokenIndex.build(tiny, LINES[:2], layer=0)
    with pytest.raises(ValueError, match="of the same lines"):
        collect(tiny, ["a"], corpus=[indexes[0], other])


def test_contexts_that_no_browser_would_open_are_refused(tiny, indexes, monkeypatch):
    monkeypatch.setattr("minibert.research.view.MOST_MEGABYTES", 0.0009)
    monkeypatch.setattr("minibert.research.view._check_size", lambda *_: None)
    with pytest.raises(ValueError, match=r"the contexts would take .* fewer of the nearest \(--nearest\)"):
        collect(tiny, ["the cat"], corpus=indexes)


def test_a_masked_text_is_computed_as_one_with_mask_tokens(tiny, indexes, masked_lm):
    text, masked = "the Cat sat on the hello mat.", "the [MASK] sat on the hello [MASK]."
    data = collect(tiny, [text], mask=["cat", "MAT"], masked_lm=masked_lm, corpus=indexes[:1], nearest=3)
    expected = collect(tiny, [text, masked], shares=False, corpus=indexes[:1], nearest=3)
    assert data.pop("masked") == {
        "positions": [2, 7],
        "guesses": [
            [(guess.token_str, pytest.approx(guess.score, abs=1e-4)) for guess in five]
            for five in fill_mask(masked_lm, tiny.tokenizer, masked)
        ],
    }
    assert data.pop("cosine") == pytest.approx(expected.pop("cosine"), abs=1e-5)
    assert data["corpus"] == expected["corpus"]
    for one, other in zip(data["texts"], expected["texts"], strict=True):
        assert (one["tokens"], one["template"]) == (other["tokens"], other["template"])
        assert np.allclose(one["nearest"], other["nearest"], atol=1e-3)
        for layer, same in zip(one["layers"], other["layers"], strict=True):
            bytes_of = [numbers(each["probs"], np.uint8, 4, 10, 10).astype(int) for each in (layer, same)]
            assert np.abs(bytes_of[0] - bytes_of[1]).max() <= 1


def test_pieces_of_a_word_are_masked_together_and_only_whole_words(tiny):
    tokens = ["[CLS]", *tiny.tokenizer.tokenize("bad cat a bade bad"), "[SEP]"]
    assert tokens[1:4] == ["b", "##a", "##d"]
    assert masked_positions(tiny, tokens, ["bad"]) == [1, 2, 3, 10, 11, 12]
    assert masked_positions(tiny, tokens, ["cat a", "bade"]) == [4, 5, 6, 7, 8, 9]
    assert masked_positions(tiny, tokens, "cat") == [4]


@pytest.mark.parametrize(
    ("texts", "word", "said"),
    [
        (["the cat"], "dog", "the text has no word 'dog' to mask; it is read as: [CLS] the cat [SEP]"),
        (["the cats"], "cat", "no word 'cat'"),
        (["the cat"], " ", "no word ' '"),
        (["the cat", "a dog"], "cat", "leave out the other text"),
    ],
    ids=str,
)
def test_a_word_that_cannot_be_masked_is_refused(tiny, texts, word, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        collect(tiny, texts, mask=[word])


def test_a_vocabulary_without_a_mask_is_said(tiny, monkeypatch):
    monkeypatch.setattr(tiny.tokenizer, "mask_id", None)
    with pytest.raises(ValueError, match=r"nothing can be masked: the vocabulary has no \[MASK\]"):
        collect(tiny, ["the cat"], mask=["cat"])


def test_the_command_line_shows_corpus_and_mask(tmp_path, capsys):
    folder, lines = write_encoder(tmp_path / "model", ("Pooling", MEAN)), tmp_path / "lines.txt"
    lines.write_text("\n".join(["the cat sat", "", "a dog " * 30]) + "\n", encoding="utf-8")
    target = tmp_path / "page.html"
    command = ["view", "the cat", "-m", str(folder), "-o", str(target), "--corpus", str(lines), "--mask", "cat"]
    assert main([*command, "--heads", "3", "--heads", "0,2", "--index", str(tmp_path / "index")]) == 0
    data = data_in(target)
    assert data["masked"] == {"positions": [2], "guesses": None}
    assert data["corpus"]["searches"] == [{"layer": 1, "heads": heads} for heads in ([], [3], [0, 2])]
    assert data["corpus"]["size"] == 3
    assert "longer than 40 tokens: 1" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        "layers.1",
        "layers.1.heads.0-2",
        "layers.1.heads.3",
    ]
    assert main([*command, "--truncation", "error"]) == 1
    assert f"{lines}, line 3, is the first of texts longer than 40 tokens: 1" in capsys.readouterr().err


def test_the_command_line_finds_the_head_of_the_checkpoint(tmp_path, masked_lm):
    masked_lm.save_pretrained(tmp_path / "model")
    write_vocabulary(tmp_path / "model", config={"do_lower_case": True})
    target = tmp_path / "page.html"
    assert main(["view", "the cat", "-m", str(tmp_path / "model"), "-o", str(target), "--mask", "cat"]) == 0
    [guessed] = fill_mask(masked_lm, Tokenizer.from_pretrained(tmp_path / "model"), "the [MASK]")
    assert [word for word, _ in data_in(target)["masked"]["guesses"][0]] == [guess.token_str for guess in guessed]


@pytest.mark.parametrize(
    ("content", "more", "said"),
    [
        (b"", [], "lines.txt: there is no text in it"),
        (b"\n  \n", [], "lines.txt: there is no text in it"),
        (b"the cat\n\xff\n", [], "lines.txt, line 2: not UTF-8"),
        (b"the cat\n", ["--layer", "7"], "there is no layer 7, only 0 to 2"),
        (b"the cat\n", ["--heads", "1,12"], "layer 1 has no head 12, only 0 to 11"),
        (b"the cat\n", ["--nearest", "0"], "--nearest must be a whole number, at least 1"),
        (b"the cat\n", ["--mask", "dog"], "the text has no word 'dog' to mask"),
        (None, [], "lines.txt: No such file or directory"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_corpus_is_said_in_one_line(tmp_path, capsys, content, more, said):
    lines = tmp_path / "lines.txt"
    if content is not None:
        lines.write_bytes(content)
    target = tmp_path / "page.html"
    assert main(["view", "the cat", "-m", "minibert-tiny", "-o", str(target), "--corpus", str(lines), *more]) == 1
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not target.exists()


def test_options_of_a_corpus_need_one(tmp_path, capsys):
    assert main(["view", "a", "-o", str(tmp_path / "page.html"), "--layer", "1", "--nearest", "3"]) == 1
    assert "there is no --corpus FILE for --layer, --nearest" in capsys.readouterr().err


@pytest.mark.parametrize("texts", [[""], [" "], ["[CLS]"], ["a", "\n"]])
def test_the_command_line_refuses_a_text_of_which_there_is_nothing_to_show(tmp_path, capsys, texts):
    assert main(["view", *texts, "-o", str(tmp_path / "page.html")]) == 1
    assert re.fullmatch(
        r"minibert: nothing to show: .* has no tokens besides \[CLS\] \[SEP\]\n", capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []


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


@in_a_browser
def test_a_browser_shows_strong_lines_up_to_a_share_and_hides_the_template(tiny, tmp_path):
    html = view(tiny, "the cat sat on the mat.", path=tmp_path / "page.html").read_text(encoding="utf-8")
    found = browse(
        html,
        tmp_path,
        """
        const rows = () => [...document.querySelectorAll(".lines ol:first-child li")].map((row) => row.innerText);
        const there = [...text().tokens.keys()];
        const kept = () => {
          const row = text().weights(1, 2).subarray(0, text().size), lowest = floor(row, there);
          return [...row].filter((byte) => byte >= lowest).length;
        };
        const slide = (value) => {
          const slider = document.getElementById("share");
          slider.value = value;
          slider.dispatchEvent(new Event("input"));
          return kept();
        };
        const result = { kept: [kept(), slide(60), slide(1)], said: document.querySelector("output").textContent };
        result.note = document.querySelector("#panel .note").textContent;
        document.getElementById("bare").click();
        result.rows = rows().map((words) => words.trim());
        result.label = document.getElementById("less").textContent.trim();
        document.getElementById("tab-matrix").click();
        result.hidden = ["by", "most", "less"].map((id) => document.getElementById(id).hidden);
        document.title = JSON.stringify(result);
        """,
    )
    row = collect(tiny, ["the cat sat on the mat."])["texts"][0]["layers"][1]["probs"]
    weights = np.sort((numbers(row, np.uint8, 4, 9, 9)[2, 0] / 255.0) ** 2)[::-1]
    sixty = int((weights.cumsum() < 0.6 * weights.sum()).sum()) + 1
    assert found == {
        "kept": [9, sixty, 1],
        "said": "1 %",
        "note": "Of each token only the strongest lines are drawn, up to 1.0 % of its attention.",
        "rows": ["the", "cat", "sat", "on", "the", "mat", "."],
        "label": "Hide [CLS] and [SEP]",
        "hidden": [True, True, True],
    }


@in_a_browser
def test_a_browser_shows_a_corpus_and_a_masked_text(tiny, tmp_path, indexes, masked_lm):
    options = {"mask": ["cat"], "masked_lm": masked_lm, "corpus": indexes, "nearest": 3}
    path = view(tiny, "the cat on the mat", path=tmp_path / "page.html", **options)
    found = browse(
        path.read_text(encoding="utf-8"),
        tmp_path,
        """
        const all = (name) => [...document.querySelectorAll(name)].map((node) => node.textContent);
        const result = { sides: all("#panel > section > h2"), boards: all("#panel canvas").length };
        for (const name of ["matrix", "neuron", "lines"]) document.getElementById(`tab-${name}`).click();
        result.guesses = all("#guesses .word > span");
        document.querySelectorAll(".token")[2].click();
        document.getElementById("tab-corpus").click();
        result.titles = all("#panel h3").filter((title) => title.startsWith("Nearest"));
        result.marks = all("#panel mark");
        result.counts = all("#panel section:first-child .counts section:first-child dt");
        const search = document.getElementById("search");
        result.searches = all("#search option");
        search.selectedIndex = 1;
        search.dispatchEvent(new Event("change"));
        result.others = all("#panel mark");
        result.looks = all("#panel section:first-child .contexts small:last-child");
        chooseHead(1, 2);
        document.getElementById("bare").click();
        result.bare = all("#panel section:first-child .contexts small:last-child");
        result.scripts = document.scripts.length;
        document.title = JSON.stringify(result);
        """,
    )
    texts = "the cat on the mat", "the [MASK] on the mat"
    expected = [[index.search(index.vectors_of(text)[2], 3)[0] for index in indexes] for text in texts]
    first = expected[0][1]
    looks = indexes[0].attended(first)

    def said(layer, which, head):
        rows = zip(first, looks[layer][which][:, head], strict=True)
        return [f"line {match.line + 1}, looks at {word_at(indexes[0].tokens(match.line), at)}" for match, at in rows]

    assert found == {
        "sides": ["As written", "Masked"],
        "boards": 2,
        "guesses": [guess.token_str for guess in fill_mask(masked_lm, tiny.tokenizer, texts[1])[0]],
        "titles": ["Nearest to cat (2)", "Nearest to [MASK] (2)"],
        "marks": [match.token.removeprefix("##") for side in expected for match in side[0]],
        "counts": list(dict(Counter(match.word for match in expected[0][0]).most_common())),
        "searches": ["the state after layers.1", "the output of heads 1, 3 in layers.0"],
        "others": [match.token.removeprefix("##") for side in expected for match in side[1]],
        "looks": said(0, 0, 0),
        "bare": said(1, 1, 2),
        "scripts": 3,
    }


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    torch.manual_seed(0)
    modules = LateModules(after=[Normalize()], query_expansion=QueryExpansion(8), skiplist_words=[".", ","])
    tokenizer = Tokenizer.from_pretrained(write_encoder(tmp_path_factory.mktemp("late"), ("Pooling", MEAN)))
    return MultiVectorEncoder(widen(Bert(TINY)).eval(), tokenizer, modules)


def test_late_interaction_is_shown_by_the_tokens_that_count(late):
    query, document = "who eats", "the man, a cat eats food."
    data, match = collect(late, [query, document]), late.match(query, document)
    shown = data["late"]
    names = [
        [text["tokens"][at] for at in shown[side]]
        for text, side in zip(data["texts"], ("rows", "columns"), strict=True)
    ]
    assert names == [match.query, match.document]
    assert names[0][-4:] == ["[MASK]"] * 4
    assert not {",", "."} & {*names[1]}
    assert np.allclose(shown["similarities"], match.similarities, atol=1e-4)
    assert shown["score"] == pytest.approx(match.score, abs=1e-4)
    best = match.similarities.amax(1)
    assert [text["tokens"].count("[MASK]") for text in data["texts"]] == [4, 0]
    assert data["texts"][0]["pooled"] == pytest.approx((best / best.sum()).tolist(), abs=1e-5)
    expected = np.zeros(len(data["texts"][1]["tokens"]))
    np.add.at(expected, np.array(shown["columns"])[match.best.numpy()], (best / best.sum()).numpy())
    assert data["texts"][1]["pooled"] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("texts", [["who eats"], ["who eats", ""]], ids=["one text", "an empty document"])
def test_late_interaction_of_fewer_words(late, texts):
    data = collect(late, texts)
    assert len(data["texts"]) == len(texts)
    assert ("late" in data) == (len(texts) == 2)  # [CLS] and [SEP] of an empty document count


def test_a_document_of_which_nothing_counts_has_no_matrix(late, monkeypatch):
    monkeypatch.setattr(late, "skiplist_words", [".", "[CLS]", "[SEP]"])
    data = collect(late, ["who", "..."])
    assert "late" not in data
    assert data["texts"][1]["pooled"] == [0] * 5


def test_the_command_line_shows_late_interaction(late, tmp_path, capsys):
    late.save_pretrained(tmp_path / "model")
    target = tmp_path / "page.html"
    command = ["view", "who eats", "the cat eats food.", "-m", str(tmp_path / "model"), "-o", str(target)]
    assert main([*command, "--max-length", "5"]) == 0
    data = data_in(target)
    assert data["texts"][1]["lost"] == 2
    assert len(data["late"]["rows"]) == 8
    assert main([*command, "--pooling", "mean", "--mask", "cat"]) == 1
    assert "is for MultiVectorEncoder, which takes no --pooling, --mask" in capsys.readouterr().err
    with pytest.raises(ValueError, match="of a SentenceEncoder, not of a MultiVectorEncoder"):
        collect(late, ["the cat"], mask=["cat"])


@in_a_browser
@pytest.mark.parametrize("measure", ["maxsim", "meanmaxsim"])
def test_a_browser_shows_late_interaction(late, tmp_path, monkeypatch, measure):
    monkeypatch.setattr(late, "similarity_fn_name", measure)
    html = view(late, "who eats", "a cat eats food.", path=tmp_path / "page.html").read_text(encoding="utf-8")
    found = browse(
        html,
        tmp_path,
        """
        const all = (name) => [...document.querySelectorAll(name)].map((node) => node.textContent);
        document.getElementById("tab-late").click();
        const result = { rows: all(".late tbody th"), columns: all(".late thead th").slice(3) };
        result.score = all(".cosine span");
        result.best = [...document.querySelectorAll(".late tbody tr")].map((row) =>
          [...row.children].slice(3).findIndex((cell) => cell.className === "best"));
        result.values = all(".late td:nth-child(2)").map(Number);
        document.getElementById("text-1").click();
        result.tokens = all(".token").length;
        document.title = JSON.stringify(result);
        """,
    )
    match = late.match("who eats", "a cat eats food.")
    assert found.pop("values") == pytest.approx(match.similarities.amax(1).tolist(), abs=6e-4)
    assert found == {
        "rows": match.query,
        "columns": match.document,
        "score": [f"{match.score / (8 if measure == 'meanmaxsim' else 1):.3f}"],
        "best": match.best.tolist(),
        "tokens": 7,
    }
