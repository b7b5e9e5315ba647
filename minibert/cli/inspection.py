"""What a loaded model is, in words and tables: the text of `minibert inspect`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from ..display import table
from ..encoder import SentenceEncoder
from ..model import Bert


def describe(model: SentenceEncoder | Bert) -> str:
    """Config, parameters per part, how text becomes a vector, and the load report, each under its heading."""
    encoder = model if isinstance(model, SentenceEncoder) else None
    bert = model.model if isinstance(model, SentenceEncoder) else model
    return "\n\n".join(
        f"{heading}\n{text}"
        for heading, text in (
            ("Config", table(list(asdict(bert.config).items()), left=(0, 1))),
            ("Parameters", _parameters(bert, encoder)),
            (
                "From text to vector",
                _pipeline(encoder) if encoder else "no tokenizer in the checkpoint: token ids only",
            ),
            ("Load report", str(model.report or "not loaded from files")),
        )
    )


def _parameters(bert: Bert, encoder: SentenceEncoder | None) -> str:
    layers: list[Any] = list(bert.layers)  # not all alike, where heads were cut out
    norms = [norm for layer in layers for norm in (layer.attention_norm, layer.feed_forward_norm)]
    parts: list[tuple[str, list[nn.Module | None]]] = [
        ("embeddings", [bert.embeddings]),
        (f"attention, {len(layers)} layers", [layer.attention for layer in layers]),
        (f"feed-forward, {len(layers)} layers", [layer.feed_forward for layer in layers]),
        (f"norms, {len(layers)} layers", norms),
        ("pooler (not used for sentence vectors)", [bert.pooler]),
        ("after the pooling", [encoder.head if encoder else None]),
    ]
    sums = [(name, sum(_count(module) for module in modules if module is not None)) for name, modules in parts]
    counts = [(name, count) for name, count in sums if count]
    whole = encoder or bert
    rows = [(name, f"{count:,}", f"{100 * count / _count(whole):.1f} %") for name, count in counts]
    return table([*rows, ("all", f"{_count(whole):,}", f"{_bytes(whole) / 2**20:.0f} MiB")])


def _count(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def _bytes(part: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in part.parameters())


def _pipeline(encoder: SentenceEncoder) -> str:
    after = [type(module).__name__ for module in encoder.head] or ["nothing"]
    prompts = [f"{name}: {text!r}" for name, text in encoder.prompts.items()] or ["none"]
    rows = [
        ("vocabulary", f"{len(encoder.tokenizer):,} tokens"),
        ("longest text", f"{encoder.max_seq_length} tokens"),
        ("pooling", encoder.pooling.extra_repr()),
        ("after it", ", ".join(after)),
        ("vector", f"{encoder.get_sentence_embedding_dimension()} numbers"),
        ("similarity", encoder.similarity_fn_name),
        ("prompts", ", ".join(prompts)),
    ]
    return table(rows, left=(0, 1))
