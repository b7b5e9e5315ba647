"""Write one HTML file that shows what every attention head of an encoder attends to, in one text or two.

    view(encoder, "A man is eating food.", "Someone has a meal.", path="page.html")

It can also show a text with and without some words, the tokens of a corpus that are nearest to each token, and MaxSim.
The file needs no server and no network, and its content security policy forbids both. Styles and script come from
`page/` and are identified by their hashes, so no text in the file can ever run. Numbers are base64 bytes. Weights are
stored as square roots in 255 steps, because most are small; q and k in 127 steps to each side, with a scale per vector.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..call import evaluating
from ..checkpoint.atomic import write_text
from ..encoder import SentenceEncoder
from ..heads import BertWithMaskedLM
from ..retrieval.multi_vector_encoder import MultiVectorEncoder
from ..text_model import TextModel
from ..token_pooling import TASKS
from ..tokenizer import Tokenizer
from .attribute import attribute
from .corpus import Match, TokenIndex, in_template
from .hooks import capture, patch
from .lens import guesses

MOST_MEGABYTES = 30  # of a page: a browser takes seconds to open more
FILES = ("page.html", "page.css", "data.js", "draw.js", "views.js", "corpus.js", "late.js", "page.js")
# These begin or end markup in HTML, or a line in JavaScript. JSON allows an escape for each.
ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def view(
    encoder: SentenceEncoder | MultiVectorEncoder,
    text: str,
    other: str | None = None,
    *,
    path: str | os.PathLike[str] = "page.html",
    shares: bool = True,
    show_progress_bar: bool = False,
    mask: str | Sequence[str] = (),
    masked_lm: BertWithMaskedLM | None = None,
    corpus: Sequence[TokenIndex] = (),
    nearest: int = 12,
) -> Path:
    """Encode one text or two, each by itself as `encode` does, and write the page. Returns its path.

    Text that is too long is truncated as ``encoder.truncation`` says, and the page shows how much was lost.

    Args:
        encoder, text, other: What is shown; by a MultiVectorEncoder, a query and a document.
        path: Of the page.
        shares: Show which words make two texts alike, which takes 128 forwards and backwards.
        show_progress_bar: On stderr, over these.
        mask: Words of ``text``. The page shows it with and without them, side by side.
        masked_lm: Of the same checkpoint. The page shows what it would put there.
        corpus: Indexes of the same lines. The page shows the ``nearest`` tokens of each to every token.

    Raises:
        ValueError: a layer has no `probs`, `q` or `k` any more; the page would be above 30 MB; a word to be masked is
            not in the text, or there are two texts, or a MultiVectorEncoder; or the indexes are of several corpora.
        TypeError: a text is not a string. OSError: the file can't be written.
    """
    texts = [text] if other is None else [text, other]
    options: dict[str, Any] = {"mask": mask, "masked_lm": masked_lm, "corpus": corpus, "nearest": nearest}
    write_text(path, page(collect(encoder, texts, shares=shares, show_progress_bar=show_progress_bar, **options)))
    return Path(path)


def collect(
    encoder: SentenceEncoder | MultiVectorEncoder,
    texts: list[str],
    *,
    shares: bool = True,
    show_progress_bar: bool = False,
    mask: str | Sequence[str] = (),
    masked_lm: BertWithMaskedLM | None = None,
    corpus: Sequence[TokenIndex] = (),
    nearest: int = 12,
) -> dict[str, Any]:
    """Return everything that the page shows, ready for JSON. Arguments and errors are those of ``view``."""
    if mask and len(texts) > 1:
        raise ValueError("words are masked in one text, which is shown with and without them: leave out the other text")
    _check_size(encoder, texts * 2 if mask else texts)
    relative = encoder.model.config.position_embedding_type != "absolute"
    found: dict[str, Any] = {"version": __version__, "relative": relative}
    if isinstance(encoder, MultiVectorEncoder):
        if mask or corpus:
            raise ValueError("masked words and a corpus are shown of a SentenceEncoder, not of a MultiVectorEncoder")
        return found | _compute_late(encoder, texts)
    shown, parts, queries = _compute(encoder, texts, corpus)
    found["pooling"] = list(getattr(encoder.pooling, "modes", [type(encoder.pooling).__name__]))
    found["texts"] = shown
    if mask:
        positions = masked_positions(encoder, shown[0]["tokens"], mask)
        for before, more in zip((shown, parts, queries), _compute(encoder, texts, corpus, positions), strict=True):
            before.extend(more)  # type: ignore[attr-defined]
        guessed = masked_lm and _guess(masked_lm, encoder.tokenizer, parts[1]["token_embeddings"][positions])
        found["masked"] = {"positions": positions, "guesses": guessed}
    if len(parts) == 2:
        a, b = (part["sentence_embedding"] for part in parts)
        found["cosine"] = float(nn.functional.cosine_similarity(a, b, dim=0))
        if shares and not mask and all(text.strip() for text in texts):  # a text without words has no scores
            both = (attribute(encoder, *pair, show_progress_bar=show_progress_bar) for pair in (texts, texts[::-1]))
            found["shares"] = [each.scores.tolist() for each in both]
    if corpus:
        found["corpus"] = _contexts(corpus, shown, queries, nearest)
    return found


def masked_positions(encoder: SentenceEncoder, tokens: list[str], words: str | Sequence[str]) -> list[int]:
    """Return the positions of words in a text's tokens. Raises ValueError if one is not there, or no token masks."""
    tokenizer, found = encoder.tokenizer, set()
    if tokenizer.mask_id is None:
        raise ValueError(f"nothing can be masked: the vocabulary has no {tokenizer.mask_token}")
    for word in [words] if isinstance(words, str) else words:
        pieces = tokenizer.tokenize(word)
        ends = [i + len(pieces) for i in range(len(tokens)) if pieces and tokens[i : i + len(pieces)] == pieces]
        ends = [end for end in ends if not "".join(tokens[end : end + 1]).startswith("##")]
        if not ends:
            there = " ".join(tokens).replace(" ##", "")
            raise ValueError(f"the text has no word {word!r:.80} to mask; it is read as: {there:.200}")
        found |= {i for end in ends for i in range(end - len(pieces), end)}
    return sorted(found)


def _guess(masked_lm: BertWithMaskedLM, tokenizer: Tokenizer, x: Tensor) -> list[list[tuple[str, float]]]:
    """Return the five most probable words of each state (n, D), with their probabilities."""
    with torch.no_grad(), evaluating(masked_lm):
        logits = masked_lm.to_vocabulary(x.to(next(masked_lm.parameters())))
    return [[(guess.token_str, round(guess.score, 4)) for guess in five] for five in guesses(logits, tokenizer, 5)]


def _compute(
    encoder: SentenceEncoder, texts: list[str], corpus: Sequence[TokenIndex], masked: Sequence[int] = ()
) -> tuple[list[dict[str, Any]], list[dict[str, Tensor]], list[list[Tensor]]]:
    """Return of each text what is shown, what `encode` gives, and the vectors of its tokens to search each index for.

    At ``masked`` positions the vector of [MASK] takes the place of the token's own.
    """
    names = [*chain(*_names(encoder)), *(index.place for index in corpus)]
    mask_id: Any = encoder.tokenizer.mask_id

    def hide(x: Tensor) -> Tensor:
        return encoder.model.embeddings.token.weight[mask_id].to(x).expand_as(x)

    with capture(encoder, *names) as values, ExitStack() as hidden:
        if masked:
            hidden.enter_context(patch(encoder, "embeddings.token", hide, positions=masked))
        parts = encoder.encode(texts, output_value=None)
    prompt_length, shown = encoder._prompt_tokens(encoder.choose_prompt(None)), []
    for i, part in enumerate(parts):
        own = _text(encoder, part["input_ids"].cpu().numpy(), values, i)
        for position in masked:
            own["tokens"][position] = encoder.tokenizer.mask_token
        own["pooled"] = pooling_weights(encoder.pooling, part["token_embeddings"], prompt_length).tolist()
        shown.append(own)
    return shown, parts, [[index.unit(values[index.place][i]) for index in corpus] for i in range(len(parts))]


def _compute_late(encoder: MultiVectorEncoder, texts: list[str]) -> dict[str, Any]:
    """Return what is shown of a query, and of a document: with both, their tokens that count, and the similarities."""
    shown: list[dict[str, Any]] = []
    sides: list[tuple[Tensor, Tensor]] = []
    for text, task in zip(texts, TASKS, strict=False):
        with capture(encoder, *chain(*_names(encoder))) as values:
            ids, x, counts = encoder._side(text, task, {})
        shown.append(_text(encoder, ids, values, 0) | {"pooled": (counts / max(1, counts.sum())).tolist()})
        sides.append((x[counts], torch.from_numpy(counts.nonzero()[0])))
    found: dict[str, Any] = {"pooling": [encoder.similarity_fn_name], "texts": shown}
    if len(sides) == 2 and all(len(x) for x, _ in sides):
        (x, rows), (y, columns) = sides
        similarities = (x @ y.T).double()
        best, places = similarities.amax(1), similarities.argmax(1)
        score = best.mean() if encoder.similarity_fn_name == "meanmaxsim" else best.sum()
        late = {"rows": rows, "columns": columns, "best": places, "score": score, "similarities": similarities}
        found["late"] = {name: value.numpy().round(4).tolist() for name, value in late.items()}
        shares = best / (best.sum() or 1)
        for own, positions in zip(shown, (rows, columns[places]), strict=True):
            own["pooled"] = shares.new_zeros(len(own["tokens"])).index_add(0, positions, shares).tolist()
    return found


def _names(encoder: TextModel) -> list[list[str]]:
    """Return the names of the values that are shown, by layer."""
    places = [f"layers.{layer}.attention" for layer in range(len(encoder.model.layers))]
    return [[f"{place}.core.probs", f"{place}.q", f"{place}.k"] for place in places]


def _text(encoder: TextModel, ids: np.ndarray, values: Any, i: int) -> dict[str, Any]:
    """Return what is shown of text i of a call."""
    return {
        "tokens": encoder.tokenizer.convert_ids_to_tokens(ids.tolist()),
        "template": np.flatnonzero(in_template(encoder.tokenizer, ids)).tolist(),
        "lost": encoder.truncation_report.lost.get(i, 0),
        "layers": [_layer(*(values[name][i] for name in names)) for names in _names(encoder)],
    }


def _contexts(
    corpus: Sequence[TokenIndex], shown: list[dict[str, Any]], queries: list[list[Tensor]], nearest: int
) -> dict[str, Any]:
    """Return the lines with the nearest tokens, and put into each text which these are and their cosines."""
    first, numbers = corpus[0], dict[tuple[int, int], int]()  # of each match, by its line and position
    if any(index.lines != first.lines for index in corpus):
        raise ValueError("the indexes of a page must be of the same lines")

    def row(match: Match) -> tuple[int, float]:
        return numbers.setdefault(match[:2], len(numbers)), round(match.score, 4)

    for text, vectors in zip(shown, queries, strict=True):
        found = [index.search(some, nearest) for index, some in zip(corpus, vectors, strict=True)]
        text["nearest"] = [[list(map(row, matches)) for matches in by_token] for by_token in found]
    contexts = {
        "size": len(first.lines),
        "searches": [{"layer": index.layer, "heads": index.heads} for index in corpus],
        "lines": {line: first.tokens(line) for line, _ in numbers},
        "matches": list(numbers),
        "looks": _bytes(torch.from_numpy(np.concatenate(first.attended(list(numbers)), axis=2))),
    }
    if (megabytes := len(json.dumps(contexts)) / 1e6) > MOST_MEGABYTES:
        raise ValueError(
            f"the contexts would take {megabytes:.0f} MB of the page, and at most {MOST_MEGABYTES} can be looked at: "
            "show fewer of the nearest (--nearest)"
        )
    return contexts


def _check_size(encoder: TextModel, texts: list[str]) -> None:
    heads = encoder.model.config.num_attention_heads * len(encoder.model.layers)
    read = (encoder._tokenize([text], None, {"task": TASKS[min(i, 1)]}) for i, text in enumerate(texts))
    lengths = np.array([len(tokens.ids) for tokens in read])
    megabytes = heads * int((lengths**2).sum()) * 4 / 3 / 1e6  # of the weights, which are most of it
    if megabytes > MOST_MEGABYTES:
        fewer = math.isqrt(int(MOST_MEGABYTES * 1e6 * 3 / 4 / heads / len(texts)))
        raise ValueError(
            f"the page would take {megabytes:.0f} MB, and at most {MOST_MEGABYTES} can be looked at: set "
            f"max_seq_length (--max-length) to {fewer}, and it shows the beginning of the texts"
        )


def page(data: dict[str, Any]) -> str:
    """Return the whole page as HTML, with the data in it."""
    folder = files(__package__) / "page"
    html, style, *scripts = ((folder / name).read_text(encoding="utf-8") for name in FILES)
    script = "".join(scripts)
    parts = {"style-hash": _hash(style), "script-hash": _hash(script), "style": style, "script": script}
    parts["data"] = json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(ESCAPED)
    # In one pass, so that a text that contains such a name stays as it is.
    return re.sub("@([a-z-]+)@", lambda name: parts[name[1]], html)


def pooling_weights(pooling: nn.Module, x: Tensor, prompt_length: int = 0) -> Tensor:
    """Return each token's weight in the sentence vector, for any pooling. x (S, D) -> (S,)

    The weight is the derivative of a dimension by the same dimension of the token, averaged over the dimensions: 1 / S
    for the mean, 1 at the first token for cls, the share of dimensions won for max.
    """
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        pooled = pooling(x[None], x.new_ones(1, len(x), dtype=torch.bool), prompt_length)
        (gradient,) = torch.autograd.grad(pooled.sum(), x)
    return gradient.mean(1) * x.shape[1] / pooled.shape[1]


def _layer(probs: Tensor, q: Tensor, k: Tensor) -> dict[str, Any]:
    """Return one layer of one text as bytes. probs (H, S, S), q and k (H, S, K)"""
    weights = (probs.float().clamp(0, 1).sqrt() * 255).round().to(torch.uint8)
    row: dict[str, Any] = {"heads": len(probs), "size": q.shape[-1], "probs": _bytes(weights)}
    for name, vectors in (("q", q.float()), ("k", k.float())):
        step = (vectors.abs().amax(-1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        row[name] = _bytes((vectors / step[..., None]).round().to(torch.int8))
        row[f"{name}_step"] = _bytes(step)
    return row


def _bytes(values: Tensor) -> str:
    """Encode as base64: little-endian, as every machine that torch runs on today."""
    return base64.b64encode(values.cpu().contiguous().numpy().tobytes()).decode()


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
