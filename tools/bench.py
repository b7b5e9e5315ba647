"""Race minibert against transformers and sentence-transformers, in float32 and in bfloat16.

    python tools/bench.py
    python tools/bench.py --model ./my-checkpoint --texts lines.txt --rounds 9

All have the same checkpoint, texts and threads. Each runs in a process of its own; rounds are interleaved, so that a
slow spell of the machine hits all alike. Each is given its best: transformers gets its texts sorted by length, and mean
pooling and normalising cost it nothing (they are left out); sentence-transformers its defaults, which sort. The texts
are docstrings of Python's own standard library, unless a file is given. Needs the extra `test`.

The table: median texts per second, and how many times transformers' that is; the largest difference of any number in
the vectors to sentence-transformers'; the peak memory of the process. Machine and versions are printed with it.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minibert.hub import open_files
from minibert.table import table

ENGINES = (
    "transformers",
    "transformers bfloat16",
    "sentence-transformers",
    "sentence-transformers bfloat16",
    "minibert",
    "minibert bfloat16",
)
WORKLOADS = {"one large call": 1024, "calls of 32": 32, "one text a call": 1}


def docstrings(count: int) -> list[str]:
    """The first paragraphs of the standard library's docstrings, in the order of its files' names."""
    texts: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and (text := ast.get_docstring(node)):
                texts.append(" ".join(text.split("\n\n")[0].split()))
            if len(texts) == count:
                return texts
    return texts


def open_engine(name: str, folder: str) -> Callable[[list[str]], np.ndarray | None]:
    """Load the model; the function encodes a list of texts."""
    library, _, dtype = name.partition(" ")
    dtype = dtype or "float32"
    if library == "minibert":
        from minibert import SentenceEncoder

        ours = SentenceEncoder.from_pretrained(folder, device="cpu", dtype=dtype, truncation="silent")
        return lambda texts: np.asarray(ours.encode(texts))
    if library == "sentence-transformers":
        from sentence_transformers import SentenceTransformer

        theirs = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": dtype})
        return lambda texts: np.asarray(theirs.encode(texts, show_progress_bar=False))
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=dtype).eval()

    def forward(texts: list[str]) -> None:
        texts = sorted(texts, key=len)
        with torch.inference_mode():
            for i in range(0, len(texts), 32):
                batch = tokenizer(texts[i : i + 32], padding=True, truncation=True, max_length=256, return_tensors="pt")
                model(**batch)

    return forward


def serve(name: str, folder: str, threads: int) -> None:
    """Run one engine: a line of texts' sizes in, a line of seconds out, until the input ends."""
    import torch

    torch.set_num_threads(threads)
    texts = json.loads(sys.stdin.readline())
    encode = open_engine(name, folder)
    vectors = encode(texts[:256])
    print(json.dumps(None if vectors is None else vectors.tolist()), flush=True)
    for line in sys.stdin:
        size = int(line)
        # As many calls as there is time for; single texts are a sample of all lengths.
        calls = [texts[i : i + size] for i in range(0, len(texts), size)][:: 8 if size == 1 else 1]
        started = time.perf_counter()
        for call in calls:
            encode(call)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(json.dumps([sum(map(len, calls)) / seconds, peak]), flush=True)


def race(folder: str, texts: list[str], rounds: int, threads: int) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Texts per second {workload: {engine: [a round, ...]}}, and {engine: [difference, peak MiB]}."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_OFFLINE": "1",
    }
    processes, vectors = {}, {}
    for name in ENGINES:
        command = [
            sys.executable,
            "-W",
            "ignore",
            __file__,
            "--serve",
            name,
            "--model",
            folder,
            "--threads",
            str(threads),
        ]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        processes[name] = process
        vectors[name] = _ask(process, json.dumps(texts))
    speeds: dict[str, Any] = {workload: {name: [] for name in ENGINES} for workload in WORKLOADS}
    facts: dict[str, list[float]] = {}
    for _ in range(rounds + 1):  # the first warms up and does not count
        for workload, size in WORKLOADS.items():
            for name, process in processes.items():
                speed, peak = _ask(process, str(size))
                speeds[workload][name].append(speed)
                facts[name] = [_difference(vectors[name], vectors["sentence-transformers"]), peak]
    for process in processes.values():
        process.communicate()
    return {w: {n: values[1:] for n, values in found.items()} for w, found in speeds.items()}, facts


def _ask(process: Any, line: str) -> Any:
    process.stdin.write(line + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit(f"bench: {' '.join(process.args)} ended early; run it by itself to see why")
    return json.loads(answer)


def _difference(mine: Any, theirs: Any) -> float:
    return float("nan") if mine is None else float(np.abs(np.array(mine) - np.array(theirs)).max())


def main() -> int:
    """Race and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm", help="a folder, or minilm (default)")
    parser.add_argument("--texts", type=Path, help="a file of texts, one a line")
    parser.add_argument("--count", type=int, default=1024, help="texts, at most (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: all cores")
    parser.add_argument("--serve", choices=ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.model, options.threads)
        return 0
    folder = str(open_files(options.model).require("config.json").parent)
    texts = options.texts.read_text(encoding="utf-8").splitlines() if options.texts else docstrings(options.count)
    texts = texts[: options.count]
    speeds, facts = race(folder, texts, options.rounds, options.threads)
    import torch

    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {options.threads} threads, ", end=""
    )
    print(f"{len(texts)} texts, {time.strftime('%Y-%m-%d')}\n")
    rows: list[list[object]] = [["", *WORKLOADS, "difference", "peak memory"]]
    for name in ENGINES:
        cells = []
        for found in speeds.values():
            ratio = statistics.median(a / b for a, b in zip(found[name], found["transformers"], strict=True))
            cells.append(f"{statistics.median(found[name]):.0f}/s {ratio:.2f} x")
        difference, peak = facts[name]
        rows.append([name, *cells, "" if np.isnan(difference) else f"{difference:.0e}", f"{peak:.0f} MiB"])
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
