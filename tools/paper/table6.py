"""Compare poolings and concatenations: Table 6 of Sentence-BERT (arXiv 1908.10084), on a small scale.

    python tools/paper table6 snli-dev.tsv.gz sts-train.csv sts-dev.csv --plot table6.png

The paper trains BERT-base on 570,000 + 430,000 pairs of NLI with the softmax objective, and on the STS Benchmark with
the regression objective. This re-run takes a small model that already encodes sentences (all-MiniLM-L6-v2, mean
pooling, 86.7 before training), the pairs of SNLI's dev part, and a hundred of the paper's batches of 16. So compare the
order within a column, not the figures. All are Spearman's correlation times 100 on the STS Benchmark's dev part,
medians over the seeds.

The files: SNLI tab separated, label, premise, hypothesis; the STS Benchmark as published. About 20 minutes on two cores
for each seed; `--layers 2` takes half of that.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import nn

from minibert.display import table
from minibert.training import CosineRegression, Examples, SentenceTask, Settings, Softmax, train
from minibert.training.evaluate import STSEvaluator
from minibert.training.reading import NLI_CLASSES, read_examples

from .model import add_model, small_encoder

# The paper's figures: pooling, trained on NLI and on the STS Benchmark; concatenation, with the mean, on NLI.
POOLINGS = {"mean": (80.78, 87.44), "max": (79.07, 69.92), "cls": (79.80, 86.62)}
CONCATENATIONS = {
    ("u", "v"): 66.04,
    ("|u-v|",): 69.78,
    ("u*v",): 70.54,
    ("|u-v|", "u*v"): 78.37,
    ("u", "v", "u*v"): 77.44,
    ("u", "v", "|u-v|"): 80.78,
    ("u", "v", "|u-v|", "u*v"): 80.44,
}
SOFTMAX = ("u", "v", "|u-v|")


def read_sts(path: Path) -> Examples:
    """Read the STS Benchmark's pairs, with scores from 0 to 1."""
    return read_examples(path, texts=(6, 7), label=5, scale=(0, 5), form="tsv")


class Experiment:
    """One model, trained repeatedly from the same start. Scores are medians over the seeds, times 100."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.model, self.layers, self.seeds = options.model, options.layers, options.seeds
        self.steps, self.learning_rate = options.steps, options.learning_rate
        self.nli = read_examples(options.snli, texts=(2, 3), label=1, classes=NLI_CLASSES, form="tsv")
        self.sts = read_sts(options.sts_train)
        self.evaluate = STSEvaluator(read_sts(options.sts_dev))

    def before(self, pooling: str) -> float:
        """Score the model without training."""
        return 100 * self.evaluate(small_encoder(self.model, self.layers, pooling))["spearman"]

    def on_nli(self, pooling: str, terms: Iterable[str]) -> float:
        """Score the model after training with the softmax objective."""
        return self._median(pooling, self.nli, tuple(terms))

    def on_sts(self, pooling: str) -> float:
        """Score the model after training with the regression objective."""
        return self._median(pooling, self.sts, ())

    def _median(self, pooling: str, examples: Examples, terms: tuple[str, ...]) -> float:
        scores = []
        for seed in range(self.seeds):
            started = time.perf_counter()
            encoder = small_encoder(self.model, self.layers, pooling)
            torch.manual_seed(seed)  # for the classifier's initial weights
            width = encoder.get_sentence_embedding_dimension()
            objective: nn.Module = Softmax(width, terms=terms) if terms else CosineRegression()
            train(
                SentenceTask(encoder, objective, examples),
                Settings(seed=seed, steps=self.steps, learning_rate=self.learning_rate),
                show_progress_bar=sys.stderr.isatty(),
            )
            scores.append(100 * self.evaluate(encoder)["spearman"])
            what = f"({', '.join(terms)})" if terms else "regression"
            seconds = time.perf_counter() - started
            print(f"{pooling}, {what}, seed {seed}: {scores[-1]:.2f}, {seconds:.0f} s", file=sys.stderr, flush=True)
        return statistics.median(scores)


def plot(panels: dict[str, dict[str, tuple[float, float]]], path: Path) -> None:
    """Draw the paper's figure and this run's for each row of each panel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.4), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for place, (theirs, ours) in enumerate(reversed(rows.values())):
            axes.plot([theirs, ours], [place, place], color="tab:gray", linewidth=1, zorder=0)
            axes.plot(theirs, place, "o", color="white", markeredgecolor="black", label="paper" if not place else None)
            axes.plot(ours, place, "o", color="tab:blue", label="here, on a small scale" if not place else None)
        axes.set_yticks(range(len(rows)), list(reversed(rows)))
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("Spearman x 100, STSb dev")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train all models, and print both halves of the table."""
    parser = argparse.ArgumentParser(
        prog="python tools/paper table6", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("snli", type=Path, help="label, premise, hypothesis, tab separated; may be gzipped")
    parser.add_argument("sts_train", type=Path, help="sts-train.csv")
    parser.add_argument("sts_dev", type=Path, help="sts-dev.csv")
    add_model(parser, layers=6)
    parser.add_argument("--steps", type=int, default=100, help="for each training (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=5e-5, help="(default: %(default)s; the paper's is 2e-5)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings for each median (default: 1)")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the tables too (.png or .svg); needs matplotlib"
    )
    options = parser.parse_args(arguments)
    experiment = Experiment(options)

    print(
        f"A small-scale re-run, not a reproduction: {options.layers} layers of {Path(options.model).name}, "
        f"{options.steps} steps of 16 pairs at {options.learning_rate:g}, seeds: {options.seeds}. "
        "Spearman x 100, STS Benchmark dev.\n"
    )
    rows: list[tuple[str, ...]] = [("pooling", "before", "NLI here", "NLI paper", "STSb here", "STSb paper")]
    panels: dict[str, dict[str, tuple[float, float]]] = {"trained on NLI": {}, "trained on STSb": {}}
    for pooling, (nli, sts) in POOLINGS.items():
        ours = experiment.on_nli(pooling, SOFTMAX), experiment.on_sts(pooling)
        figures = (experiment.before(pooling), ours[0], nli, ours[1], sts)
        rows.append((pooling, *(f"{figure:.2f}" for figure in figures)))
        for panel, theirs, own in zip(panels.values(), (nli, sts), ours, strict=True):
            panel[pooling] = (theirs, own)
    print(table(rows), flush=True)

    panels["NLI, mean, concatenation"] = {}
    for terms, theirs in CONCATENATIONS.items():
        own = panels["trained on NLI"]["mean"][1] if terms == SOFTMAX else experiment.on_nli("mean", terms)
        panels["NLI, mean, concatenation"][f"({', '.join(terms)})"] = (theirs, own)
    rows = [("concatenation", "NLI here", "NLI paper")]
    rows += [(name, f"{o:.2f}", f"{t:.2f}") for name, (t, o) in panels["NLI, mean, concatenation"].items()]
    print()
    print(table(rows))
    if options.plot:
        plot(panels, options.plot)
    return 0
