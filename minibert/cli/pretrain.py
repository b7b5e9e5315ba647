"""`minibert pretrain`: masked-LM training on a text file."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ..checkpoint.hub import DEFAULT_MODEL
from .options import add_source
from .train_flags import add_settings, settings_of

EXAMPLES = """\
examples:
  minibert pretrain text.txt --output runs/domain --dev held-out.txt       a model gets to know another kind of text
  minibert pretrain text.txt --output runs/new --fresh --shape num_hidden_layers=2,hidden_size=128
                                                                           a new one, with the other's vocabulary
  minibert pretrain text.txt --output runs/domain --resume                 go on after an interruption

The text is UTF-8, a sentence or a paragraph a line. Into the output folder go model/ (a BertForMaskedLM; with --dev the
best), log.jsonl, and checkpoint.pt to resume from."""


def add_commands(commands: Any) -> None:
    """Put it below the parser."""
    parser = commands.add_parser(
        "pretrain",
        help="let a model tell hidden words of a text",
        description="Train a model, or go on training it, to tell hidden words of a text (masked-LM).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("text", type=Path, metavar="TEXT", help="to learn from")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", required=True, help="new, unless --resume")
    parser.add_argument("--dev", type=Path, metavar="TEXT", help="measured on while training, to keep the best model")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's checkpoint")
    parser.add_argument("-m", "--model", default=DEFAULT_MODEL, help="a folder or a hub id (default: %(default)s)")
    add_source(parser)
    parser.add_argument("--device", help="cpu, cuda, mps (default: a GPU if there is one)")
    parser.add_argument("--fresh", action="store_true", help="take only the model's vocabulary and config, no weights")
    parser.add_argument("--shape", type=shape, metavar="FIELD=N,...", help="of the config, with --fresh")
    parser.add_argument("--length", type=int, default=128, metavar="N", help="tokens of a block (default: 128)")
    parser.add_argument("--line-by-line", action="store_true", help="each line is a block")
    parser.add_argument("--share", type=float, default=0.15, metavar="X", help="of tokens, to be told (default: 0.15)")
    add_settings(parser.add_argument_group("how"))
    parser.set_defaults(run=_pretrain)


def shape(text: str) -> dict[str, int]:
    """`hidden_size=128,num_hidden_layers=2` -> {"hidden_size": 128, "num_hidden_layers": 2}"""
    return {name: int(number) for name, number in (field.split("=") for field in text.split(","))}


def _pretrain(options: argparse.Namespace) -> None:
    settings = settings_of(options)
    if (options.output / "log.jsonl").exists() and not options.resume:
        raise ValueError(f"{options.output} holds a training already: --resume goes on with it, or name another folder")
    from ..training.blocks import cut_into_blocks, read_lines
    from ..training.loop import train
    from ..training.masked import MaskedLMEvaluator, MaskedLMTask
    from ..training.parallel import local_device

    blocks = {"length": options.length, "packed": not options.line_by_line}
    task = MaskedLMTask.from_file(
        options.text,
        options.model,
        revision=options.revision,
        local_files_only=options.local_files_only,
        device=options.device or (local_device() if "LOCAL_RANK" in os.environ else None),
        fresh=options.fresh,
        shape=options.shape,
        share=options.share,
        seed=settings.seed,
        **blocks,
    )
    evaluate = None
    if options.dev:
        evaluate = MaskedLMEvaluator(
            task.tokenizer, cut_into_blocks(task.tokenizer, read_lines(options.dev), **blocks), share=options.share
        )
    total = settings.total_steps(len(task.lengths))
    first = os.environ.get("RANK", "0") == "0"
    if first:
        print(f"minibert: blocks {len(task.lengths):,}, steps {total:,}", file=sys.stderr)
        for note in task.model.report.notes if task.model.report else ():
            print(f"minibert: {note}", file=sys.stderr)
    every = max(1, total // 10)
    records = train(
        task,
        settings,
        folder=options.output,
        evaluate=evaluate,
        score="log_likelihood",
        evaluate_every=every,
        save_every=every,
        resume=options.resume,
        show_progress_bar=sys.stderr.isatty(),
    )
    if first:
        scored = [record for record in records if "scores" in record]
        best = max(scored, key=lambda record: record["scores"]["log_likelihood"], default=None)
        print(f"{options.output / 'model'}: {_told(best) if best else 'the model after the last step'}")
        print(f"{options.output / 'log.jsonl'}: loss and rate, step by step")


def _told(record: dict[str, Any]) -> str:
    scores = record["scores"]
    return (
        f"the best model, of step {record['step']}: perplexity {scores['perplexity']:.2f}, "
        f"accuracy {100 * scores['accuracy']:.2f}"
    )
