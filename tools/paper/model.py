"""The small model that the tables start from."""

from __future__ import annotations

import argparse

from torch import nn

from minibert import SentenceEncoder
from minibert.model import Encoder

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def add_model(parser: argparse.ArgumentParser, layers: int) -> None:
    """Add the options that choose the model."""
    parser.add_argument("--model", default=MODEL, help="a folder or a hub id (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=layers, help="keep the first layers (default: %(default)s)")


def small_encoder(model: str, layers: int, pooling: str | None = None) -> SentenceEncoder:
    """Return the first ``layers`` of a checkpoint, on the CPU, with nothing after the pooling, as in the paper.

    Raises:
        ValueError: The checkpoint has fewer layers.
    """
    encoder = SentenceEncoder.from_pretrained(model, pooling=pooling, device="cpu", truncation="silent")
    there = len(encoder.model.layers)
    if not 1 <= layers <= there:
        raise ValueError(f"{model} has {there} layers, so there can be 1 to {there}, not {layers}")
    encoder.model.layers = Encoder(list(encoder.model.layers)[:layers])
    encoder.head = nn.Sequential()
    return encoder
