"""Train a model, or continue to train it, to predict the masked words of a text (masked-LM)."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..config import BertConfig
from .options import add_model, add_settings, keywords
from .train import add_output, new_run, train_into, training_device

HELP = "train a model to predict masked words"

EXAMPLES = """\
examples:
  minibert pretrain text.txt --output runs/domain --dev held-out.txt       adapt a model to another kind of text
  minibert pretrain text.txt --output runs/new --fresh --shape num_hidden_layers=2,hidden_size=128,num_attention_heads=4
                                                                           a new one, with the other's vocabulary
  minibert pretrain text.txt --output runs/domain --resume                 go on after an interruption

The text is UTF-8, a sentence or a paragraph per line. The output folder gets model/ (a BertForMaskedLM; with --dev the
best), log.jsonl, loss.png, and checkpoint.pt to resume from."""


def add_flags(parser: ArgumentParser) -> None:
    """Add text, model, blocks, settings and output."""
    parser.add_argument("text", type=Path, metavar="TEXT", help="to learn from")
    add_output(parser, required=True)
    parser.add_argument("--dev", type=Path, metavar="TEXT", help="evaluate on it while training; keep the best model")
    add_model(parser)
    parser.add_argument("--fresh", action="store_true", help="use only the model's vocabulary and config, no weights")
    parser.add_argument("--shape", type=shape, metavar="FIELD=VALUE,...", help="of the config, with --fresh")
    parser.add_argument("--length", type=int, default=128, metavar="N", help="tokens per block (default: 128)")
    parser.add_argument("--line-by-line", action="store_true", help="each line is a block")
    parser.add_argument("--share", type=float, default=0.15, metavar="X", help="of tokens to predict (default: 0.15)")
    add_settings(parser.add_argument_group("how"))


def shape(text: str) -> dict[str, Any]:
    """`hidden_size=128,hidden_act=relu` -> {"hidden_size": 128, "hidden_act": "relu"}; values as config.json has them.

    Raises ArgumentTypeError, argparse's, which names what is wrong, and the fields.
    """
    # A fresh model has no pruned heads, and their value would have commas.
    kinds = {field.name: str(field.type) for field in fields(BertConfig) if field.name != "pruned_heads"}
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in kinds or not value:
            raise ArgumentTypeError(f"{part!r} is not FIELD=VALUE, where a FIELD is one of {', '.join(kinds)}")
        try:
            found[name] = value if kinds[name] == "str" else json.loads(value)
        except ValueError:
            raise ArgumentTypeError(f"{name} takes {kinds[name]}, not {value!r}") from None
    return found


def run(options: Namespace) -> None:
    """Train on the text's blocks."""
    settings = new_run(options)
    from ..training.masked import MaskedLMEvaluator, MaskedLMTask
    from ..training.masking import cut_into_blocks, read_lines

    packed = not options.line_by_line
    task = MaskedLMTask.from_file(
        options.text,
        options.model,
        device=training_device(options),
        packed=packed,
        **keywords(options, "fresh", "shape", "length", "share", "seed", "revision", "local_files_only"),
    )
    evaluate = None
    if options.dev:
        blocks = cut_into_blocks(task.tokenizer, read_lines(options.dev), options.length, packed=packed)
        evaluate = MaskedLMEvaluator(task.tokenizer, blocks, share=options.share)
    start = [f"blocks {len(task.lengths):,}, steps {settings.total_steps(len(task.lengths)):,}"]
    notes = task.model.report.notes if task.model.report else ()
    train_into(options, task, settings, [*start, *notes], evaluate, "log_likelihood")
