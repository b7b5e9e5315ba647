"""Embed texts in one process and in a pool of two, by minibert and by sentence-transformers: seconds, and memory.

    python tools/pool_speed.py --texts 20000

The model is all-MiniLM-L6-v2, the texts are docstrings of the standard library, each with a number before it. The pool
is started before the clock. "own MiB" is what a worker shares with no other process: Private_Clean + Private_Dirty of
/proc/PID/smaps_rollup (Linux), after the work, of the worker with the most. "with its part MiB" is Pss of the same
worker: each shared page is divided by the number of the processes that have it, minibert's fork server among them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from minibert.display import table
from tools.bench.inputs import find_minilm, read_texts

WORKERS = ["cpu", "cpu"]


def memory(pid: int) -> tuple[float, float]:
    """Return a process's private memory, and that with its part of the shared memory, in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    own, part = (sum(int(x.split()[1]) for x in lines if x.startswith(name)) for name in ("Private_", "Pss:"))
    return own / 1024, part / 1024


def measure(encoder: Any, texts: list[str]) -> dict[str, float]:
    """Return the seconds of one process and of a pool, and the memory of the worker with the most."""
    encoder.encode(texts[:64])
    started = time.perf_counter()
    encoder.encode(texts)
    alone = time.perf_counter() - started
    before = {child.pid for child in multiprocessing.active_children()}
    pool = encoder.start_multi_process_pool(WORKERS)
    try:
        encoder.encode(texts[:64], pool=pool, chunk_size=8)
        started = time.perf_counter()
        encoder.encode(texts, pool=pool)
        seconds = time.perf_counter() - started
        workers = [child.pid for child in multiprocessing.active_children() if child.pid not in before]
        own, part = max(memory(pid) for pid in workers if pid)
    finally:
        encoder.stop_multi_process_pool(pool)
    times = {"one process, s": alone, "pool of two, s": seconds, "pool / one": seconds / alone}
    return {**times, "own MiB": own, "with its part MiB": part}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20_000, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=("minibert", "sentence-transformers"), help="default: both")
    options = parser.parse_args(arguments)
    some = read_texts(None, 1000)
    texts = [f"{i} {some[i % len(some)]}" for i in range(options.texts)]
    encoders: dict[str, Any] = {}
    for name in options.only or ("minibert", "sentence-transformers"):
        library = __import__(name.replace("-", "_"))
        made = library.SentenceEncoder if name == "minibert" else library.SentenceTransformer
        encoders[name] = made(str(find_minilm()), device="cpu")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in encoders}
    for _ in range(options.rounds):
        for name, encoder in encoders.items():
            found[name].append(measure(encoder, texts))
    columns = list(next(iter(found.values()))[0])
    rows = [
        [name, *(f"{statistics.median(each[c] for each in rounds):.2f}" for c in columns)]
        for name, rounds in found.items()
    ]
    print(table([["", *columns], *rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
