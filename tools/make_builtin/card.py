"""Write the model card. Every figure in it was measured by tools/quality, or counted, in the same run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minibert.checkpoint.atomic import write_text

from .corpora import CORPORA
from .pairs import KINDS
from .publish import size
from .recipe import RECIPE, Stage
from .search import HEADINGS, STEPS, tried_rows
from .texts import Counts


def write_card(folder: Path, suite: Mapping[str, Any], counts: Counts, seconds: Mapping[str, float]) -> None:
    """Write README.md into the folder.

    Args:
        suite: As tools/quality measured it.
        counts: Of the texts.
        seconds: By phase.
    """
    sentences, pairs = counts.sentences, counts.pairs
    corpora = [f"| {each.what} | {sentences[each.file]:,} | {each.source} | {each.licence} |" for each in CORPORA]
    fields = {
        "date": suite["date"],
        "machine": suite["machine"],
        "scores": "\n".join(score_rows(suite, RECIPE.widths[:-1])),
        "rates": "\n".join(rate_rows(suite)),
        "widths": ", ".join(map(str, RECIPE.widths[:-1])),
        "recipe": RECIPE,
        "layers": ", ".join(map(str, RECIPE.layers)),
        "stages": "; ".join(map(describe_stage, RECIPE.stages)),
        "weights": " : ".join(map(str, RECIPE.weights)),
        "groups": sum(stage.steps for stage in RECIPE.stages) * RECIPE.batch_size,
        "total": sum(sentences.values()),
        "recombined": counts.recombined,
        "passages": counts.passages,
        "pairs": sum(pairs.values()),
        "most": " to ".join(str(2 * f(kind.times for kind in KINDS.values() if kind.times > 1)) for f in (min, max)),
        "kinds": "; ".join(f"{kind} ({number:,})" for kind, number in sorted(pairs.items())),
        "corpora": "\n".join(corpora),
        "minutes": ", ".join(f"{phase} {spent / 60:.1f}" for phase, spent in seconds.items()),
        "whole": sum(seconds.values()) / 60,
        "count": len(RECIPE.layers),
        "tried": describe_search(),
    }
    for _ in range(2):  # the card itself counts
        write_text(folder / "README.md", TEMPLATE.format(megabytes=size(folder) / 1e6, **fields))


def describe_search() -> str:
    """Return the table of the sizes that were tried; nothing where none were."""
    if not (rows := tried_rows()):
        return ""
    about = f"""
The layers come from trainings of {STEPS} steps in one stage, without the pairs' loss and on fewer kinds of pairs
(`--search`). Scores are percent of the teacher's; short and long are times its rate on such texts. More neurons score
higher than more word pieces. So there are nearly 384 of them, which still are four times as fast, and as many word
pieces as the megabytes allow."""
    head = [f"| {' | '.join(HEADINGS)} |", f"|{' --- |' * len(HEADINGS)}"]
    return "\n".join([about, "", *head, *rows])


def describe_stage(stage: Stage) -> str:
    """Return a stage in words."""
    answers = f", with {stage.answers:g} of the pairs' loss" if stage.answers else ""
    steps = f"{stage.intermediate} neurons, {stage.steps:,} steps, at most {stage.learning_rate:g}"
    return f"{steps}{answers}"


def score_rows(suite: Mapping[str, Any], dims: tuple[int, ...]) -> list[str]:
    """Return the head, and a row for each set and measure: both scores, the share, those of the first dimensions."""
    own = suite["students"][0]
    columns = [own, *(f"{own}, {dim} dimensions" for dim in dims)]
    widths = " | ".join(f"{dim} dim." for dim in dims)
    rows = [f"| set and measure | teacher | minibert-tiny | percent | {widths} |", f"|{' --- |' * (4 + len(dims))}"]
    for each in suite["sets"]:
        percent, low, high = each["shares"][own]
        scores = f"{100 * each['scores'][suite['teacher']]:.1f} | {100 * each['scores'][own]:.1f}"
        cut = " | ".join(f"{each['shares'][name][0]:.1f}" for name in columns[1:])
        rows.append(
            f"| {each['name']}, {each['measure']} | {scores} | {percent:.1f} ({low:.1f} to {high:.1f}) | {cut} |"
        )
    percent, low, high = suite["mean"][own]
    cut = " | ".join(f"{suite['mean'][name][0]:.1f}" for name in columns[1:])
    mean = "mean of the sets' first measures, without STS-B"
    return [*rows, f"| {mean} | | | {percent:.1f} ({low:.1f} to {high:.1f}) | {cut} |"]


def rate_rows(suite: Mapping[str, Any]) -> list[str]:
    """Return a row for each kind of texts: both models' texts per second, and their ratio."""
    rows = []
    for kind, found in suite["rates"].items():
        theirs, own = found[suite["teacher"]], found[suite["students"][0]]
        rows.append(f"| {kind} | {theirs['texts/s']:,.0f} | {own['texts/s']:,.0f} | {own['times']:.1f} |")
    return rows


TEMPLATE = """\
---
language: en
license: apache-2.0
library_name: sentence-transformers
pipeline_tag: sentence-similarity
base_model: sentence-transformers/all-MiniLM-L6-v2
---

# minibert-tiny

The sentence encoder that ships inside minibert: a BERT of {count} layers, 384 wide, with CLS pooling,
distilled from all-MiniLM-L6-v2. {megabytes:.1f} MB with its tokenizer. It gives vectors of 384 numbers and of length 1,
in the teacher's own space. Their first {widths} numbers are vectors too (`truncate_dim`).

```python
from minibert import SentenceEncoder

vectors = SentenceEncoder.from_pretrained().encode(["A man is eating food."])
```

The folder is in the published layout: transformers and sentence-transformers load it to the same vectors.

## Scores

{date}, {machine}.
Scores times 100 of the teacher (all-MiniLM-L6-v2, mean pooling) and of minibert-tiny; then the student's in percent of
the teacher's with a 95 % interval, and so for its first dimensions.

{scores}

Texts per second in float32, medians of rounds in which both take turns:

| | teacher | minibert-tiny | times |
| --- | --- | --- | --- |
{rates}

All of it again: `python tools/quality DATA --dims 64 128 192 --rounds 9`. No text of these sets was trained on, nor a
text of the same paper, section, word, picture or dialogue. Weights were taken from the last steps, not from the best by
any score. But the kinds of texts and pairs, how often they come and the weight of the pairs' loss (below) were chosen
with this table in view.

## How it was made

`python tools/make_builtin DATA --work WORK`, in this repository; seeds are fixed. On the machine above it took
{whole:.0f} minutes:
{minutes}.

1. {total:,} sentences of the corpora below; {recombined:,} more, each of one caption's beginning and another's end,
   joined at a word that both have; {passages:,} passages, of up to 256 tokens; and {pairs:,} pairs of texts that belong
   together:
   {kinds}. None twice.
2. {recipe.pieces:,} of the teacher's 30,522 word pieces: special tokens, single characters, and those of which (how
   often a piece is to be expected) x (1 - cos of the teacher's vectors for it and for its spelling by other pieces) is
   largest.
3. The teacher's vectors for all texts, once.
4. Groups: a text and one of its nearest neighbours by the teacher's vectors; or a pair, and a near neighbour of its
   passage, which is a hard negative.
5. The teacher's layers {layers} (from 0), and 256 positions of 512.
6. In stages, of each feed-forward the neurons that add most to what flows on, then steps of AdamW with batches of
   {recipe.batch_size} groups, no weight decay, bfloat16, and a learning rate that rises in the first {recipe.warmup:g}
   of the steps and then falls to 0: {stages}.
   The loss has three parts, {weights}: 1 - cos to the teacher's vector; the mean square difference of all cosines
   within the batch; and the Kullback-Leibler divergence of each text's ranking of the others, a softmax of cosines over
   {recipe.temperature}. The pairs' loss is InfoNCE: a query is to find its passage among the passages and hard
   negatives of the batch, by cosines over {recipe.temperature}. It teaches what the teacher itself does not know, so a
   score may be above the teacher's; in its stage pairs come twice as often, those of papers {most} times. A batch
   has pairs of one kind, or none. All but the first are summed over the first {widths} and all dimensions. In all
   {groups:,} groups.
   The weights are an exponential average over about {recipe.average} steps.
7. The table of word pieces rounded to 8 bits (float8, e4m3), the rest to float16; whoever loads them computes in
   float32.

Why so: the package is to stay below 16 MB, where the teacher's table of word pieces alone has 23 MB in float16, and the
model is to be at least four times as fast as its teacher. With CLS pooling a last layer computes one row only.
{tried}

## Data

| what | sentences | source | licence |
| --- | --- | --- | --- |
{corpora}

From all of them evaluation sentences of the STS Benchmark, SICK-R, STS 2012 to 2016, SNLI test, Quora test and XQuAD
had been removed. None of their text is in this folder; thanks to all who wrote it. Texts under CC BY-SA, copied, stay
under CC BY-SA. The teacher, and BERT's vocabulary, are under Apache-2.0, as is this model.

## Limits

English, and texts of up to 256 tokens; what is longer is cut. Without capitals, as its teacher. Characters that English
does without are unknown to it. Most of the sets above are held-out parts of the corpora that it was trained on. On
other kinds of text it may be further behind its teacher, and clearly is where rare names and terms count, as in
docstrings of libraries. What is prejudiced in its teacher's training texts and in the corpora is so in its similarities
too. For the best vectors take a larger model; this one is for having good ones at once.
"""
