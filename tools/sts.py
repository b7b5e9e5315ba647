"""Score an encoder on a file of sentence pairs with human judgements, as the STS Benchmark.

    python tools/sts.py sts-dev.csv --model BAAI/bge-small-en-v1.5 --pooling mean
    python tools/sts.py sts-dev.csv --drift

The file has the published form (ixa2.si.ehu.eus/stswiki): tab separated, without quoting; the score and the sentences
are the 5th, 6th and 7th column. The figures are correlations, times 100, of the cosine with the scores: Spearman's (of
the ranks; papers quote this one) and Pearson's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from minibert import SentenceEncoder
from minibert.checkpoint.hub import DEFAULT_MODEL
from minibert.display import table
from minibert.training.evaluate import pearson, spearman
from minibert.training.reading import read_pairs


def drift(path: Path, model: str, pooling: str | None) -> str:
    """Return a table of the differences of each dtype to float64 on the page, for the unit vectors of all sentences."""
    scores, first, second = read_pairs(path)
    rows: list[list[object]] = [["", "largest difference", "lowest cosine", "mean cosine", "Spearman"]]
    exact = np.empty(0)
    for dtype in ("float64", "float32", "bfloat16", "int8"):
        encoder = SentenceEncoder.from_pretrained(
            model,
            pooling=pooling,
            dtype=dtype,
            device="cpu",
            fast=None if dtype != "float64" else False,
        )
        vectors = encoder.encode(
            [*first, *second], normalize_embeddings=True, show_progress_bar=sys.stderr.isatty()
        ).astype(np.float64)
        exact = exact if len(exact) else vectors
        cosines = (vectors * exact).sum(-1) / np.linalg.norm(vectors, axis=-1)
        score = 100 * spearman((vectors[: len(first)] * vectors[len(first) :]).sum(-1), scores)
        away = f"{np.abs(vectors - exact).max():.1e}" if dtype != "float64" else ""
        rows.append([dtype, away, f"{cosines.min():.6f}", f"{cosines.mean():.6f}", f"{score:.2f}"])
    return table(rows)


def main() -> int:
    """Print both correlations, or the table of drift."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="sts-dev.csv or one of its form")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a folder or a hub id (default: %(default)s)")
    parser.add_argument("--pooling", help="cls, mean, max, ... instead of the checkpoint's own")
    parser.add_argument("--dtype", help="float32 (default), bfloat16, int8, float16, float64")
    parser.add_argument("--drift", action="store_true", help="compare float32, bfloat16 and int8 with float64")
    options = parser.parse_args()
    if options.drift:
        print(drift(options.file, options.model, options.pooling))
        return 0
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
