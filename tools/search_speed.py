"""Time exact search over a million random vectors, and mining of the first 10,000 lines of a file.

    python tools/search_speed.py --mine lines.txt

The index is made in a temporary folder of 2.3 GB: 384 dimensions in float32, and as bits with a copy in float16. The
first queries are not counted: they map the files and read the ids. Mining is from loading all-MiniLM-L6-v2 to the list
of pairs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

from minibert import SentenceEncoder
from minibert.bulk import Index, paraphrase_mining
from minibert.bulk.settings import CorpusOptions
from minibert.bulk.shards import store, write_shard
from tools.bench.inputs import find_minilm

WIDTH, WARM, QUERIES = 384, 30, 30


def make_index(folder: Path, rows: int, precision: str) -> Index:
    """Write shards of random vectors as `embed_corpus` does."""
    size, shards, copy = CorpusOptions.shard_rows, 0, "float16" if precision == "ubinary" else None
    for shards, start in enumerate(range(0, rows, size), 1):
        count = min(size, rows - start)
        vectors = np.random.default_rng(shards).standard_normal((count, WIDTH), dtype=np.float32)
        stored = {"embedding": store(vectors, precision, None)} | ({copy: vectors.astype(copy)} if copy else {})
        write_shard(folder, shards - 1, "npy", stored, {"id": [f"random:{start + i}" for i in range(count)]})
    options = {"output_format": "npy", "precision": precision, "copy": copy, "shard_rows": size}
    manifest = {"format": 1, "model": {"similarity": "cosine"}, "width": WIDTH, "options": options, "sources": {}}
    manifest |= {"complete": True, "rows": rows, "shards": shards}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return Index(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--mine", type=Path, metavar="FILE", help="a file with a text a line")
    options = parser.parse_args(arguments)
    queries = np.random.default_rng(0).standard_normal((WARM + QUERIES, WIDTH), dtype=np.float32)
    for precision in ("float32", "ubinary") if options.vectors else ():
        with tempfile.TemporaryDirectory() as folder:
            index, seconds = make_index(Path(folder), options.vectors, precision), []
            for query in queries:
                started = time.perf_counter()
                index.search(query)
                seconds.append(time.perf_counter() - started)
        print(f"{precision}: {1e3 * statistics.median(seconds[WARM:]):.1f} ms a query of {options.vectors:,} vectors")
    if options.mine:
        started = time.perf_counter()
        lines = options.mine.read_text(encoding="utf-8").splitlines()[:10_000]
        pairs = paraphrase_mining(SentenceEncoder.from_pretrained(find_minilm(), device="cpu"), lines)
        seconds = [time.perf_counter() - started]
        print(f"mining: {seconds[0]:.1f} s for {len(lines):,} lines, {len(pairs):,} pairs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
