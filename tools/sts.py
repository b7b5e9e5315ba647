"""Score an encoder on a file of sentence pairs with human judgements, as the STS Benchmark.

    python tools/sts.py sts-dev.csv --model minilm --pooling cls

The file: tab separated, without quoting; the score, the first and the second sentence are the 5th, 6th and 7th column,
as published (ixa2.si.ehu.eus/stswiki). The figures are correlations, times 100, of the cosine with the scores:
Spearman's (of the ranks; the one that papers quote) and Pearson's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from minibert import SentenceEncoder


def read_pairs(path: Path) -> tuple[np.ndarray, list[str], list[str]]:
    """Scores (n,), first sentences, second sentences. ValueError says which line is no pair."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows, 1):
        if len(row) < 7:
            raise ValueError(f"{path}, line {number}: {len(row)} columns, where a score and two sentences make 7")
    return np.array([float(row[4]) for row in rows]), [row[5] for row in rows], [row[6] for row in rows]


def ranks(values: np.ndarray) -> np.ndarray:
    """1 for the lowest; equal values share the mean of their places. (n,) -> (n,)"""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[which])


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """The linear correlation of two rows of numbers, (n,) each."""
    return float(np.corrcoef(a, b)[0, 1])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of their ranks."""
    return pearson(ranks(a), ranks(b))


def main() -> int:
    """Print both correlations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="sts-dev.csv or one of its form")
    parser.add_argument("--model", default="minilm", help="a folder or a hub id (default: %(default)s)")
    parser.add_argument("--pooling", help="cls, mean, max, ... instead of the checkpoint's own")
    parser.add_argument("--dtype", help="float32 (default), bfloat16, int8, float16, float64")
    options = parser.parse_args()
    scores, first, second = read_pairs(options.file)
    encoder = SentenceEncoder.from_pretrained(options.model, pooling=options.pooling, dtype=options.dtype)
    vectors = encoder.encode([*first, *second], show_progress_bar=sys.stderr.isatty(), normalize_embeddings=True)
    cosines = (vectors[: len(first)] * vectors[len(first) :]).sum(-1)
    print(f"{options.model}, pooling {encoder.pooling.extra_repr()}, {len(scores)} pairs of {options.file.name}")
    print(f"Spearman  {100 * spearman(cosines, scores):.2f}")
    print(f"Pearson   {100 * pearson(cosines, scores):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
