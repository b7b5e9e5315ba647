"""How many matrix products this machine can do, and how near minibert's linear layers come to that.

Each in a process of its own, which prints JSON: `python -m bench.peak products 2` for the machine with two
threads, `python -m bench.peak linear MODEL.json '{"dtype": "bfloat16"}'` for the linear layers on one thread.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import torch
from torch import Tensor

from .job import Model, Setting, read_workloads
from .runners import Minibert

ROWS = (512, 1024, 2048, 4096)
SIZES = ((768, 3072), (3072, 768), (1024, 1024))  # BERT-base's widest, there and back, and a square
SECONDS = 0.1  # for each way, shape and precision
# The names of operators that multiply by a weight: aten::linear and what it calls, oneDNN's and the int8 ones.
# Attention's products are bmm, baddbmm and scaled_dot_product_attention.
LINEAR = re.compile(r"linear|::addmm|::mm$|::_int_mm|pack_mm")

Product = Callable[[], object]


def ways(dtype: str, rows: int, k: int, n: int) -> Iterator[tuple[str, Product]]:
    """Each way torch has for x (rows, k) times a weight (n, k), but for those that this build or processor lacks."""
    if dtype == "int8":
        x = torch.randint(0, 127, (rows, k), dtype=torch.uint8)
        w = torch.randint(-127, 127, (n, k), dtype=torch.int8)
        made: dict[str, Callable[[], Product]] = {
            "torch._int_mm": lambda: _int_mm(x.to(torch.int8), w),
            "oneDNN, packed": lambda: _packed_int8(x, w),
        }
    else:
        kind = getattr(torch, dtype)
        real_x, real_w = torch.randn(rows, k).to(kind), torch.randn(n, k).to(kind)
        made = {
            "F.linear": lambda: lambda: torch.nn.functional.linear(real_x, real_w),
            "oneDNN, packed": lambda: _packed(real_x, real_w),
        }
    for name, make in made.items():
        try:
            product = make()
            product()
        except (RuntimeError, AttributeError, NotImplementedError):
            continue
        yield name, product


def products(threads: int) -> dict[str, dict[str, Any]]:
    """GFLOP/s of all threads together, of a product for each, of one thread alone: {precision: {"together": ...}}."""
    modes = {"together": (1, threads), "each": (threads, 1), "one": (1, 1)}
    found: dict[str, dict[str, Any]] = {}
    for dtype in ("float32", "bfloat16", "int8"):
        found[dtype] = {}
        for mode, (workers, each) in modes.items():
            best, by = 0.0, "no way"
            for rows in ROWS:
                for k, n in SIZES:
                    torch.set_num_threads(each)  # packing may depend on it
                    for way, product in ways(dtype, rows, k, n):
                        rate = 2e-9 * rows * k * n * _calls_a_second(product, workers, each)
                        if rate > best:
                            best, by = rate, f"{way}, ({rows}, {k}) x ({k}, {n})"
            found[dtype] |= {mode: best, f"{mode} by": by}
    return found


def linear_layers(model: Model, options: dict[str, Any]) -> dict[str, Any]:
    """Of one large call of minibert on one thread: seconds in all, seconds in linear products, their FLOPs.

    FLOPs are those of real tokens: what is spent on padding counts as lost.
    """
    torch.set_num_threads(1)
    encoder = Minibert(model, 1, **options)
    workload = read_workloads(model)["one large call"]
    encoder.encode(workload.calls[0], workload.limit, Setting(1, 1, 1))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        encoder.encode(workload.calls[0], workload.limit, Setting(1, 1, 1))
    events = profile.key_averages()
    inside = [event for event in events if LINEAR.search(event.key)]
    return {
        "seconds": sum(event.self_cpu_time_total for event in events) / 1e6,
        "linear seconds": sum(event.self_cpu_time_total for event in inside) / 1e6,
        "flops": model.linear_flops(workload.tokens),
        "names": sorted(event.key for event in inside),
    }


def _packed(x: Tensor, w: Tensor) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(w.to_mkldnn(), None)
    return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _packed_int8(x: Tensor, w: Tensor) -> Product:
    packed = torch.ops.onednn.qlinear_prepack(w, list(x.shape))
    scales, zeros = torch.ones(len(w)), torch.zeros(len(w), dtype=torch.int32)
    product = torch.ops.onednn.qlinear_pointwise
    return lambda: product(x, 1.0, 0, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")


def _int_mm(x: Tensor, w: Tensor) -> Product:
    turned = w.t()
    return lambda: torch._int_mm(x, turned)


def _calls_a_second(product: Product, workers: int, threads: int) -> float:
    """The best of many spells; of all workers together, each in a thread of its own."""
    started = time.perf_counter()
    product()
    calls = max(1, int(0.01 / max(1e-6, time.perf_counter() - started)))  # a spell of about 10 ms
    spells = max(3, int(SECONDS / 0.01))
    barrier = Barrier(workers)

    def work(_: int) -> float:
        torch.set_num_threads(threads)
        best = 0.0
        for _ in range(spells):
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


if __name__ == "__main__":
    with torch.inference_mode():
        if sys.argv[1] == "products":
            print(json.dumps(products(int(sys.argv[2]))))
        else:
            about = Model(**json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
            print(json.dumps(linear_layers(about, json.loads(sys.argv[3]))))
