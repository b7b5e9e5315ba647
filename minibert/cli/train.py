"""`minibert train`: from what was asked for to a trained model in a folder."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .data import SCORES, make_evaluator
from .train_flags import EXAMPLES, OBJECTIVES, add_flags, settings_of, settle

if TYPE_CHECKING:
    from ..encoder import SentenceEncoder
    from ..training.examples import Examples
    from ..training.loop import Evaluator
    from ..training.objectives import Objective
    from ..training.task import SentenceTask


def add_commands(commands: Any) -> None:
    """Put it below the parser."""
    parser = commands.add_parser(
        "train",
        usage="minibert train [RUN.toml] [--data FILE --texts COLUMNS --objective WHICH --output FOLDER ...]",
        help="train a model on pairs or triplets of texts",
        description="Train a sentence encoder, from flags or from a TOML file with the flags' names.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # so that only what is said wins over the file
    )
    parser.add_argument("toml", nargs="?", default=None, type=Path, metavar="RUN.toml", help="settings, see below")
    add_flags(parser)
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    run = settle(options)
    settings = settings_of(run)
    if (run.output / "log.jsonl").exists() and not run.resume:
        raise ValueError(f"{run.output} holds a training already: --resume goes on with it, or name another folder")
    import torch

    from ..training.loop import train
    from ..training.task import SentenceTask

    examples = _examples(run)
    encoder = _encoder(run)
    torch.manual_seed(settings.seed)  # of a classifier's first weights
    objective, inner = _objective(run, encoder)
    task = SentenceTask(encoder, objective, examples, chunk_size=run.chunk_size)
    evaluate, score = _evaluator(run, inner)
    total = settings.total_steps(len(examples))
    every = run.evaluate_every or max(1, total // 10)
    if _first():
        _say_start(task, total)
    try:
        records = train(
            task,
            settings,
            folder=run.output,
            evaluate=evaluate,
            score=score,
            evaluate_every=every,
            save_every=run.save_every or every,
            resume=bool(run.resume),
            show_progress_bar=sys.stderr.isatty(),
        )
    except KeyboardInterrupt:
        if _first() and (run.output / "checkpoint.pt").exists():
            print(f"minibert: {run.output} has a checkpoint: the same command with --resume goes on", file=sys.stderr)
        raise
    if _first():
        _say_end(run.output, records, score)


def _first() -> bool:
    """Whether this is the only process, or torchrun's first."""
    return os.environ.get("RANK", "0") == "0"


def _examples(run: argparse.Namespace) -> Examples:
    from ..training.reading import NLI_CLASSES, read_examples

    classes = (run.classes or NLI_CLASSES) if run.objective == "softmax" else run.classes
    if run.label is None:
        if run.objective in ("softmax", "cosine"):
            raise ValueError(f"objective {run.objective} needs --label: the column of the classes, or of the scores")
        classes = run.classes
    return read_examples(run.data, texts=run.texts, label=run.label, classes=classes, scale=run.scale, form=run.format)


def _encoder(run: argparse.Namespace) -> SentenceEncoder:
    from ..encoder import SentenceEncoder
    from ..training.parallel import local_device

    encoder = SentenceEncoder.from_pretrained(
        run.model,
        revision=run.revision,
        local_files_only=bool(run.local_files_only),
        device=run.device or (local_device() if "LOCAL_RANK" in os.environ else None),
        pooling=run.pooling,
        truncation="report",
    )
    encoder.max_seq_length = run.max_seq_length or encoder.max_seq_length
    return encoder


def _objective(run: argparse.Namespace, encoder: SentenceEncoder) -> tuple[Objective, Objective]:
    """The objective, and what is inside if it is Matryoshka."""
    from ..training import objectives
    from ..training.reading import NLI_CLASSES

    inner: Objective
    if run.objective == "softmax":
        count = len(run.classes or set(NLI_CLASSES.values()) - {None})
        inner = objectives.Softmax(encoder.get_sentence_embedding_dimension(), count, run.terms)
    elif run.objective == "cosine":
        inner = objectives.CosineRegression()
    elif run.objective == "triplet":
        inner = objectives.Triplet(run.margin)
    else:
        inner = objectives.InBatchNegatives(1 / run.temperature)
    return (objectives.Matryoshka(inner, run.matryoshka) if run.matryoshka else inner), inner


def _evaluator(run: argparse.Namespace, inner: Objective) -> tuple[Evaluator | None, str | None]:
    """And its score by which the best model is chosen; columns that are not told are the data's."""
    from ..training.objectives import Softmax
    from ..training.reading import NLI_CLASSES

    if run.dev is None:
        return None, None
    own = OBJECTIVES[run.objective]
    kind = run.dev_kind or own
    softmax = inner if isinstance(inner, Softmax) else None
    if kind == "nli" and softmax is None:
        raise ValueError("--dev-kind nli needs the classifier that --objective softmax trains")
    alike = kind == own and run.dev_texts is None
    return make_evaluator(
        kind,
        run.dev,
        texts=run.texts if alike else run.dev_texts,
        label=run.label if alike and run.dev_label is None else run.dev_label,
        form=run.format if alike and run.dev_format is None else run.dev_format,
        classes=run.classes or NLI_CLASSES,
        softmax=softmax,
    ), SCORES[kind]


def _say_start(task: SentenceTask, total: int) -> None:
    print(f"minibert: examples {len(task.examples):,}, steps {total:,}, on {task.model.device}", file=sys.stderr)
    for number, tokens in enumerate(task.tokens, 1):
        if tokens.truncation.lost:
            print(f"minibert: column {number}: {tokens.truncation}", file=sys.stderr)


def _say_end(folder: Path, records: list[dict[str, Any]], score: str | None) -> None:
    from ..training.plot import plot_log

    scored = [record for record in records if "scores" in record]
    if score is not None:
        best = max(scored, key=lambda record: record["scores"][score])
        scores = ", ".join(f"{name} {100 * value:.2f}" for name, value in best["scores"].items())
        print(f"{folder / 'model'}: the best model, of step {best['step']}: {scores}")
    else:
        print(f"{folder / 'model'}: the model after the last step")
    print(f"{folder / 'log.jsonl'}: loss, rate and scores, step by step")
    try:
        plot_log(records, folder / "loss.png")
        print(f"{folder / 'loss.png'}: the same as a picture")
    except ImportError as error:
        print(f"minibert: no picture of the loss: {error}", file=sys.stderr)
    print(f'try it: minibert similarity --model {folder / "model"} "A man eats." "Someone has lunch."')
