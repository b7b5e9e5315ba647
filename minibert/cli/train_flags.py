"""What `minibert train` can be told: by flags, or by a TOML file whose keys are the flags."""

from __future__ import annotations

import argparse
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from ..checkpoint.hub import DEFAULT_MODEL
from ..training.settings import PRECISIONS, Settings
from .data import SCORES, add_columns

EXAMPLES = """\
examples:
  minibert train --data sts-train.csv --format tsv --texts 6,7 --label 5 --scale 0,5 --objective cosine \\
                 --dev sts-dev.csv --dev-format tsv --epochs 4 --batch-size 32 --output runs/sts
  minibert train --data nli.tsv.gz --texts 2,3 --label 1 --objective softmax \\
                 --dev sts-dev.csv --dev-kind sts --output runs/nli
  minibert train --data faq.csv --texts question,answer --objective in-batch-negatives --output runs/faq
  minibert train run.toml --epochs 1 --output runs/short       flags win over the file
  minibert train run.toml --resume                             go on after an interruption, to the same weights
  torchrun --nproc-per-node 2 -m minibert train run.toml       on two GPUs

run.toml has the flags' names, without dashes in front; paths are relative to where you are:
  model = "minibert-tiny"
  pooling = "cls"
  data = "sts-train.csv"
  format = "tsv"
  texts = [6, 7]                # columns count from 1; or names, which the first line then holds
  label = 5
  scale = [0, 5]                # becomes 0 to 1
  objective = "cosine"
  dev = "sts-dev.csv"
  epochs = 4
  output = "runs/sts"

objectives (what the texts of a row are):
  softmax             a pair, and the class that it is of        Sentence-BERT's, for NLI
  cosine              a pair, and a score of how alike they are  Sentence-BERT's, for STS
  triplet             a text, one like it, one unlike it         Sentence-BERT's
  in-batch-negatives  a text and one that belongs to it; then, if you like, some that don't

Into the output folder go model/ (the best, as any tool reads it), log.jsonl, loss.png, and checkpoint.pt to resume
from."""

# Objective -> how it is measured unless another kind is asked for.
OBJECTIVES = {"softmax": "nli", "cosine": "sts", "triplet": "triplets", "in-batch-negatives": "retrieval"}
SETTINGS_HELP = {
    "epochs": "passes over the data; part of one is allowed",
    "steps": "optimizer steps, in place of epochs",
    "batch_size": "rows a batch",
    "accumulate": "batches a step",
    "learning_rate": "at its highest",
    "warmup": "part of the steps in which the rate rises; after it, it falls to 0",
    "weight_decay": "AdamW's",
    "max_grad_norm": "longer gradients are shortened to this",
    "precision": "bfloat16 and float16: autocast",
    "gradient_checkpointing": "less memory, more time",
    "by_length": "batches of near-equal length",
    "seed": "of the order, of dropout, of new weights",
}
DEFAULTS: dict[str, Any] = {
    "model": DEFAULT_MODEL,
    "terms": ["u", "v", "|u-v|"],
    "margin": 1.0,
    "temperature": 0.05,
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """All but the TOML file itself; what is not said stays unsaid, or None, as the parser's ``argument_default``."""
    start = parser.add_argument_group("what to start from")
    start.add_argument("-m", "--model", help=f"a folder or a hub id (default: {DEFAULT_MODEL})")
    start.add_argument("--pooling", metavar="WAY", help="cls, mean, max, ... instead of the checkpoint's own")
    start.add_argument("--max-seq-length", type=int, metavar="N", help="cut longer texts, in tokens")
    start.add_argument("--revision", metavar="NAME", help="branch, tag or commit on the hub")
    start.add_argument("--local-files-only", action=argparse.BooleanOptionalAction, help="never touch the network")
    start.add_argument("--device", help="cpu, cuda, mps (default: a GPU if there is one)")

    data = parser.add_argument_group("what to learn from")
    data.add_argument("-d", "--data", type=Path, metavar="FILE", help=".tsv, .csv, .jsonl (also .gz) or .parquet")
    add_columns(data, more="; by number: the file has no header")
    data.add_argument("--classes", type=words, metavar="WORDS", help="of softmax, in the order of their numbers")
    data.add_argument("--scale", type=low_high, metavar="LOW,HIGH", help="of the scores, which become 0 to 1")

    goal = parser.add_argument_group("what to learn")
    goal.add_argument("--objective", choices=OBJECTIVES, help="see below")
    goal.add_argument("--terms", type=words, metavar="TERMS", help="what softmax sees (default: u,v,|u-v|)")
    goal.add_argument("--margin", type=float, metavar="X", help="of triplet, in Euclidean distance (default: 1)")
    goal.add_argument("--temperature", type=float, metavar="X", help="of in-batch-negatives (default: 0.05)")
    goal.add_argument("--matryoshka", type=sizes, metavar="SIZES", help="learn at these widths too, as 384,128,32")
    goal.add_argument("--chunk-size", type=int, metavar="N", help="rows in memory at once, of a batch that is larger")

    how = parser.add_argument_group("how")
    add_settings(how)

    measure = parser.add_argument_group("how good it gets")
    measure.add_argument("--dev", type=Path, metavar="FILE", help="measured on while training, to keep the best model")
    measure.add_argument("--dev-kind", choices=SCORES, help="what is measured (default: as the objective)")
    add_columns(measure, "dev-", "; default: as in the data, for another kind sts: the STS Benchmark's")
    measure.add_argument("--evaluate-every", type=int, metavar="N", help="steps (default: ten times in all)")

    output = parser.add_argument_group("where to")
    output.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="must be new, unless --resume")
    output.add_argument("--save-every", type=int, metavar="N", help="steps between checkpoints (default: as evaluated)")
    output.add_argument("--resume", action=argparse.BooleanOptionalAction, help="go on from the folder's checkpoint")


def add_settings(group: Any) -> None:
    """The loop's `Settings`; what is not said stays None, or unsaid."""
    for field in fields(Settings):
        _add_setting(group, field.name, field.default)


def settings_of(run: argparse.Namespace) -> Settings:
    """What was said of them, and otherwise the defaults. Raises ValueError for what can't be."""
    said = {field.name: getattr(run, field.name) for field in fields(Settings)}
    return Settings(**{name: value for name, value in said.items() if value is not None})


def _add_setting(group: Any, name: str, default: Any) -> None:
    flag = f"--{name.replace('_', '-')}"
    said = SETTINGS_HELP[name] + ("" if default is None else f" (default: {default})")
    if isinstance(default, bool):
        group.add_argument(flag, action=argparse.BooleanOptionalAction, help=SETTINGS_HELP[name])
    elif name == "precision":
        group.add_argument(flag, choices=PRECISIONS, help=said)
    else:
        kind = int if name == "steps" or (isinstance(default, int) and name != "epochs") else float
        group.add_argument(flag, type=kind, metavar="N" if kind is int else "X", help=said)


def words(text: str) -> list[str]:
    """Words, with commas between them."""
    return text.split(",")


def low_high(text: str) -> tuple[float, float]:
    """Two numbers, with a comma between them."""
    low, high = text.split(",")
    return float(low), float(high)


def sizes(text: str) -> list[int]:
    """Whole numbers, with commas between them."""
    return [int(word) for word in text.split(",")]


def read_toml(path: Path) -> dict[str, Any]:
    """The flags of a file, checked as if they had been typed.

    Raises:
        ValueError: it is no TOML, or a key is no flag, or a value none that the flag takes. OSError: it can't be read.
    """
    try:
        tomllib: Any = import_module("tomllib")
    except ImportError:
        raise ValueError(f"{path}: TOML needs Python 3.11 or newer; with this one, use flags instead") from None
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        parser = argparse.ArgumentParser(
            add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=argparse.SUPPRESS
        )
        add_flags(parser)
        found, unknown = parser.parse_known_args([_typed(name, value) for name, value in values.items()])
    except (ValueError, argparse.ArgumentError) as error:
        raise ValueError(f"{path}: {error}") from None
    if unknown:
        name = unknown[0].removeprefix("--").removeprefix("no-").split("=")[0].replace("-", "_")
        raise ValueError(f"{path}: there is no setting {name!r} (minibert train --help lists them)")
    return vars(found)


def _typed(name: str, value: object) -> str:
    """A key and its value, as they would be typed."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag}={','.join(map(str, value)) if isinstance(value, list) else value}"


def settle(options: argparse.Namespace) -> argparse.Namespace:
    """All that there is to be told: by flags, else by the TOML file, else by default.

    Raises:
        ValueError: what every training needs is not said; or as `read_toml`.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_flags(parser)
    given = vars(options)
    told = read_toml(options.toml) if options.toml else {}
    run = argparse.Namespace(**vars(parser.parse_args([])) | DEFAULTS | told | given)
    for name in ("data", "texts", "objective", "output"):
        if getattr(run, name) is None:
            raise ValueError(f"train needs --{name}, or {name} = ... in a TOML file (see minibert train --help)")
    return run
