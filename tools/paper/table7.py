"""Measure smart batching: Table 7 of Sentence-BERT (arXiv 1908.10084), on this machine.

    python tools/paper table7 sts-dev.csv

Sentences per second of encoding a file's sentences, including tokenizing, as medians of interleaved rounds:

    given order     32 sentences a batch as they come, each padded to the longest of its batch
    sorted          32 sentences a batch of near-equal length: the paper's smart batching
    minibert        `encode`: batches cut by tokens, side by side on the cores

The paper's figures are of BERT-base, on an Intel i7-5820K and on a V100. This run has another model and machine, so
compare the gains, not the figures. The file has the form of the published STS Benchmark. It takes less than a minute on
two cores.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from minibert import SentenceEncoder
from minibert.display import table
from minibert.training.reading import read_pairs

from .model import add_model, small_encoder

BATCH = 32
# The paper's sentences per second, without and with smart batching.
PAPER_CPU = {"given order": 44, "sorted": 83}
PAPER_GPU = {"given order": 1378, "sorted": 2042}


def given_order(encoder: SentenceEncoder, sentences: list[str]) -> np.ndarray:
    """Encode batch after batch in the given order. n sentences -> (n, D)"""
    batches = [sentences[start : start + BATCH] for start in range(0, len(sentences), BATCH)]
    with torch.inference_mode():
        return torch.cat([encoder(**encoder.tokenize(batch)) for batch in batches]).numpy()


def by_length(encoder: SentenceEncoder, sentences: list[str]) -> np.ndarray:
    """Encode the shortest first, and put the vectors back in order. n sentences -> (n, D)"""
    order = np.argsort(encoder.tokenizer.encode(sentences).lengths, kind="stable")
    vectors = given_order(encoder, [sentences[i] for i in order])
    result = np.empty_like(vectors)
    result[order] = vectors
    return result


def smart(encoder: SentenceEncoder, sentences: list[str]) -> np.ndarray:
    """Encode as minibert does. n sentences -> (n, D)"""
    vectors: np.ndarray = encoder.encode(sentences)
    return vectors


WAYS: dict[str, Callable[[SentenceEncoder, list[str]], np.ndarray]] = {
    "given order": given_order,
    "sorted": by_length,
    "minibert": smart,
}


def race(encoder: SentenceEncoder, sentences: list[str], rounds: int) -> dict[str, float]:
    """Return the sentences per second of each way. Raises ValueError if their vectors differ."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    reference = given_order(encoder, sentences)
    for _ in range(rounds):
        for name, way in WAYS.items():
            started = time.perf_counter()
            vectors = way(encoder, sentences)
            seconds[name].append(time.perf_counter() - started)
            if (apart := float(np.abs(vectors - reference).max())) > 1e-4:
                raise ValueError(f"{name} gives other vectors than the given order: they differ by {apart:.1e}")
    return {name: len(sentences) / statistics.median(times) for name, times in seconds.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python tools/paper table7", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="sts-dev.csv or one of its form")
    add_model(parser, layers=6)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each median (default: %(default)s)")
    options = parser.parse_args(arguments)
    _, first, second = read_pairs(options.file)
    sentences = [*first, *second]
    encoder = small_encoder(options.model, options.layers)
    lengths = encoder.tokenizer.encode(sentences).lengths
    print(
        f"A re-run with another model on another machine: {options.layers} layers of {Path(options.model).name} on "
        f"{torch.get_num_threads()} threads, {len(sentences)} sentences of {lengths.mean():.1f} tokens on average. "
        "Sentences a second.\n"
    )
    rates = race(encoder, sentences, options.rounds)
    columns: dict[str, Mapping[str, float]] = {"here": rates, "paper, CPU": PAPER_CPU, "paper, GPU": PAPER_GPU}
    rows: list[list[str]] = [["", *(cell for title in columns for cell in (title, "gain"))]]
    rows += [[name, *(cell for column in columns.values() for cell in cells(column, name))] for name in WAYS]
    print(table(rows))
    return 0


def cells(rates: Mapping[str, float], way: str) -> tuple[str, str]:
    """Return a rate, and its gain over that of the given order."""
    if way not in rates:
        return "", ""
    return f"{rates[way]:.0f}", f"{100 * (rates[way] / rates['given order'] - 1):+.0f} %"
