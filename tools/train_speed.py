"""Train the same encoder on the same data with minibert and with sentence-transformers' trainer, and compare.

    python tools/train_speed.py speed sts-train.csv
    python tools/train_speed.py seeds sts-train.csv sts-dev.csv

`speed` measures optimizer steps per second and peak memory: medians of interleaved rounds.

`seeds` measures the STS score (Spearman times 100) on the second file after training with several seeds, from the first
layers of the checkpoint with CLS pooling. The trainers agree if their means differ no more than seeds do. (With few
layers or few steps, the [CLS] vector may learn nothing, and seeds differ by more than ten.)

The files are the STS Benchmark's, as published. Every training runs in its own process. Both trainers use AdamW and the
same rate, warm-up, weight decay, clipping, dropout and batch size, but not the same order of rows. minibert runs with
and without batches grouped by length. sentence-transformers' trainer needs `pip install minibert-encoder[train-bench]`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from minibert import Bert, SentenceEncoder
from minibert.checkpoint.hub import open_files
from minibert.display import table
from minibert.training.evaluate import STSEvaluator
from minibert.training.examples import Examples
from minibert.training.loop import train
from minibert.training.objectives import CosineRegression, InBatchNegatives
from minibert.training.reading import STS_BENCHMARK, read_examples
from minibert.training.settings import Settings
from minibert.training.task import SentenceTask

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
OURS, RANDOM, THEIRS = "minibert", "minibert, batches in random order", "sentence-transformers"


@dataclass(frozen=True)
class Job:
    """One training."""

    trainer: str
    model: str  # a folder
    file: str
    dev: str | None
    objective: str
    batch_size: int
    steps: int
    warm: int  # steps before the clock starts
    learning_rate: float
    autocast: str | None
    seed: int


class Timed(SentenceTask):
    """A task that notes when each step began."""

    def loss(self, rows):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """As always."""
        self.begun = [*getattr(self, "begun", []), time.perf_counter()]
        return super().loss(rows)


def run_ours(job: Job, examples: Examples) -> tuple[list[float], SentenceEncoder]:
    """Train with minibert: when each step began, and the trained encoder."""
    encoder = SentenceEncoder.from_pretrained(job.model, truncation="silent")
    objective = CosineRegression() if job.objective == "cosine" else InBatchNegatives()
    task = Timed(encoder, objective, examples)
    settings = Settings(
        steps=job.steps,
        batch_size=job.batch_size,
        learning_rate=job.learning_rate,
        autocast=job.autocast,
        by_length=job.trainer == OURS,
        seed=job.seed,
    )
    train(task, settings)
    return task.begun, encoder


def run_theirs(job: Job, examples: Examples) -> tuple[list[float], SentenceEncoder | None]:
    """Train with sentence-transformers, whose model minibert loads if it is to be scored."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss, MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    begun: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: object, **__: object) -> None:
            begun.append(time.perf_counter())

    model = SentenceTransformer(job.model)
    columns = dict(zip(("sentence1", "sentence2"), examples.columns, strict=True))
    if examples.labels is not None:
        columns["score"] = examples.labels.tolist()
    loss = CosineSimilarityLoss(model) if job.objective == "cosine" else MultipleNegativesRankingLoss(model)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            max_steps=job.steps,
            per_device_train_batch_size=job.batch_size,
            learning_rate=job.learning_rate,
            warmup_steps=0.1,
            weight_decay=0.01,
            max_grad_norm=1.0,
            bf16=job.autocast == "bfloat16",
            seed=job.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        SentenceTransformerTrainer(
            model, arguments, train_dataset=Dataset.from_dict(columns), loss=loss, callbacks=[Clock()]
        ).train()
        if job.dev:
            model.save(f"{folder}/trained")
            return begun, SentenceEncoder.from_pretrained(f"{folder}/trained", truncation="silent")
    return begun, None


def run(job: Job) -> dict[str, float]:
    """Do it, in this process."""
    examples = read_examples(job.file, **STS_BENCHMARK, scale=(0, 5))
    if job.objective != "cosine":
        examples = Examples(examples.columns)
    begun, encoder = run_theirs(job, examples) if job.trainer == THEIRS else run_ours(job, examples)
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"steps/s": (len(begun) - 1 - job.warm) / (begun[-1] - begun[job.warm]), "peak MiB": peak / 2**20}
    if job.dev and encoder:
        found["spearman"] = 100 * STSEvaluator(read_examples(job.dev, **STS_BENCHMARK))(encoder)["spearman"]
    return found


def start(job: Job, threads: int) -> dict[str, float]:
    """Do it, in a process of its own. Raises ValueError with what it said last, if it failed."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, __file__, "run", json.dumps(asdict(job))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{job.trainer}: {(done.stderr.strip() or 'ended without a word').splitlines()[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def speed(job: Job, rounds: int, threads: int) -> str:
    """The table: a row for each trainer."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (THEIRS, OURS, RANDOM)}
    for i in range(rounds):
        for name, results in found.items():
            print(f"round {i + 1} of {rounds}: {name}", file=sys.stderr)
            results.append(start(replace(job, trainer=name), threads))
    rows: list[list[object]] = [["", "steps/s", "times", "lowest to highest", "peak memory"]]
    medians = {name: statistics.median(result["steps/s"] for result in results) for name, results in found.items()}
    for name, results in found.items():
        speeds = [result["steps/s"] for result in results]
        spread = f"{min(speeds):.3g} to {max(speeds):.3g}"
        memory = statistics.median(result["peak MiB"] for result in results)
        times = f"{medians[name] / medians[THEIRS]:.2f} x"
        rows.append([name, f"{medians[name]:.3g}", times, spread, f"{memory:.0f} MiB"])
    return table(rows)


def seeds(job: Job, count: int, threads: int) -> str:
    """The table: a row for each seed, their means, and how far seeds are from each other."""
    scores: dict[str, list[float]] = {THEIRS: [], OURS: [], RANDOM: []}
    for seed in range(count):
        for name, found in scores.items():
            found.append(start(replace(job, trainer=name, seed=seed), threads)["spearman"])
            print(f"seed {seed + 1} of {count}: {name}: {found[-1]:.2f}", file=sys.stderr)
    rows: list[list[object]] = [["seed", *scores]]
    rows += [[seed, *(f"{found[seed]:.2f}" for found in scores.values())] for seed in range(count)]
    rows.append(["mean", *(f"{statistics.mean(found):.2f}" for found in scores.values())])
    rows.append(["deviation", *(f"{statistics.stdev(found):.2f}" for found in scores.values())])
    return table(rows)


def first_layers(model: str, layers: int, folder: Path) -> str:
    """Write the first layers of a checkpoint, with CLS pooling, as a checkpoint."""
    whole = SentenceEncoder.from_pretrained(model, pooling="cls", fast=False, device="cpu")
    small = Bert(replace(whole.model.config, num_hidden_layers=layers), pooler=whole.model.pooler is not None)
    kept = {name: value for name, value in whole.model.state_dict().items() if name in small.state_dict()}
    small.load_state_dict(kept)
    whole.model = small
    whole.save_pretrained(folder)
    return str(folder)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, steps in (("speed", 60), ("seeds", 180)):
        command = commands.add_parser(name)
        command.add_argument("file", type=Path, help="sts-train.csv or one of its form")
        if name == "seeds":
            command.add_argument("dev", type=Path, help="sts-dev.csv or one of its form")
            command.add_argument("--layers", type=int, default=6, help="of the checkpoint, from below (default: 6)")
            command.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
        else:
            command.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
        command.add_argument("--model", default=MODEL, help="a folder or a hub id (default: %(default)s)")
        command.add_argument("--objective", choices=("cosine", "in-batch-negatives"), default="cosine")
        command.add_argument("--batch-size", type=int, default=32, help="rows (default: %(default)s)")
        command.add_argument("--steps", type=int, default=steps, help="(default: %(default)s)")
        command.add_argument("--learning-rate", type=float, default=5e-5, help="(default: %(default)s)")
        command.add_argument("--autocast", choices=("bfloat16",))
        command.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(default: all, %(default)s)")
    commands.add_parser("run").add_argument("job", type=json.loads)
    options = parser.parse_args()
    if options.command == "run":
        print(json.dumps(run(Job(**options.job))))
        return 0
    warm = min(5, options.steps // 3)
    common = (options.objective, options.batch_size, options.steps, warm, options.learning_rate, options.autocast, 0)
    with tempfile.TemporaryDirectory() as folder:
        if options.command == "speed":
            model = str(open_files(options.model).require("config.json").parent)
            print(speed(Job(OURS, model, str(options.file), None, *common), options.rounds, options.threads))
        else:
            model = first_layers(options.model, options.layers, Path(folder))
            job = Job(OURS, model, str(options.file), str(options.dev), *common)
            print(seeds(job, options.seeds, options.threads))
    return 0


if __name__ == "__main__":
    sys.exit(main())
