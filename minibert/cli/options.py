"""Flags that several commands have, and what is made of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.hub import DEFAULT_MODEL

if TYPE_CHECKING:
    from ..encoder import SentenceEncoder
    from ..truncation import TruncationReport


def add_model(parser: argparse.ArgumentParser) -> None:
    """Which encoder, and how it computes."""
    parser.add_argument(
        "-m", "--model", default=DEFAULT_MODEL, help="a folder or a hub id, as owner/name (default: %(default)s)"
    )
    add_source(parser)
    parser.add_argument("--pooling", metavar="WAY", help="cls, mean, max, ... instead of the checkpoint's own")
    parser.add_argument("--device", help="cpu, cuda, mps (default: a GPU if there is one)")
    parser.add_argument("--dtype", help="float32 (default), bfloat16, int8, float16, float64")
    parser.add_argument(
        "--truncation",
        default="report",
        choices=("report", "error", "silent"),
        help="text too long for the model: cut it and say so, refuse it, or cut it quietly (default: %(default)s)",
    )


def add_source(parser: argparse.ArgumentParser) -> None:
    """Where from, if from the hub."""
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit on the hub")
    parser.add_argument("--local-files-only", action="store_true", help="never touch the network")


def encoder_of(options: argparse.Namespace) -> SentenceEncoder:
    """The encoder that the flags of `add_model` ask for."""
    from ..encoder import SentenceEncoder

    return SentenceEncoder.from_pretrained(
        options.model,
        revision=options.revision,
        local_files_only=options.local_files_only,
        device=options.device,
        dtype=options.dtype,
        pooling=options.pooling,
        truncation=options.truncation,
    )


def say_truncation(report: TruncationReport, mode: str) -> None:
    """On stderr, unless the mode is another or nothing was cut."""
    if report.lost and mode == "report":
        print(f"minibert: {report} (--truncation error refuses such texts)", file=sys.stderr)


def check_folder(output: Path) -> None:
    """Raise ValueError if the folder of a file that is to be written is not there."""
    if not output.absolute().parent.is_dir():
        raise ValueError(f"{output}: there is no folder {output.absolute().parent}")
