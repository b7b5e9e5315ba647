"""Train a sentence encoder, from flags or from a TOML file with the flags' names."""

from __future__ import annotations

import math
import os
import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace, _ActionsContainer
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.atomic import refuse_file
from ..config import check_count
from ..training.settings import Settings
from .evaluate import SCORES, make_evaluator
from .options import Several, add_columns, add_model, add_pooling, add_settings, keywords, load_encoder

if TYPE_CHECKING:
    import torch

    from ..training.examples import Examples
    from ..training.loop import Evaluator
    from ..training.objectives import Objective
    from ..training.task import Task

HELP = "train a model on pairs or triplets of texts"
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

run.toml has the flags' names, without dashes in front; paths are relative to the current folder:
  model = "minibert-tiny"
  pooling = "cls"
  data = "sts-train.csv"
  format = "tsv"
  texts = [6, 7]                # columns count from 1; or names, which are then in the first line
  label = 5
  scale = [0, 5]                # becomes 0 to 1
  objective = "cosine"
  dev = "sts-dev.csv"
  epochs = 4
  output = "runs/sts"

objectives, and the texts of a row:
  softmax             a pair, and its class                      Sentence-BERT's, for NLI
  cosine              a pair, and the score of its similarity    Sentence-BERT's, for STS
  triplet             a text, a similar one, a different one     Sentence-BERT's
  in-batch-negatives  a text and its partner; optionally hard negatives

The output folder gets model/ (the best, as any tool reads it), log.jsonl, loss.png, and checkpoint.pt to resume
from."""

# Objective -> the kind of evaluation on the dev file, unless another is chosen.
OBJECTIVES = {"softmax": "nli", "cosine": "sts", "triplet": "triplets", "in-batch-negatives": "retrieval"}


def add_flags(parser: ArgumentParser) -> None:
    """Add the TOML file, and all flags that it may have, too."""
    parser.usage = "minibert train [RUN.toml] [--data FILE --texts COLUMNS --objective WHICH --output FOLDER ...]"
    parser.add_argument("toml", nargs="?", type=Path, metavar="RUN.toml", help="values of flags, see below")
    parser.set_defaults(dtype=None, truncation="report")
    start = parser.add_argument_group("what to start from")
    add_model(start)
    add_pooling(start)
    start.add_argument("--max-seq-length", type=int, metavar="N", help="truncate longer texts, in tokens")

    data = parser.add_argument_group("what to learn from")
    data.add_argument("-d", "--data", type=Path, metavar="FILE", help=".tsv, .csv, .jsonl (also .gz) or .parquet")
    add_columns(data, more="; with numbers: the file has no header")
    data.add_argument("--classes", type=Several(str), metavar="WORDS", help="of softmax, in the order of their numbers")
    data.add_argument("--scale", type=Several(float, 2), metavar="LOW,HIGH", help="of the scores, which become 0 to 1")

    goal = parser.add_argument_group("what to learn")
    goal.add_argument("--objective", choices=OBJECTIVES, help="see below")
    goal.add_argument("--terms", type=Several(str), help="of softmax (default: u,v,|u-v|)")
    goal.add_argument("--margin", type=float, metavar="X", help="of triplet, Euclidean (default: 1.0)")
    goal.add_argument("--temperature", type=float, metavar="X", help="of in-batch-negatives (default: 0.05)")
    goal.add_argument("--matryoshka", type=Several(int), metavar="SIZES", help="learn at widths too, as 384,128,32")
    goal.add_argument("--chunk-size", type=int, metavar="N", help="rows in memory at once, of a batch that is larger")

    add_settings(parser.add_argument_group("how"))

    measure = parser.add_argument_group("how good it gets")
    measure.add_argument("--dev", type=Path, metavar="FILE", help="evaluate on it while training; keep the best model")
    measure.add_argument("--dev-kind", choices=SCORES, help="kind of evaluation (default: as the objective)")
    add_columns(measure, "dev-", "; default: as in the data, for another kind sts: the STS Benchmark's")
    add_output(parser.add_argument_group("where to"))


def run(options: Namespace) -> None:
    """Train on the file's texts."""
    for name in ("data", "texts", "objective", "output"):
        if getattr(options, name) is None:
            raise ValueError(f"train needs --{name}, or {name} = ... in a TOML file (see minibert train --help)")
    if options.label is None and options.objective in ("softmax", "cosine"):
        raise ValueError(f"objective {options.objective} needs --label: the column of the classes, or of the scores")
    _check_objective(options)
    settings = new_run(options)
    check_count("--max-seq-length", options.max_seq_length, optional=True)
    import torch

    from ..training.objectives import Matryoshka
    from ..training.reading import NLI_CLASSES, read_examples
    from ..training.task import SentenceTask

    classes = options.classes or (NLI_CLASSES if options.objective == "softmax" else None)
    columns = keywords(options, "texts", "label", "scale")
    examples = read_examples(options.data, classes=classes, form=options.format, **columns)
    if options.objective == "cosine":
        _check_scores(options, examples)
    options.device = training_device(options)
    encoder = load_encoder(options)
    encoder.max_seq_length = options.max_seq_length or encoder.max_seq_length
    torch.manual_seed(settings.seed)  # of a classifier's first weights
    inner = _objective(options, encoder.get_sentence_embedding_dimension())
    objective = Matryoshka(inner, options.matryoshka) if options.matryoshka else inner
    task = SentenceTask(encoder, objective, examples, chunk_size=options.chunk_size)
    start = [f"examples {len(examples):,}, steps {settings.total_steps(len(examples)):,}, on {encoder.device}"]
    reports = enumerate((tokens.truncation for tokens in task.tokens), 1)
    start += [f"column {number}: {report}" for number, report in reports if report.lost]
    evaluate, score = _evaluator(options, inner)
    train_into(options, task, settings, start, evaluate, score)
    if is_first():
        print(f'try it: minibert similarity --model {options.output / "model"} "A man eats." "Someone has lunch."')


def _check_objective(options: Namespace) -> None:
    """Raise ValueError for a flag of another objective, or a wrong temperature."""
    for name, objective in {"terms": "softmax", "margin": "triplet", "temperature": "in-batch-negatives"}.items():
        if getattr(options, name) is not None and options.objective != objective:
            raise ValueError(f"--{name} is of --objective {objective}, not of {options.objective}")
    if options.temperature is not None and not 0 < options.temperature < math.inf:
        raise ValueError(f"--temperature must be above 0, and finite, not {options.temperature}")


def _check_scores(options: Namespace, examples: Examples) -> None:
    """Raise ValueError for scores that no cosine can be, with the flag that helps."""
    assert examples.labels is not None
    low, high = (float(bound) for bound in examples.labels.aminmax())
    if low < -1 or high > 1:
        scale = f"{min(0, math.floor(low))},{math.ceil(high)}"
        advice = f"say on which scale they are, as --scale {scale}"
        raise ValueError(f"{options.data}: scores go from {low:g} to {high:g}, and cosines from -1 to 1: {advice}")


def _objective(options: Namespace, width: int) -> Objective:
    from ..training import objectives

    given = {name: getattr(options, name) for name in ("terms", "margin") if getattr(options, name) is not None}
    if options.objective == "softmax":
        return objectives.Softmax(width, len(options.classes) if options.classes else 3, **given)
    if options.objective == "cosine":
        return objectives.CosineRegression()
    if options.objective == "triplet":
        return objectives.Triplet(**given)
    scale = {"scale": 1 / options.temperature} if options.temperature else {}
    return objectives.InBatchNegatives(**scale)


def _evaluator(options: Namespace, inner: Objective) -> tuple[Evaluator | None, str | None]:
    """Return the evaluator, and its score that selects the best model. The data's columns are the default."""
    from ..training.reading import NLI_CLASSES

    if options.dev is None:
        return None, None
    kind = options.dev_kind or OBJECTIVES[options.objective]
    texts, label, form = options.dev_texts, options.dev_label, options.dev_format
    if kind == OBJECTIVES[options.objective] and texts is None:
        texts, form = options.texts, form or options.format
        label = options.label if label is None else label
    classes, logits = options.classes or NLI_CLASSES, getattr(inner, "logits", None)
    return make_evaluator(kind, options.dev, texts, label, form, classes, logits), SCORES[kind]


# --- Shared with `minibert pretrain`


def add_output(group: _ActionsContainer, *, required: bool = False) -> None:
    """Add the flags of the output folder."""
    group.add_argument("-o", "--output", type=Path, metavar="FOLDER", required=required, help="new, unless --resume")
    group.add_argument("--evaluate-every", type=int, metavar="N", help="steps (default: ten times in all)")
    group.add_argument("--save-every", type=int, metavar="N", help="steps between checkpoints (default: as evaluated)")
    group.add_argument("--resume", action=BooleanOptionalAction, default=False, help="continue from its checkpoint")


def is_first() -> bool:
    """Tell if this is the only process, or torchrun's first."""
    return os.environ.get("RANK", "0") == "0"


def training_device(options: Namespace) -> str | torch.device | None:
    """Return the device: as the flag says, else the process's own under torchrun, else None."""
    from ..training.parallel import local_device

    return local_device() if options.device is None and "LOCAL_RANK" in os.environ else options.device


def new_run(options: Namespace) -> Settings:
    """Return the settings. Raises ValueError if one is wrong, or the output folder in use; OSError if it is a file."""
    settings = Settings(**keywords(options, *(field.name for field in fields(Settings))))
    for name in ("evaluate_every", "save_every"):
        check_count(f"--{name.replace('_', '-')}", getattr(options, name), optional=True)
    from ..training.run_folder import refuse_used

    refuse_file(options.output)
    if not options.resume:  # `train` refuses it too, but only when the model is loaded and the texts are read
        refuse_used(options.output)
    return settings


def train_into(
    options: Namespace, task: Task, settings: Settings, start: list[str], evaluate: Evaluator | None, score: str | None
) -> None:
    """Print the lines of ``start``, train into the output folder, and report what is in it."""
    from ..training.loop import train
    from ..training.plot import plot_log

    folder, shown = options.output, sys.stderr.isatty()
    every = options.evaluate_every or max(1, settings.total_steps(len(task.lengths)) // 10)
    kept: dict[str, Any] = {"folder": folder, "save_every": options.save_every or every, "resume": options.resume}
    watched: dict[str, Any] = {"evaluate": evaluate, "score": score, "evaluate_every": every} if evaluate else {}
    for line in start if is_first() else ():
        print(f"minibert: {line}", file=sys.stderr)
    try:
        records = train(task, settings, show_progress_bar=shown, **kept, **watched)
    except KeyboardInterrupt:
        if is_first() and (folder / "checkpoint.pt").exists():
            print(f"minibert: {folder} has a checkpoint: the same command with --resume goes on", file=sys.stderr)
        raise
    if not is_first():
        return
    scored = [record for record in records if "scores" in record]
    numbers = [record for record in scored if not math.isnan(record["scores"][score])]
    best = max(numbers or scored, key=lambda record: record["scores"][score], default=None)
    which = f"best model, of step {best['step']}: {_shown(best['scores'])}" if best else "model after the last step"
    print(f"{folder / 'model'}: the {which}")
    print(f"{folder / 'log.jsonl'}: loss, rate and scores, step by step")
    try:
        plot_log(records, folder / "loss.png")
        print(f"{folder / 'loss.png'}: the same as a picture")
    except ImportError as error:
        print(f"minibert: no picture of the loss: {error}", file=sys.stderr)


def _shown(scores: dict[str, float]) -> str:
    """Show perplexity, which has no upper bound, as it is, and other scores times 100."""
    factors = {"perplexity": 1, "log_likelihood": 1}
    return ", ".join(f"{name} {factors.get(name, 100) * value:.2f}" for name, value in scores.items())
