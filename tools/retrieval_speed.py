"""Race SparseEncoder and MultiVectorEncoder against sentence-transformers' classes, on the same folders and texts.

    python tools/retrieval_speed.py
    python tools/retrieval_speed.py --only sparse --texts 1000 --rounds 3

`sparse`: documents a second and peak memory. `late`: documents a second. `maxsim`: a query of 32 tokens against 10,000
documents of 100 tokens and 128 numbers, in milliseconds; documents as a list of tensors, and packed once (ours only).
The models have random weights: `sparse` the shape of BERT-base with its masked-LM head, `late` that of all-MiniLM-L6-v2
with a projection to 128. The texts are docstrings of the standard library. Each engine runs in a process of its own, at
its best batch size; rounds are interleaved, and the figures are medians.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from minibert import Bert, BertConfig, BertForMaskedLM, SparseEncoder, Tokenizer
from minibert.display import table
from tools.bench.inputs import find_minilm, read_texts
from tools.bench.process import run

OURS, THEIRS, PACKED = "minibert", "sentence-transformers", "minibert, packed"
BATCHES = 8, 32  # that are tried
WORDS = 200  # of a text


def make_sparse(folder: Path) -> None:
    """Save a BERT-base with a masked-LM head."""
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig()).eval()
    encoder = SparseEncoder(model, Tokenizer.from_pretrained(find_minilm()))
    # As few words as a trained model gives. Without training half of all scores are above 0.
    scores = encoder.encode(read_texts(None, 16), convert_to_sparse_tensor=False).expm1()
    model.masked_lm.bias.data -= scores.kthvalue(scores.shape[1] - WORDS, dim=1).values.mean()
    encoder.save_pretrained(folder)


def make_late(folder: Path) -> None:
    """Save a ColBERT of MiniLM's shape, by sentence-transformers."""
    from sentence_transformers import MultiVectorEncoder

    torch.manual_seed(0)
    Bert(Bert.from_pretrained(find_minilm()).config).save_pretrained(folder / "bert")
    Tokenizer.from_pretrained(find_minilm()).save_pretrained(folder / "bert")
    MultiVectorEncoder(str(folder / "bert"), device="cpu").save_pretrained(str(folder / "late"))


def encoder_of(engine: str, kind: str, folder: Path) -> Any:
    """Load one of the two libraries' encoder."""
    name = {"sparse": "SparseEncoder", "late": "MultiVectorEncoder"}[kind]
    library = __import__("minibert" if engine == OURS else "sentence_transformers")
    return getattr(library, name)(str(folder), device="cpu")


def encode(engine: str, kind: str, folder: Path, texts: list[str]) -> dict[str, float]:
    """Return documents a second, and the peak of resident memory in MiB."""
    encoder = encoder_of(engine, kind, folder)
    encode = encoder.encode_document if kind == "late" else encoder.encode
    options: list[dict[str, Any]] = [{}] if engine == OURS else [{"batch_size": size} for size in BATCHES]
    best = max(options, key=lambda each: _rate(encode, texts[:64], each)) if len(options) > 1 else options[0]
    encode(texts[:8], **best)
    return {"rate": _rate(encode, texts, best), "peak": _peak()}


def _rate(encode: Callable[..., Any], texts: list[str], options: dict[str, Any]) -> float:
    started = time.perf_counter()
    encode(texts, **options)
    return len(texts) / (time.perf_counter() - started)


def _peak() -> float:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


def maxsim(engine: str, *others: object) -> dict[str, float]:
    """Return the milliseconds of one query, and the peak of resident memory above the documents' own in MiB."""
    from minibert.retrieval.late import TokenVectors
    from minibert.retrieval.late import maxsim as ours

    torch.manual_seed(0)
    query = torch.nn.functional.normalize(torch.randn(32, 128), dim=-1)
    documents: Any = list(torch.nn.functional.normalize(torch.randn(10_000, 100, 128), dim=-1).unbind(0))
    if engine == PACKED:
        documents = TokenVectors.of(documents)
    score: Callable[..., Any] = ours
    if engine == THEIRS:
        from sentence_transformers.util import maxsim as theirs

        score = theirs
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = _peak()
    seconds: list[float] = []
    for _ in range(5):
        started = time.perf_counter()
        score([query], documents)
        seconds.append(time.perf_counter() - started)
    return {"ms": 1e3 * statistics.median(seconds), "peak": _peak() - before}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table for each race."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    races = "sparse", "late", "maxsim"
    parser.add_argument("--only", nargs="+", choices=races, default=races, help="default: all")
    parser.add_argument("--texts", type=int, default=1000, help="documents (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    options = parser.parse_args(arguments)
    texts = read_texts(None, options.texts)
    with tempfile.TemporaryDirectory() as work:
        folders = {"sparse": Path(work) / "sparse", "late": Path(work) / "late"}
        if "sparse" in options.only:
            make_sparse(folders["sparse"])
        if "late" in options.only:
            make_late(Path(work))
        for race in options.only:
            engines = [OURS, THEIRS, PACKED] if race == "maxsim" else [OURS, THEIRS]
            found: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
            for _ in range(options.rounds):
                for engine in engines:
                    task: Callable[..., Any] = maxsim if race == "maxsim" else encode
                    given = engine, race, folders.get(race), texts
                    found[engine].append(run(task, *given, threads=torch.get_num_threads()))
            print(_table(race, found))
    return 0


def _table(race: str, found: dict[str, list[dict[str, float]]]) -> str:
    unit = "ms" if race == "maxsim" else "rate"
    medians = {
        engine: {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
        for engine, rounds in found.items()
    }
    there = medians[THEIRS]
    rows = [[race, "ms" if unit == "ms" else "documents a second", "ratio", "MiB at the peak", "ratio"]]
    for engine, values in medians.items():
        numbers = values[unit], values[unit] / there[unit], values["peak"], values["peak"] / max(1.0, there["peak"])
        rows.append([engine, f"{numbers[0]:,.1f}", f"{numbers[1]:.2f}", f"{numbers[2]:,.0f}", f"{numbers[3]:.2f}"])
    return f"{table(rows)}\n"


if __name__ == "__main__":
    sys.exit(main())
