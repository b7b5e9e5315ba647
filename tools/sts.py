"""Score an encoder on a file of sentence pairs with human judgements, as the STS Benchmark.

    python tools/sts.py sts-dev.csv --model BAAI/bge-small-en-v1.5 --pooling mean
    python tools/sts.py sts-dev.csv --drift

The file has the published form (ixa2.si.ehu.eus/stswiki): tab separated, without quoting; the score and the sentences
are the 5th, 6th and 7th column. The figures are correlations, times 100, of the cosine with the scores: Spearman's (of
the ranks; papers quote this one) and Pearson's.

`--drift` compares unit vectors of all sentences with those of float64. Its last two columns are the largest difference
of the same arithmetic to itself: one text a call (of the first 500), and with AVX2 instructions alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from minibert import SentenceEncoder
from minibert.checkpoint.hub import DEFAULT_MODEL
from minibert.display import table
from minibert.training.evaluate import pearson, spearman
from minibert.training.reading import read_pairs

OLDER = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}  # what a processor without AVX-512 computes


def drift(path: Path, model: str, pooling: str | None) -> str:
    """Return a table of the differences of each dtype to float64 on the page, for the unit vectors of all sentences."""
    scores, first, second = read_pairs(path)
    head = ["", "largest difference", "lowest cosine", "mean cosine", "Spearman", "one text a call", "AVX2"]
    rows = [head]
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
        away = [""] * 3
        if dtype != "float64":
            alone = np.stack([encoder.encode(text, normalize_embeddings=True) for text in first[:500]])
            older = _with_older_instructions(path, model, pooling, dtype)
            pairs = ((vectors, exact), (vectors[: len(alone)], alone), (vectors, older))
            away = [f"{np.abs(x - y).max():.1e}" for x, y in pairs]
        rows.append([dtype, away[0], f"{cosines.min():.6f}", f"{cosines.mean():.6f}", f"{score:.2f}", *away[1:]])
    return table(rows)


def _with_older_instructions(path: Path, model: str, pooling: str | None, dtype: str) -> np.ndarray:
    """Compute the unit vectors in a process of its own, with `OLDER`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "vectors.npy"
        options = ["--model", model, "--dtype", dtype, "--vectors", str(out)]
        options += ["--pooling", pooling] if pooling else []
        subprocess.run(
            [sys.executable, "-W", "ignore", __file__, str(path), *options],
            env={**os.environ, **OLDER},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return np.load(out)


def main() -> int:
    """Print both correlations, or the table of drift."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="sts-dev.csv or one of its form")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a folder or a hub id (default: %(default)s)")
    parser.add_argument("--pooling", help="cls, mean, max, ... instead of the checkpoint's own")
    parser.add_argument("--dtype", help="float32 (default), bfloat16, int8, float16, float64")
    parser.add_argument("--drift", action="store_true", help="compare float32, bfloat16 and int8 with float64")
    parser.add_argument("--vectors", type=Path, help="save the unit vectors here (.npy): all first texts, all second")
    options = parser.parse_args()
    if options.drift:
        print(drift(options.file, options.model, options.pooling))
        return 0
    scores, first, second = read_pairs(options.file)
    encoder = SentenceEncoder.from_pretrained(options.model, pooling=options.pooling, dtype=options.dtype)
    vectors = encoder.encode([*first, *second], show_progress_bar=sys.stderr.isatty(), normalize_embeddings=True)
    if options.vectors:
        np.save(options.vectors, vectors)
    cosines = (vectors[: len(first)] * vectors[len(first) :]).sum(-1)
    print(f"{options.model}, pooling {encoder.pooling.extra_repr()}, {len(scores)} pairs of {options.file.name}")
    print(f"Spearman  {100 * spearman(cosines, scores):.2f}")
    print(f"Pearson   {100 * pearson(cosines, scores):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
