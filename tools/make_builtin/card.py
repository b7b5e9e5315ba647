"""Write the model card. Every figure in it is measured here and now."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from minibert import SentenceEncoder
from minibert.checkpoint.atomic import write_text

from .corpora import CORPORA
from .publish import size
from .recipe import RECIPE
from .sentences import MOST_LETTERS
from .training import read_sts

TEXTS, ROUNDS = 1024, 9  # of the race


@dataclass(frozen=True)
class Figures:
    """The measurements of one model."""

    spearman: float
    pearson: float
    texts_per_s: float


def write_card(
    folder: Path, teacher: str, sts: Path, sentences: Mapping[str, int], seconds: Mapping[str, float]
) -> None:
    """Measure both models and write README.md into the folder; ``sentences`` by corpus, ``seconds`` by phase."""
    own, other = measure(sts, str(folder), teacher)
    rows = [
        f"| {corpus.what} | {sentences[corpus.file]:,} | {corpus.source} | {corpus.licence} |" for corpus in CORPORA
    ]
    minutes = ", ".join(f"{phase} {spent / 60:.1f}" for phase, spent in seconds.items())
    text = TEMPLATE.format(
        megabytes=size(folder) / 1e6,
        own=own,
        other=other,
        ratio=own.texts_per_s / other.texts_per_s,
        recipe=RECIPE,
        layers=", ".join(map(str, RECIPE.layers)),
        passes=sum(stage.steps for stage in RECIPE.stages) * RECIPE.batch_size / sum(sentences.values()),
        stages="; ".join(
            f"{stage.intermediate} neurons, {stage.steps:,} steps, at most {stage.learning_rate:g}"
            for stage in RECIPE.stages
        ),
        total=sum(sentences.values()),
        corpora="\n".join(rows),
        minutes=minutes,
        whole=sum(seconds.values()) / 60,
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        texts=TEXTS,
        rounds=ROUNDS,
        count=len(RECIPE.layers),
        letters=MOST_LETTERS,
    )
    write_text(folder / "README.md", text)


def measure(sts: Path, *models: str) -> list[Figures]:
    """Return scores times 100, and texts per second of one large call: medians of interleaved rounds."""
    evaluate = read_sts(sts)
    texts = [*evaluate.first, *evaluate.second][:TEXTS]
    encoders = [SentenceEncoder.from_pretrained(model, device="cpu") for model in models]
    spent: list[list[float]] = [[] for _ in encoders]
    for _ in range(ROUNDS):
        for encoder, own in zip(encoders, spent, strict=True):
            started = time.perf_counter()
            encoder.encode(texts)
            own.append(time.perf_counter() - started)
    scores = [evaluate(encoder) for encoder in encoders]
    return [
        Figures(100 * found["spearman"], 100 * found["pearson"], TEXTS / median(own))
        for found, own in zip(scores, spent, strict=True)
    ]


def machine() -> str:
    """Return the processor's name and the number of cores."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="utf-8").splitlines() if described.exists() else []
    names = Counter(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = max(names, key=names.__getitem__) if names else platform.processor()
    return f"{os.cpu_count()} cores of {name}"


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
in the teacher's own space.

```python
from minibert import SentenceEncoder

vectors = SentenceEncoder.from_pretrained().encode(["A man is eating food."])
```

The folder is in the published layout: transformers and sentence-transformers load it to the same vectors.

## Scores

{date}, {machine}. STS Benchmark, dev part, correlations times 100; texts a second in one call of {texts:,}
of its sentences, float32, medians of {rounds} rounds in which both models take turns.

| | pooling | Spearman | Pearson | texts/s |
| --- | --- | --- | --- | --- |
| minibert-tiny | cls | {own.spearman:.2f} | {own.pearson:.2f} | {own.texts_per_s:,.0f} ({ratio:.1f} x) |
| all-MiniLM-L6-v2, the teacher | mean | {other.spearman:.2f} | {other.pearson:.2f} | {other.texts_per_s:,.0f} (1.0 x) |

The scores again: `python tools/sts.py sts-dev.csv`, with `--model sentence-transformers/all-MiniLM-L6-v2` for the
teacher's. The rates: `python tools/bench --models minilm minibert-tiny --only minibert`. Neither the dev part nor any
other part of the benchmark was trained on; its scores were watched on the way, and the last step's weights taken.

## How it was made

`python tools/make_builtin CORPORA --work WORK --sts sts-dev.csv`, in this repository; seeds are fixed. On the machine
above, beside other work, it took {whole:.0f} minutes: {minutes}.

1. {total:,} sentences of the corpora below, none twice, shuffled.
2. {recipe.pieces:,} of the teacher's 30,522 word pieces: special tokens, single characters, and those of which (how
   often a piece is to be expected) x (1 - cos of the teacher's vectors for it and for its spelling by other pieces) is
   largest.
3. The teacher's vectors for all sentences, once.
4. The teacher's layers {layers} (from 0), and 256 positions of 512.
5. In stages, of each feed-forward the neurons that add most to what flows on, then steps of AdamW with batches of
   {recipe.batch_size}, no weight decay, bfloat16, and a learning rate that falls to 0: {stages}.
   The loss is 1 - cos to the teacher's vector, plus the mean square difference of all cosines within the batch. In all
   {passes:.1f} passes.
6. The weights rounded to float16; whoever loads them computes in float32.

Why so: the package is to stay below 16 MB, and the teacher's table of word pieces alone has 23 MB in float16. With CLS
pooling a last layer has to compute one row only, so that three narrow layers are about as fast as two wide ones.

## Data

| what | sentences | source | licence |
| --- | --- | --- | --- |
{corpora}

From all of them evaluation sentences of the STS Benchmark, SICK-R, STS 2012 to 2016, SNLI test, Quora test and XQuAD
had been removed. None of their text is in this folder; thanks to all who wrote it. Texts under CC BY-SA, copied, stay
under CC BY-SA. The teacher, and BERT's vocabulary, are under Apache-2.0, as is this model.

## Limits

English, and one sentence or a short paragraph at a time: what it learnt from has at most {letters} characters, though
up to 256 tokens are taken. Without capitals, as its teacher. Characters that English does without are unknown to it. It
knows fewer words than its teacher, spells the others in pieces, and so is weakest where rare names count. What is
prejudiced in its teacher's training texts and in the corpora is so in its similarities too. For the best vectors take a
larger model; this one is for having good ones at once.
"""
