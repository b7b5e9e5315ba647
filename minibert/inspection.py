"""What a loaded encoder is, in words and tables: the text of `minibert inspect`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from .encoder import SentenceEncoder
from .table import table


def describe(encoder: SentenceEncoder) -> str:
    """Config, parameters per part, pooling, text, and the load report, each under its heading."""
    return "\n\n".join(
        f"{heading}\n{text}"
        for heading, text in (
            ("Config", table(list(asdict(encoder.model.config).items()), left=(0, 1))),
            ("Parameters", _parameters(encoder)),
            ("From text to vector", _pipeline(encoder)),
            ("Load report", str(encoder.report or "not loaded from files")),
        )
    )


def _parameters(encoder: SentenceEncoder) -> str:
    model, layers = encoder.model, len(encoder.model.layers)
    layer: Any = model.layers[0]  # all have the same parts
    parts: list[tuple[str, nn.Module | None, int]] = [
        ("embeddings", model.embeddings, 1),
        (f"attention, {layers} layers", layer.attention, layers),
        (f"feed-forward, {layers} layers", layer.feed_forward, layers),
        (f"norms, {layers} layers", nn.ModuleList([layer.attention_norm, layer.feed_forward_norm]), layers),
        ("pooler (not used for sentence vectors)", model.pooler, 1),
        ("after the pooling", encoder.head, 1),
    ]
    counts = [(name, times * _count(part)) for name, part, times in parts if part is not None and _count(part)]
    whole = _count(encoder)
    rows = [(name, f"{count:,}", f"{100 * count / whole:.1f} %") for name, count in counts]
    return table([*rows, ("all", f"{whole:,}", f"{_bytes(encoder) / 2**20:.0f} MiB")])


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
