#!/usr/bin/env bash
# mteb 2.26.24: models from folders share one place in the cache of results, so the second gets the first's score.
#
# Guess:  `mteb.evaluate` runs the model that it is given. Its cache saves time when the same model comes again.
# Seen:   the cache knows a model by the name and the revision in its card. A SentenceTransformer of a local folder has
#         neither, and is "no_model_name/available" at "no_revision_available". All of them are one model to the cache,
#         which is on disk and on by default. The second is not asked for a vector, and no warning says so.
#         `cache=None` evaluates.
#
# Output, 2026-11-29, Python 3.11:
#     first: no_model_name/available no_revision_available 0.2571
#     second: no_model_name/available no_revision_available 0.2571
#     second, calls of encode: 0
#     second, cache=None: 0.3714
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mteb==2.26.24 sentence-transformers==6.2.0 transformers==5.23.0 datasets==5.2.0 \
    torch==2.13.0 numpy==2.4.6

cd "$work"
MTEB_CACHE="$work/cache" HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore - <<'PYTHON'
import logging

import mteb
import torch
from datasets import Dataset, DatasetDict
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

logging.getLogger("mteb.models.model_meta").setLevel(logging.ERROR)  # silence about the number of parameters
WORDS = ["sun", "rain", "snow", "wind", "storm", "frost", "hail"]
calls = 0


class Weather(AbsTaskSTS):
    metadata = TaskMetadata(
        name="Weather", description="Six pairs of words.", type="STS", category="t2t", modalities=["text"],
        dataset={"path": "none/none", "revision": "1"}, eval_splits=["test"], eval_langs=["eng-Latn"],
        main_score="cosine_spearman", reference=None, date=None, domains=None, task_subtypes=None, license=None,
        annotations_creators=None, dialect=None, sample_creation=None, bibtex_citation="")
    min_score, max_score = 0, 5

    def load_data(self, **options):
        rows = {"sentence1": WORDS[:-1], "sentence2": WORDS[1:], "score": [0.0, 4.0, 1.0, 5.0, 2.0, 3.0]}
        self.dataset, self.data_loaded = DatasetDict(test=Dataset.from_dict(rows)), True


class Counted(SentenceTransformer):
    def encode(self, *arguments, **options):
        global calls
        calls += 1
        return super().encode(*arguments, **options)


def saved(folder: str, seed: int) -> SentenceTransformer:
    torch.manual_seed(seed)
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(["?", *WORDS])}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu").save(folder)
    return Counted(folder, device="cpu")


def score(result) -> str:
    return f"{result.task_results[0].get_score():.4f}"


first = mteb.evaluate(saved("first", 1), Weather(), show_progress_bar=False)
print("first:", first.model_name, first.model_revision, score(first))
assert calls > 0
calls = 0
model = saved("second", 2)
second = mteb.evaluate(model, Weather(), show_progress_bar=False)
print("second:", second.model_name, second.model_revision, score(second))
print("second, calls of encode:", calls)
assert calls == 0
evaluated = mteb.evaluate(model, Weather(), show_progress_bar=False, cache=None)
print("second, cache=None:", score(evaluated))
assert calls > 0
assert score(first) == score(second) != score(evaluated)
PYTHON
