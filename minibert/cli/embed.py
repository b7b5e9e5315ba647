"""Embed texts from the command line, a file or stdin, one text per line. Every line gives a row, even an empty one."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..display import shorten, table
from .options import add_encoder, add_texts, check_folder, keywords, load_encoder, read_texts, report_truncation

if TYPE_CHECKING:
    import numpy as np


HELP = "texts -> vectors"


def add_flags(parser: ArgumentParser) -> None:
    """Add texts, encoder, and the form of the output."""
    add_texts(parser)
    add_encoder(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=".npy (an array) or .jsonl (JSON lines)")
    text = "of the output (default: from FILE's name; a table on a terminal; otherwise JSON lines)"
    parser.add_argument("--format", choices=("table", "jsonl", "npy"), help=text)
    parser.add_argument("--normalize", action="store_true", help="scale vectors to length 1")
    parser.add_argument("--truncate-dim", type=int, metavar="N", help="keep the first N dimensions")
    precisions = ("float32", "int8", "uint8", "binary", "ubinary")
    parser.add_argument("--precision", default="float32", choices=precisions, help="of the numbers")
    parser.add_argument("--prompt", metavar="WORDS", help="put this before each text")
    parser.add_argument("--prompt-name", metavar="NAME", help="put the checkpoint's prompt before each text")


def run(options: Namespace) -> None:
    """Encode the texts; print the vectors or write them."""
    form = _form(options)
    texts = read_texts(options)
    encoder = load_encoder(options)
    vectors = encoder.encode(
        texts,
        show_progress_bar=sys.stderr.isatty() and len(texts) > 100,
        normalize_embeddings=options.normalize,
        **keywords(options, "batch_size", "truncate_dim", "precision", "prompt", "prompt_name"),
    )
    report_truncation(encoder.truncation_report, options.truncation)
    if form == "table":
        print(_vector_table(texts, vectors))
    elif options.output is None:
        _write(sys.stdout.buffer, form, texts, vectors)
    else:
        from ..checkpoint.atomic import replacing

        with replacing(options.output) as temporary, temporary.open("wb") as file:
            _write(file, form, texts, vectors)
        print(f"{options.output}: {len(vectors)} vectors of {vectors.shape[1]}", file=sys.stderr)


def _form(options: Namespace) -> str:
    """Choose the form of the output before any work, so that a wrong name does not cost an hour of encoding."""
    if options.output is None:
        return options.format or ("table" if sys.stdout.isatty() else "jsonl")
    form = options.format or {".npy": "npy", ".jsonl": "jsonl"}.get(options.output.suffix)
    if form not in ("npy", "jsonl"):
        raise ValueError(f"{options.output}: an output file is .npy or .jsonl (or use --format)")
    check_folder(options.output)
    return form


def _write(file: Any, form: str, texts: Iterable[str], vectors: np.ndarray) -> None:
    if form == "npy":
        import numpy as np

        np.save(file, vectors)
        return
    for text, vector in zip(texts, vectors, strict=True):
        numbers = [float(str(number)) if vector.dtype.kind == "f" else int(number) for number in vector]
        file.write(json.dumps({"text": text, "embedding": numbers}, ensure_ascii=False).encode() + b"\n")


def _vector_table(texts: Sequence[str], vectors: np.ndarray) -> str:
    """Return the first numbers of each vector: enough to see that it works, and that two differ."""
    shown = min(6, vectors.shape[1])
    rows = [["text", *range(1, shown + 1), "", "length"]]
    for text, vector in zip(texts, vectors, strict=True):
        numbers = [f"{number:.4f}" if vector.dtype.kind == "f" else str(number) for number in vector[:shown].tolist()]
        length = float((vector.astype(float) ** 2).sum()) ** 0.5
        rows.append([shorten(text, 40), *numbers, f"… {vectors.shape[1]}", f"{length:.4f}"])
    return table(rows)
