"""See it: one HTML file with all that a SentenceEncoder's heads looked at in a text, or in two.

    view(encoder, "A man is eating food.", "Someone has a meal.", path="page.html")

The file needs no server and no network, and its policy (CSP) allows none: styles and script are those of `page/` and
known by their hashes, so that no text in it can ever run. Numbers go in as bytes of base64: of weights the square
root, in 255 steps, for small weights are most of them; of q and k 127 steps to each side, with a scale per vector.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from ..checkpoint.atomic import write_text
from ..encoder import SentenceEncoder
from .attribute import attribute
from .catalogue import nearest
from .hooks import capture

SCRIPTS = ("data.js", "draw.js", "views.js", "page.js")
# In HTML text these begin or end something, and the last two end a line of JavaScript; in JSON all may be written so.
ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def view(
    encoder: SentenceEncoder, text: str, other: str | None = None, *, path: str | os.PathLike[str] = "page.html"
) -> Path:
    """Encode one text or two, each by itself as `encode` does, and write the page that shows how.

    Text that is too long is cut as the encoder's ``truncation`` has it; the page says how much was lost.

    Raises:
        ValueError: a layer has no `probs`, `q` or `k` any more (it is said which, and what stands there).
        TypeError: a text is no string. OSError: the file can't be written.
    """
    texts = [text] if other is None else [text, other]
    write_text(path, page(collect(encoder, texts)))
    return Path(path)


def collect(encoder: SentenceEncoder, texts: list[str]) -> dict[str, Any]:
    """All that the page shows, ready for JSON. Raises as ``view``."""
    prompt_lengths: list[int] = []
    hook = encoder.pooling.register_forward_pre_hook(lambda _, inputs: prompt_lengths.append(inputs[2]))
    names = [f"layers.*.attention.{value}" for value in ("core.probs", "q", "k")]
    try:
        with capture(encoder, *names) as values:
            parts = encoder.encode(texts, output_value=None)
    finally:
        hook.remove()
    lost = encoder.truncation_report.lost
    layers = range(len(encoder.model.layers))
    wanted = [pattern.replace("*", str(layer)) for layer in layers for pattern in names]
    if missing := [name for name in wanted if name not in values]:
        raise ValueError(
            f"{missing[0]} was not computed, so it can't be shown; the nearest: {nearest(missing[0], values)}"
        )
    found: dict[str, Any] = {
        "version": __version__,
        "relative": encoder.model.config.position_embedding_type != "absolute",
        "pooling": list(getattr(encoder.pooling, "modes", [type(encoder.pooling).__name__])),
        "texts": [],
    }
    for i, part in enumerate(parts):
        own = [[values[pattern.replace("*", str(layer))][i] for pattern in names] for layer in layers]
        found["texts"].append(
            {
                "tokens": encoder.tokenizer.convert_ids_to_tokens(part["input_ids"].tolist()),
                "lost": lost.get(i, 0),
                "pooled": pooling_weights(encoder.pooling, part["token_embeddings"], prompt_lengths[0]).tolist(),
                "layers": [_layer(*three) for three in own],
            }
        )
    if len(parts) == 2:
        a, b = (part["sentence_embedding"] for part in parts)
        found["cosine"] = float(nn.functional.cosine_similarity(a, b, dim=0))
        if all(text.strip() for text in texts):  # a text without words has none to share the cosine out to
            found["shares"] = [attribute(encoder, *pair).scores.tolist() for pair in (texts, texts[::-1])]
    return found


def page(data: dict[str, Any]) -> str:
    """The whole page with the data in it."""
    own = files(__package__) / "page"
    style = (own / "page.css").read_text(encoding="utf-8")
    script = "".join((own / name).read_text(encoding="utf-8") for name in SCRIPTS)
    html = (own / "page.html").read_text(encoding="utf-8")
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(ESCAPED)
    for name, value in (
        ("style-hash", _hash(style)),
        ("script-hash", _hash(script)),
        ("style", style),
        ("script", script),
        ("data", text),  # the last, so that no text is looked through for such a name
    ):
        html = html.replace(f"@{name}@", value, 1)
    return html


def pooling_weights(pooling: nn.Module, x: Tensor, prompt_length: int = 0) -> Tensor:
    """How much of the sentence's vector comes from each token, whatever the pooling. x (S, D) -> (S,)

    It is the derivative of a dimension by the same dimension of a token, averaged over the dimensions: 1 / S for the
    mean, 1 at the first token for cls, the share of dimensions won for max.
    """
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        pooled = pooling(x[None], x.new_ones(1, len(x), dtype=torch.bool), prompt_length)
        (gradient,) = torch.autograd.grad(pooled.sum(), x)
    return gradient.mean(1) * x.shape[1] / pooled.shape[1]


def _layer(probs: Tensor, q: Tensor, k: Tensor) -> dict[str, Any]:
    """One layer of one text: probs (H, S, S), q and k (H, S, K) as bytes."""
    weights = (probs.float().clamp(0, 1).sqrt() * 255).round().to(torch.uint8)
    row: dict[str, Any] = {"heads": len(probs), "size": q.shape[-1], "probs": _bytes(weights)}
    for name, vectors in (("q", q.float()), ("k", k.float())):
        step = (vectors.abs().amax(-1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        row[name] = _bytes((vectors / step[..., None]).round().to(torch.int8))
        row[f"{name}_step"] = _bytes(step)
    return row


def _bytes(values: Tensor) -> str:
    """Little-endian, as every machine is that torch runs on today."""
    return base64.b64encode(values.cpu().contiguous().numpy().tobytes()).decode()


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
