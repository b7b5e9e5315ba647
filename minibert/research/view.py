"""Write one HTML file that shows what every attention head of a SentenceEncoder attends to, in one text or two.

    view(encoder, "A man is eating food.", "Someone has a meal.", path="page.html")

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
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from ..checkpoint.atomic import write_text
from ..encoder import SentenceEncoder
from .attribute import attribute
from .hooks import capture

MOST_MEGABYTES = 30  # of a page: a browser takes seconds to open more
FILES = ("page.html", "page.css", "data.js", "draw.js", "views.js", "page.js")
# These begin or end markup in HTML, or a line in JavaScript. JSON allows an escape for each.
ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def view(
    encoder: SentenceEncoder,
    text: str,
    other: str | None = None,
    *,
    path: str | os.PathLike[str] = "page.html",
    shares: bool = True,
    show_progress_bar: bool = False,
) -> Path:
    """Encode one text or two, each by itself as `encode` does, and write the page. Returns its path.

    Text that is too long is truncated as ``encoder.truncation`` says, and the page shows how much was lost.

    Args:
        encoder, text, other: What is shown.
        path: Of the page.
        shares: Show which words make two texts alike, which takes 128 forwards and backwards.
        show_progress_bar: On stderr, over these.

    Raises:
        ValueError: a layer has no `probs`, `q` or `k` any more; or the page would be above 30 MB.
        TypeError: a text is not a string. OSError: the file can't be written.
    """
    texts = [text] if other is None else [text, other]
    write_text(path, page(collect(encoder, texts, shares=shares, show_progress_bar=show_progress_bar)))
    return Path(path)


def collect(
    encoder: SentenceEncoder, texts: list[str], *, shares: bool = True, show_progress_bar: bool = False
) -> dict[str, Any]:
    """Return everything that the page shows, ready for JSON. Raises as ``view``."""
    _check_size(encoder, texts)
    attentions = [f"layers.{layer}.attention" for layer in range(len(encoder.model.layers))]
    by_layer = [[f"{attention}.core.probs", f"{attention}.q", f"{attention}.k"] for attention in attentions]
    with capture(encoder, *(name for names in by_layer for name in names)) as values:
        parts = encoder.encode(texts, output_value=None)
    lost, prompt_length = encoder.truncation_report.lost, encoder._prompt_tokens(encoder.choose_prompt(None))
    found: dict[str, Any] = {
        "version": __version__,
        "relative": encoder.model.config.position_embedding_type != "absolute",
        "pooling": list(getattr(encoder.pooling, "modes", [type(encoder.pooling).__name__])),
        "texts": [
            {
                "tokens": encoder.tokenizer.convert_ids_to_tokens(part["input_ids"].tolist()),
                "lost": lost.get(i, 0),
                "pooled": pooling_weights(encoder.pooling, part["token_embeddings"], prompt_length).tolist(),
                "layers": [_layer(*(values[name][i] for name in names)) for names in by_layer],
            }
            for i, part in enumerate(parts)
        ],
    }
    if len(parts) == 2:
        a, b = (part["sentence_embedding"] for part in parts)
        found["cosine"] = float(nn.functional.cosine_similarity(a, b, dim=0))
        if shares and all(text.strip() for text in texts):  # a text without words has no scores
            both = (attribute(encoder, *pair, show_progress_bar=show_progress_bar) for pair in (texts, texts[::-1]))
            found["shares"] = [each.scores.tolist() for each in both]
    return found


def _check_size(encoder: SentenceEncoder, texts: list[str]) -> None:
    heads = encoder.model.config.num_attention_heads * len(encoder.model.layers)
    lengths = encoder.tokenizer.encode(texts, limit=encoder.max_seq_length).lengths
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
