"""Where the time of one short text goes, in each arithmetic: products, other operators, finding things, the rest.

    python tools/short_text.py FOLDER --text "A man is eating food."

Each line holds the one before it: the layers' products by themselves; with the other operators of the layers
(attention, norms), one after another and with nothing between them; the layers as minibert calls them; `encode`, with
tokens, embeddings, pooling, checks. So the second line is what torch leaves to be had. Rounds are interleaved; medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from minibert import SentenceEncoder
from minibert.display import table
from minibert.fast.arithmetic import ARITHMETICS
from minibert.fast.layers import Asked, OnePiece, ProductLayer, asked
from minibert.fast.rows import heads
from minibert.fast.watching import quiet


def products(pieces: list[OnePiece], rows: Tensor) -> None:
    """All products of all layers, of rows (S, D)."""
    for piece in pieces:
        piece.into.multiply(rows)
        piece.back.multiply_onto(rows, rows)
        piece.down.multiply_onto(rows, piece.up.multiply(rows, piece.activation))


def operators(pieces: list[OnePiece], rows: Tensor) -> Tensor:
    """The layers of one text without any question asked. (S, D) -> (S, D)"""
    S, D = rows.shape
    for piece in pieces:
        norm, other_norm = piece.norms
        q, k, v = heads(piece.into.multiply(rows), (1, S), 3, piece.head_size)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(S, D)
        rows = torch.layer_norm(piece.back.multiply_onto(rows, mixed), *norm)
        rows = torch.layer_norm(piece.down.multiply_onto(rows, piece.up.multiply(rows, piece.activation)), *other_norm)
    return rows


def race(works: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Milliseconds of each, the median of interleaved turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, work in works.items():
            for _ in range(3):  # what came before may have left other things in cache: the last of three counts
                started = time.perf_counter()
                work()
            times[name].append(time.perf_counter() - started)
    return {name: 1000 * statistics.median(turns) for name, turns in times.items()}


def measure(folder: str | None, dtype: str, text: str, seconds: float) -> dict[str, float]:
    """One column of the table."""
    encoder = SentenceEncoder.from_pretrained(*([folder] if folder else []), dtype=dtype, device="cpu")
    batch = encoder.tokenize([text])
    encoder.encode(text)
    with torch.inference_mode():
        snapshot = quiet(encoder)
        x = encoder.model.embeddings(batch["input_ids"], batch["token_type_ids"])
        layers = encoder.model.layers
        found = [layer.in_one_piece(snapshot) for layer in layers if isinstance(layer, ProductLayer)]
        pieces = [piece for piece in found if piece is not None]
        if len(pieces) < len(layers):
            raise SystemExit(f"{folder}: its layers are not computed in one piece; there is nothing to take apart")
        with asked(Asked(snapshot)):
            works: dict[str, Callable[[], object]] = {
                "products": lambda: products(pieces, x[0]),
                "operators": lambda: operators(pieces, x[0]),
                "layers": lambda: layers(x),
                "encode": lambda: encoder.encode(text),
            }
            assert torch.allclose(layers(x)[0], operators(pieces, x[0]), atol=0.1)  # that they are the same layers
            return {"tokens": float(x.shape[1])} | race(works, seconds)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="a checkpoint (default: the built-in model)")
    parser.add_argument("--text", default="A man is eating a piece of food in the middle of the day.")
    parser.add_argument("--seconds", type=float, default=10, help="for each arithmetic (default: %(default)s)")
    settings = parser.parse_args()
    columns = {name: measure(settings.folder, name, settings.text, settings.seconds) for name in ARITHMETICS}
    tokens = int(next(iter(columns.values())).pop("tokens"))
    lines = next(iter(columns.values()))
    print(f"one text of {tokens} tokens, {torch.get_num_threads()} threads, milliseconds\n")
    print(table([("", *columns), *((line, *(f"{column[line]:.2f}" for column in columns.values())) for line in lines)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
