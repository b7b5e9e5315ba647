"""Show the config, the parameters of each part, the pooling, and the load report.

The report accounts for every tensor: used, or known and left aside.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..checkpoint.hub import DEFAULT_MODEL
from ..display import table
from .options import add_source, keywords

if TYPE_CHECKING:
    from torch import nn

    from ..encoder import SentenceEncoder
    from ..model import Bert

HELP = "what a checkpoint contains, and what was loaded of it"


def add_flags(parser: ArgumentParser) -> None:
    """Add the model and the hub."""
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, metavar="MODEL", help="a folder or a hub id")
    add_source(parser)


def run(options: Namespace) -> None:
    """Print the description of an encoder, or of the Bert in a checkpoint of another kind or without a tokenizer."""
    from ..checkpoint.hub import open_files
    from ..checkpoint.kinds import kind_of
    from ..checkpoint.wordpiece import NoTokenizerError
    from ..encoder import SentenceEncoder
    from ..model import Bert

    source = keywords(options, "revision", "local_files_only")
    if (kind := kind_of(open_files(options.model, **source))) not in (None, "SentenceEncoder"):
        text = f"the checkpoint is for {kind}: this is its Bert"
        print(describe(Bert.from_pretrained(options.model, device="cpu", **source), text))
        return
    try:
        print(describe(SentenceEncoder.from_pretrained(options.model, device="cpu", **source)))
    except NoTokenizerError:
        print(describe(Bert.from_pretrained(options.model, device="cpu", **source)))


def describe(model: SentenceEncoder | Bert, without: str = "no tokenizer in the checkpoint: token ids only") -> str:
    """Return config, parameters per part, the way from text to vector, and the load report, each with a heading."""
    from ..encoder import SentenceEncoder

    encoder = model if isinstance(model, SentenceEncoder) else None
    bert = model.model if isinstance(model, SentenceEncoder) else model
    sections = {
        "Config": table(list(asdict(bert.config).items()), left=(0, 1)),
        "Parameters": _parameters(bert, encoder),
        "From text to vector": _pipeline(encoder) if encoder else without,
        "Load report": str(model.report or "not loaded from files"),
    }
    return "\n\n".join(f"{heading}\n{text}" for heading, text in sections.items())


def _parameters(bert: Bert, encoder: SentenceEncoder | None) -> str:
    layers: list[Any] = list(bert.layers)  # they differ if heads were pruned
    norms = [norm for layer in layers for norm in (layer.attention_norm, layer.feed_forward_norm)]
    parts: dict[str, list[nn.Module | None]] = {
        "embeddings": [bert.embeddings],
        f"attention, {len(layers)} layers": [layer.attention for layer in layers],
        f"feed-forward, {len(layers)} layers": [layer.feed_forward for layer in layers],
        f"norms, {len(layers)} layers": norms,
        "pooler (not used for sentence vectors)": [bert.pooler],
        "after the pooling": [encoder.head if encoder else None],
    }
    whole = list((encoder or bert).parameters())
    total = sum(value.numel() for value in whole)
    size = sum(value.numel() * value.element_size() for value in whole)
    counts = {
        name: sum(value.numel() for module in modules if module is not None for value in module.parameters())
        for name, modules in parts.items()
    }
    rows = [(name, f"{count:,}", f"{100 * count / total:.1f} %") for name, count in counts.items() if count]
    return table([*rows, ("all", f"{total:,}", f"{size / 2**20:.0f} MiB")])


def _pipeline(encoder: SentenceEncoder) -> str:
    after = ", ".join(type(module).__name__ for module in encoder.head)
    prompts = ", ".join(f"{name}: {text!r}" for name, text in encoder.prompts.items())
    rows = [
        ("vocabulary", f"{len(encoder.tokenizer):,} tokens"),
        ("longest text", f"{encoder.max_seq_length} tokens"),
        ("pooling", encoder.pooling.extra_repr()),
        ("after it", after or "nothing"),
        ("vector", f"{encoder.get_sentence_embedding_dimension()} numbers"),
        ("similarity", encoder.similarity_fn_name),
        ("prompts", prompts or "none"),
    ]
    return table(rows, left=(0, 1))
