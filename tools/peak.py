"""Measure this machine's matrix products, and how near the engines of a race come to them.

    python tools/bench --models minilm --only "minibert*" --json raw.json
    python tools/peak.py raw.json

The first table is what torch's own products reach. The second is the share of that in the race's large call, and for
minibert also within its linear layers alone. Each measurement runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))

from minibert.display import table
from tools.bench.engines import ENGINES, Minibert
from tools.bench.inputs import SIZES, Sizes, cut_workloads, open_model, read_texts
from tools.bench.process import run
from tools.peers.work import LARGE, Model, Setting, Workload

ROWS = (512, 1024, 2048, 4096)
SHAPES = ((768, 3072), (3072, 768), (1024, 1024))  # BERT-base's widest, there and back, and a square
SECONDS = 0.1  # for each way, shape and precision
# The names of operators that multiply by a weight: aten::linear and what it calls, oneDNN's and the int8 ones.
# Attention's products are bmm, baddbmm and scaled_dot_product_attention.
LINEAR = re.compile(r"linear|::addmm|::mm$|::_int_mm|pack_mm")

Product = Callable[[], object]


def ways(dtype: str, rows: int, k: int, n: int) -> Iterator[tuple[str, Product]]:
    """Yield each way torch has to multiply x (rows, k) by a weight (n, k) on this processor."""
    if dtype == "int8":
        x = torch.randint(0, 127, (rows, k), dtype=torch.uint8)
        w = torch.randint(-127, 127, (n, k), dtype=torch.int8)
        made: dict[str, Callable[[], Product]] = {
            "torch._int_mm": lambda: _int_mm(x.to(torch.int8), w),
            "oneDNN, packed": lambda: _packed_int8(x, w),
        }
    else:
        kind = getattr(torch, dtype)
        float_x, float_w = torch.randn(rows, k).to(kind), torch.randn(n, k).to(kind)
        made = {
            "F.linear": lambda: lambda: torch.nn.functional.linear(float_x, float_w),
            "oneDNN, packed": lambda: _packed(float_x, float_w),
        }
    for name, make in made.items():
        try:
            product = make()
            product()
        except (RuntimeError, AttributeError, NotImplementedError):
            continue
        yield name, product


def _packed(x: Tensor, w: Tensor) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(w, None)
    return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _packed_int8(x: Tensor, w: Tensor) -> Product:
    packed = torch.ops.onednn.qlinear_prepack(w, list(x.shape))
    scales, zeros = torch.ones(len(w)), torch.zeros(len(w), dtype=torch.int32)
    product = torch.ops.onednn.qlinear_pointwise
    return lambda: product(x, 1.0, 0, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")


def _int_mm(x: Tensor, w: Tensor) -> Product:
    transposed = w.t()
    return lambda: torch._int_mm(x, transposed)


@torch.inference_mode()
def products(threads: int) -> dict[str, dict[str, Any]]:
    """Return GFLOP/s of all threads together, of one product for each thread, and of one thread, by precision."""
    modes = {"together": (1, threads), "each": (threads, 1), "one": (1, 1)}
    found: dict[str, dict[str, Any]] = {}
    for dtype in ("float32", "bfloat16", "int8"):
        found[dtype] = {}
        for mode, (workers, each) in modes.items():
            best, by = 0.0, "no way"
            for rows in ROWS:
                for k, n in SHAPES:
                    torch.set_num_threads(each)  # packing may depend on it
                    for way, product in ways(dtype, rows, k, n):
                        rate = 2e-9 * rows * k * n * _calls_a_second(product, workers, each)
                        if rate > best:
                            best, by = rate, f"{way}, ({rows}, {k}) x ({k}, {n})"
            found[dtype] |= {mode: best, f"{mode} by": by}
    return found


def _calls_a_second(product: Product, workers: int, threads: int) -> float:
    """Return the best of many spells, summed over all workers, each in a thread of its own."""
    started = time.perf_counter()
    product()
    calls = max(1, int(0.01 / max(1e-6, time.perf_counter() - started)))  # a spell of about 10 ms
    barrier = Barrier(workers)

    def work(_: int) -> float:
        torch.set_num_threads(threads)
        best = 0.0
        for _ in range(max(3, int(SECONDS / 0.01))):
            barrier.wait()
            begun = time.perf_counter()
            for _ in range(calls):
                product()
            barrier.wait()  # until the last has ended
            best = max(best, calls / (time.perf_counter() - begun))
        return best

    if workers == 1:
        return work(0)
    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(work, range(workers)))


@torch.inference_mode()
def linear_layers(model: Model, workload: Workload, options: Mapping[str, Any]) -> dict[str, Any]:
    """Profile one large call of minibert on one thread: all seconds, those in linear products, and their FLOPs.

    FLOPs are those of tokens. Time spent on padding counts as lost.
    """
    torch.set_num_threads(1)
    encoder = Minibert(model, 1, **options)
    encoder.encode(workload.calls[0], workload.limit, Setting(1, 1, 1))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        encoder.encode(workload.calls[0], workload.limit, Setting(1, 1, 1))
    events = profile.key_averages()
    inside = [event for event in events if LINEAR.search(event.key)]
    return {
        "seconds": sum(event.self_cpu_time_total for event in events) / 1e6,
        "linear seconds": sum(event.self_cpu_time_total for event in inside) / 1e6,
        "flops": model.linear_flops(workload.tokens),
    }


def peak_table(peak: Mapping[str, Any]) -> str:
    """Return the machine's own figures."""
    rows: list[list[object]] = [["GFLOP/s", "all threads together", "a product for each", "one thread", "fastest by"]]
    for precision, values in peak.items():
        best = "each" if values["each"] > values["together"] else "together"
        numbers = [f"{values[mode]:.0f}" for mode in ("together", "each", "one")]
        rows.append([precision, *numbers, values[f"{best} by"]])
    return table(rows, left=(0, 4))


def share_table(found: Mapping[str, Any], peak: Mapping[str, Any]) -> str:
    """Return the share of the peak in the large call; for minibert also within its linear layers, on one thread.

    Only the products of the linear layers count as work. Attention, norms, padding and tokenizing are lost time.
    """
    work = found["workloads"][LARGE]
    flops_a_text = found["linear flops a token"] * work["tokens"] / work["texts"]
    rows: list[list[object]] = [
        ["", "GFLOP/s", "of the peak", "linear layers alone", "of one thread's peak", "of all time"]
    ]
    for name, values in found["engines"].items():
        if LARGE not in values["speeds"]:
            continue
        most = peak[values["precision"]]
        rate = 1e-9 * flops_a_text * statistics.median(values["speeds"][LARGE])
        row: list[object] = [name, f"{rate:.0f}", f"{rate / max(most['together'], most['each']):.0%}"]
        linear = values.get("linear", {})
        if linear.get("linear seconds"):
            alone = 1e-9 * linear["flops"] / linear["linear seconds"]
            part = linear["linear seconds"] / linear["seconds"]
            row += [f"{alone:.0f}", f"{alone / most['one']:.0%}", f"{part:.0%}"]
        elif linear:
            row += ["not seen"]  # computed under a name that LINEAR does not match
        rows.append([*row, *[""] * (6 - len(row))])
    return table(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("race", type=Path, help="what `tools/bench --json` wrote on this machine")
    found = json.loads(parser.parse_args(arguments).race.read_text(encoding="utf-8"))
    peak = run(products, found["threads"], threads=found["threads"])
    print(peak_table(peak))
    for name, values in found["models"].items():
        sizes = SIZES.get(name, Sizes())
        with tempfile.TemporaryDirectory() as folder:
            model = open_model(name, Path(folder))
            workload = cut_workloads(model, read_texts(None, sizes.large), sizes)[LARGE]
            for engine, row in values["engines"].items():
                if not row["peer"]:
                    row["linear"] = run(linear_layers, model, workload, ENGINES[engine].options, threads=1)
        print(f"\n-- {name}: one large call, as a share of the machine's peak\n\n{share_table(values, peak)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
