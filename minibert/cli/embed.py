"""Embed texts from the command line, a file or stdin, one text per line. Every line gives a row, even an empty one."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..display import shorten, table
from .options import (
    add_encoder,
    add_texts,
    check_folder,
    is_stdout,
    keywords,
    load_encoder,
    output_file,
    read_texts,
    report_truncation,
    writing,
)

if TYPE_CHECKING:
    import numpy as np

HELP = "texts -> vectors"


def add_flags(parser: ArgumentParser) -> None:
    """Add texts, encoder, and the form of the output."""
    add_texts(parser)
    add_encoder(parser)
    text = ".npy (an array) or .jsonl (JSON lines); - is stdout"
    parser.add_argument("-o", "--output", type=output_file, metavar="FILE", help=text)
    text = "of the output (default: from FILE's name; a table on a terminal; otherwise JSON lines)"
    parser.add_argument("--format", choices=("table", "jsonl", "npy"), help=text)
    parser.add_argument("--normalize", action="store_true", help="scale vectors to length 1")
    parser.add_argument("--truncate-dim", type=int, metavar="N", help="keep the first N dimensions")
    precisions = ("float32", "int8", "uint8", "binary", "ubinary")
    parser.add_argument("--precision", default="float32", choices=precisions, help="of the numbers")
    parser.add_argument("--prompt", metavar="WORDS", help="put this before each text")
    parser.add_argument("--prompt-name", metavar="NAME", help="put the checkpoint's prompt before each text")


def run(options: Namespace) -> None:
    """Encode the texts; print the vectors or write them. Those of a pipe's lines are written as the lines come."""
    from ..truncation import TruncationReport

    form = _form(options)
    slow = not (options.input and Path(options.input).is_file())
    # Ranges of int8, and a refusal of long texts, are of all texts.
    piecewise = slow and form == "jsonl" and "int8" not in options.precision and options.truncation != "error"
    pieces = read_texts(options, piecewise=piecewise)
    first, count = next(pieces), 0
    lost: dict[int, int] = {}
    encoder = load_encoder(options)
    with writing(options.output) as file:
        for texts in chain([first], pieces):
            vectors = encoder.encode(
                texts,
                show_progress_bar=sys.stderr.isatty() and len(texts) > 100 and not piecewise,
                normalize_embeddings=options.normalize,
                **keywords(options, "batch_size", "truncate_dim", "precision", "prompt", "prompt_name"),
            )
            lost |= {count + i: tokens for i, tokens in encoder.truncation_report.lost.items()}
            count += len(texts)
            _write(file, form, texts, vectors)
            file.flush()
    report_truncation(TruncationReport(encoder.truncation_report.limit, lost), options.truncation)
    if options.output is not None:
        print(f"{options.output}: {count} vectors of {vectors.shape[1]}", file=sys.stderr)


def _form(options: Namespace) -> str:
    """Choose the form of the output before any work, so that a wrong name does not cost an hour of encoding."""
    output = options.output
    if output is None:
        return options.format or ("table" if sys.stdout.isatty() else "jsonl")
    check_folder(output)
    through = is_stdout(output) or (output.exists() and not output.is_file())  # a device, or a pipe
    named = {".npy": "npy", ".jsonl": "jsonl"}.get(output.suffix)
    if named and options.format not in (None, "table", named):
        raise ValueError(f"{output}: the name says {named}, and --format {options.format}: leave out one of them")
    form = options.format or named or ("jsonl" if through else None)
    if form == "table":
        raise ValueError("a table is for the terminal: leave out --output, or --format table")
    if form is None:
        raise ValueError(f"{output}: an output file is .npy or .jsonl (or use --format)")
    return form


def _write(file: Any, form: str, texts: Sequence[str], vectors: np.ndarray) -> None:
    from ..vectors import numbers, write_npy

    if form == "npy":
        write_npy(file, vectors)
        return
    if form == "table":
        print(_vector_table(texts, vectors))
        return
    for text, vector in zip(texts, vectors, strict=True):
        file.write(json.dumps({"text": text, "embedding": numbers(vector)}, ensure_ascii=False).encode() + b"\n")


def _vector_table(texts: Sequence[str], vectors: np.ndarray) -> str:
    """Return the first numbers of each vector: enough to see that it works, and that two differ."""
    shown = min(6, vectors.shape[1])
    rows = [["text", *range(1, shown + 1), "", "length"]]
    for text, vector in zip(texts, vectors, strict=True):
        numbers = [f"{number:.4f}" if vector.dtype.kind == "f" else str(number) for number in vector[:shown].tolist()]
        length = float((vector.astype(float) ** 2).sum()) ** 0.5
        rows.append([shorten(text, 40), *numbers, f"… {vectors.shape[1]}", f"{length:.4f}"])
    return table(rows)
