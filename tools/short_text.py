"""Time one short text in each dtype: torch's own products, its operators, `encode`, and the page.

    python tools/short_text.py FOLDER --text "A man is eating food."

Each of the first three lines includes the one before it. "products" are those of the layers by themselves. "operators"
adds attention, norms and activations, one after another with nothing in between. "encode" adds all that minibert does.
So the second line is the least that torch allows. "page" is `encode` by the page alone, in float32. Rounds are
interleaved; figures are medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from minibert import SentenceEncoder
from minibert.display import table
from minibert.model import LayerNorm

DTYPES = ("float32", "bfloat16", "int8")


def product(dtype: str, *linears: nn.Linear) -> Callable[[Tensor], Tensor]:
    """Return oneDNN's product with the packed weights of linear layers that share an input. (S, D) -> (S, N)"""
    weight = torch.cat([linear.weight.detach().float() for linear in linears])
    bias = torch.cat([linear.bias.detach().float() for linear in linears])
    if dtype == "int8":
        scales = weight.abs().amax(1) / 127
        packed = torch.ops.onednn.qlinear_prepack((weight / scales[:, None]).round().to(torch.int8), None)
        multiply = torch.ops.onednn.qlinear_pointwise
        zeros = torch.zeros(len(weight), dtype=torch.int32)

        def quantized(x: Tensor) -> Tensor:
            scale = float(x.abs().max()) / 127
            q = (x / scale + 128).round().to(torch.uint8)
            return multiply(q, scale, 128, packed, scales, zeros, bias, 1.0, 0, torch.float32, "none", [], "")

        return quantized
    weight, bias = weight.to(getattr(torch, dtype)), bias.to(getattr(torch, dtype))
    if not torch.backends.mkldnn.is_available():
        return lambda x: functional.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


class Operators:
    """One layer as a row of torch's operators, without checks, for one text. (S, D) -> (S, D)"""

    def __init__(self, layer: Any, dtype: str) -> None:
        attention, feed_forward = layer.attention, layer.feed_forward
        self.heads = attention.query.out_features // attention.head_size
        self.qkv = product(dtype, attention.query, attention.key, attention.value)
        self.out = product(dtype, attention.out)
        self.up, self.down = product(dtype, feed_forward.up), product(dtype, feed_forward.down)
        kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self.norms = [_norm(norm, kind) for norm in (layer.attention_norm, layer.feed_forward_norm)]

    def products(self, x: Tensor) -> Tensor:
        """Compute the products alone."""
        self.qkv(x)
        self.out(x)
        return self.down(self.up(x))

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the layer."""
        S, D = x.shape
        q, k, v = self.qkv(x).view(1, S, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(S, D)
        x = torch.layer_norm(self.out(attended).add_(x), *self.norms[0])
        return torch.layer_norm(self.down(functional.gelu(self.up(x))).add_(x), *self.norms[1])


def _norm(norm: LayerNorm, dtype: torch.dtype) -> tuple[list[int], Tensor, Tensor, float]:
    return [len(norm.weight)], norm.weight.detach().to(dtype), norm.bias.detach().to(dtype), norm.eps


def race(works: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Return the milliseconds of each, as medians of interleaved turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, work in works.items():
            for _ in range(3):  # the work before may have left other things in cache, so the last of three counts
                started = time.perf_counter()
                work()
            times[name].append(time.perf_counter() - started)
    return {name: 1000 * statistics.median(turns) for name, turns in times.items()}


def measure(folder: str | None, dtype: str, text: str, seconds: float) -> dict[str, float]:
    """Return one column of the table."""
    name = [folder] if folder else []
    encoder = SentenceEncoder.from_pretrained(*name, dtype=dtype, device="cpu")
    page = SentenceEncoder.from_pretrained(*name, dtype="float32", device="cpu", fast=False)
    batch = page.tokenize([text])
    with torch.inference_mode():
        x = page.model.embeddings(batch["input_ids"], batch["token_type_ids"])
        layers = [Operators(layer, dtype) for layer in page.model.layers]
        rows = x[0].to(torch.bfloat16 if dtype == "bfloat16" else torch.float32)

        def operators() -> Tensor:
            y = rows
            for layer in layers:
                y = layer(y)
            return y

        works: dict[str, Callable[[], object]] = {
            "products": lambda: [layer.products(rows) for layer in layers],
            "operators": operators,
            "encode": lambda: encoder.encode(text),
            "page": lambda: page.encode(text),
        }
        alike = functional.cosine_similarity(page.model.layers(x)[0], operators().float())  # (S,)
        assert alike.min() > 0.9, f"the operators are not the layers: {alike}"  # int8 rounds
        return {"tokens": float(x.shape[1])} | race(works, seconds)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="a checkpoint (default: the built-in model)")
    parser.add_argument("--text", default="A man is eating a piece of food in the middle of the day.")
    parser.add_argument("--seconds", type=float, default=10, help="for each dtype (default: %(default)s)")
    settings = parser.parse_args()
    columns = {name: measure(settings.folder, name, settings.text, settings.seconds) for name in DTYPES}
    tokens = int(next(iter(columns.values())).pop("tokens"))
    lines = next(iter(columns.values()))
    print(f"one text of {tokens} tokens, {torch.get_num_threads()} threads, milliseconds\n")
    print(table([("", *columns), *((line, *(f"{column[line]:.2f}" for column in columns.values())) for line in lines)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
