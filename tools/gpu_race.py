"""The race on a GPU: `python tools/bench --gpu`, under four minutes for MiniLM and BERT-base.

minibert in float16, bfloat16 and float32, its page in float16, and sentence-transformers in float16 with sdpa, at its
best batch size. Everything is on one card and in one process, in interleaved rounds; a clock stops when the card has
ended. Without sentence-transformers the ratios are to the page.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minibert import Bert, BertConfig, SentenceEncoder
from minibert.display import table
from minibert.pooling import Normalize, Pooling

from .bench.inputs import Sizes, cut_workloads, open_model, read_texts
from .bench.process import EngineError
from .bench.race import Plan, compare, in_turn
from .peers.work import LARGE, SINGLE, Model, Workload

SIZES = Sizes(large=2048, calls=32, single=96, long=1)
DEVICE = torch.device("cuda")
SECONDS = 80  # of rounds for each checkpoint, after which none begins
BATCHES = (32, 128, 512, 2048)  # of sentence-transformers
COMPARED = 64  # texts
WARM = 4  # times before the first round: graphs are recorded in the third call of a length
PEER, PAGE = "sentence-transformers float16", "page float16"
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}

Encode = Callable[[list[str]], Any]


def main(options: Any, versions: Mapping[str, str]) -> int:
    """Race on each checkpoint of the command line, or read what --json wrote. Raises EngineError without a GPU."""
    if options.read:
        found = json.loads(options.read.read_text(encoding="utf-8"))
        print("\n\n".join([heading(found), *(report(name, x) for name, x in found["models"].items())]))
        return 0
    began = time.monotonic()
    found = {"card": card(), "date": time.strftime("%Y-%m-%d"), "versions": dict(versions), "models": {}}
    print(heading(found), flush=True)
    for name in options.models:

        def say(line: str, name: str = name) -> None:
            print(f"[{time.monotonic() - began:3.0f} s] {name}: {line}", file=sys.stderr, flush=True)

        with tempfile.TemporaryDirectory() as work:
            model = open_or_make(name, Path(work))
            cut = cut_workloads(model, read_texts(options.texts, SIZES.large), SIZES)
            plan = Plan(model, cut, (LARGE, SINGLE), (), options.rounds, options.threads, neighbour=False, say=say)
            found["models"][name] = race(plan)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
        print("\n" + report(name, found["models"][name]), flush=True)
    return 0


def card() -> str:
    """Return the GPU's name. Raises EngineError where there is none."""
    if DEVICE.type == "cuda" and not torch.cuda.is_available():
        raise EngineError("--gpu needs a GPU of CUDA, and torch sees none here")
    return torch.cuda.get_device_name(DEVICE) if DEVICE.type == "cuda" else str(DEVICE)


def heading(found: Mapping[str, Any]) -> str:
    """Name the card and the versions."""
    return f"{found['card']}, {found['date']}\n" + ", ".join(f"{name} {x}" for name, x in found["versions"].items())


def open_or_make(name: str, work: Path) -> Model:
    """Find or make a checkpoint as the race on the CPU does. Without MiniLM's package weights are random."""
    try:
        return open_model(name, work)
    except OSError:
        if name not in ("minilm", "base"):
            raise
    torch.manual_seed(0)
    tokenizer = SentenceEncoder.from_pretrained(device="cpu").tokenizer
    config: Any = {"vocab_size": len(tokenizer)} | (MINILM if name == "minilm" else {})
    encoder = SentenceEncoder(Bert(BertConfig(**config)), tokenizer)
    encoder.pooling, encoder.max_seq_length = Pooling("mean" if name == "minilm" else "cls"), 256
    encoder.head.extend([Normalize()] if name == "minilm" else [])
    encoder.save_pretrained(work / "random")
    return open_model(str(work / "random"), work)


def race(plan: Plan) -> dict[str, Any]:
    """Measure all engines on one checkpoint. Raises EngineError where none can be raced."""
    works = {name: plan.workloads[name] for name in (LARGE, SINGLE)}
    texts = works[LARGE].calls[0]
    plan.say("float64 vectors on the CPU")
    exact = SentenceEncoder.from_pretrained(plan.model.folder, device="cpu", dtype="float64", truncation="silent")
    exact.max_seq_length = works[LARGE].limit
    reference = exact.encode(texts[:COMPARED])
    failed: dict[str, str] = {}
    engines: dict[str, dict[str, Encode]] = {}
    measured: dict[str, dict[str, Any]] = {}
    for name, make in makers(plan.model, works).items():
        plan.say(f"{name}: first vectors and warming up")
        try:
            calls, says = make()
            measured[name] = compare(np.asarray(calls[LARGE](texts[:COMPARED])), reference) | {"by": says()}
            for _ in range(WARM):
                for work in works:
                    seconds(calls[work], works[work])
            engines[name] = calls
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if not engines:
        raise EngineError("; ".join(["no engine could be raced", *(f"{name}: {why}" for name, why in failed.items())]))
    plan.say("the card's fastest products")
    peaks = {name: peak(getattr(torch, name)) for name in ("float16", "bfloat16", "float32")}
    return {
        "peaks": peaks,
        "workloads": {name: {"texts": work.texts, "tokens": work.tokens} for name, work in works.items()},
        "linear flops a token": plan.model.linear_flops(1),
        "engines": {name: measured[name] | {"speeds": x} for name, x in rounds(plan, engines, works).items()},
        "not raced": failed,
    }


def makers(model: Model, works: Mapping[str, Workload]) -> dict[str, Callable[[], Any]]:
    """Return, by name, what opens each engine: what encodes each workload, and what says who computes."""
    found: dict[str, Callable[[], Any]] = {}
    for dtype in ("float16", "bfloat16", "float32"):
        found[f"minibert {dtype}"] = partial(minibert, model, works, dtype)
    found[PAGE] = partial(minibert, model, works, "float16", fast=False)
    if find_spec("sentence_transformers"):
        found[PEER] = partial(sentence_transformers, model, works)
    return found


def minibert(model: Model, works: Mapping[str, Workload], dtype: str, fast: bool | None = None) -> Any:
    """Open minibert as a user has it, or its page."""
    encoder = SentenceEncoder.from_pretrained(model.folder, device=DEVICE, dtype=dtype, truncation="silent", fast=fast)
    encoder.max_seq_length = works[LARGE].limit
    return dict.fromkeys(works, encoder.encode), lambda: " ".join(encoder.explain().split("\n", 1)[-1].split())


def sentence_transformers(model: Model, works: Mapping[str, Workload]) -> Any:
    """Open sentence-transformers with the batch size that is fastest for the large call."""
    from sentence_transformers import SentenceTransformer

    options = {"dtype": "float16", "attn_implementation": "sdpa"}
    encoder = SentenceTransformer(model.folder, device=str(DEVICE), model_kwargs=options)
    encoder.max_seq_length = works[LARGE].limit

    def by(batch: int) -> Encode:
        return lambda texts: encoder.encode(texts, batch_size=batch, show_progress_bar=False)

    by(BATCHES[0])(works[LARGE].calls[0][: BATCHES[0]])  # libraries start
    best = min(BATCHES, key=lambda batch: seconds(by(batch), works[LARGE]))
    return {LARGE: by(best), SINGLE: by(1)}, lambda: f"batches of {best}"


def seconds(encode: Encode, work: Workload) -> float:
    """Return the time of all calls, until the card has ended."""
    wait()
    started = time.perf_counter()
    for call in work.calls:
        encode(call)
    wait()
    return time.perf_counter() - started


def wait() -> None:
    """Wait until the card has ended."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize(DEVICE)


def rounds(
    plan: Plan, engines: Mapping[str, Mapping[str, Encode]], works: Mapping[str, Workload]
) -> dict[str, dict[str, list[float]]]:
    """Return texts a second, round by round: {engine: {workload: [...]}}. Engines take turns within a round."""
    speeds: dict[str, dict[str, list[float]]] = {name: {work: [] for work in works} for name in engines}
    began = time.monotonic()
    for i in range(plan.rounds):
        if i and time.monotonic() - began > SECONDS:
            break
        plan.say(f"round {i + 1} of {plan.rounds}")
        for name, work in works.items():
            for engine in in_turn(engines, i):
                speeds[engine][name].append(work.texts / seconds(engines[engine][name], work))
    return speeds


def peak(dtype: torch.dtype) -> float:
    """Return the operations a second of this card's fastest large product in a dtype, as torch is set."""
    size = 8192 if DEVICE.type == "cuda" else 256
    a, b = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))
    least = float("inf")
    for _ in range(8):
        wait()
        started = time.perf_counter()
        a @ b
        wait()
        least = min(least, time.perf_counter() - started)
    return 2 * size**3 / least


def report(name: str, found: Mapping[str, Any]) -> str:
    """Return the tables of one checkpoint."""
    engines, works = found["engines"], found["workloads"]
    rival = PEER if PEER in engines else PAGE
    rows: list[list[object]] = [["", *works, "difference", "cosine", "of the peak", "computed by"]]
    for engine, values in engines.items():
        cells: list[str] = []
        for work, speeds in values["speeds"].items():
            other = engines.get(rival, values)["speeds"][work]
            ratio = statistics.median(a / b for a, b in zip(speeds, other, strict=True))
            cells.append(f"{statistics.median(speeds):.0f}/s {ratio:5.2f} x")
        tokens = statistics.median(values["speeds"][LARGE]) * works[LARGE]["tokens"] / works[LARGE]["texts"]
        share = tokens * found["linear flops a token"] / found["peaks"][engine.split()[-1]]
        rows.append(
            [engine, *cells, f"{values['difference']:.0e}", f"{values['cosine']:.6f}", f"{share:.0%}", values["by"]]
        )
    counted = len(next(iter(engines.values()))["speeds"][LARGE])
    peaks = ", ".join(f"{dtype} {value / 1e12:.1f}" for dtype, value in found["peaks"].items())
    sizes = ", ".join(f"{work}: {x['texts']} texts, {x['tokens']} tokens" for work, x in works.items())
    missing = "" if find_spec("sentence_transformers") or rival == PEER else "sentence-transformers is not installed.\n"
    parts = [
        f"== {name} on a GPU: texts per second, and times {rival}'; medians of {counted} rounds",
        table(rows, left=(0, len(works) + 4)),
        f"{missing}{sizes}. Differences and cosines are to float64, of {COMPARED} texts, at their worst.\n"
        f"The peak is of a product of 8192 x 8192 matrices, in TFLOP/s: {peaks}. Its share is the large call's.",
        "\n".join(f"not raced: {engine}: {error}" for engine, error in found["not raced"].items()),
    ]
    return "\n\n".join(part for part in parts if part)
