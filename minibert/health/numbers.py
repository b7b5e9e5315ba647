"""Check that a checkpoint's numbers mean something, and that all ways to compute them agree."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import nn

from ..checkpoint.contradictions import FAILED, OK, WARNING, Check
from ..heads import BertWithMaskedLM
from ..research.lens import fill_mask
from ..retrieval.multi_vector_encoder import MultiVectorEncoder
from ..training.evaluate import spearman
from ..vectors import similarity_pairwise
from .known import GAPS, KNOWN, PAIRS, TEXTS

SCORES, FIRST, SECOND = (list(column) for column in zip(*PAIRS, strict=True))
ROUNDING = 2e-5  # of vectors of length 1, of which six digits are known
GOOD, BAD = 0.5, 0.2  # correlations: good models have 0.7 to 0.85, random and wrongly loaded ones below 0
BEST, WORST = 0.97, 0.85  # shares of comparisons: good models have 0.99 and more, random ones 0.5
SAME, NEAR = 1e-4, 1e-2  # differences of the stack from the page, relative to the largest number
LOWEST = {"bfloat16": 0.995, "int8": 0.95}  # cosines that are usual
PIECES = 1.6  # a word, at most: otherwise it is no English vocabulary


def check_numbers(encoder: Any, model: nn.Module, kind: str | None, again: Callable[[str], Any]) -> Iterator[Check]:
    """Yield the checks that compute. ``again`` opens the encoder in another dtype. ``model`` may have a head more."""
    words = " ".join(FIRST + SECOND)
    english = len(encoder.tokenizer.tokenize(words)) <= PIECES * len(words.split())
    if kind in (None, "SentenceEncoder"):
        yield from _published(encoder, FAILED if kind else WARNING)
    if english and isinstance(model, BertWithMaskedLM) and kind is None and encoder.tokenizer.mask_id is not None:
        yield _gaps(encoder, model)
    if english and not (kind == "CrossEncoder" and encoder.config.num_labels > 1):
        yield _order(encoder, trained=kind is not None) if kind in (None, "SentenceEncoder") else _paraphrases(encoder)
    expected = outputs(encoder, fast=False)
    yield from _stack(encoder, expected)
    for dtype in LOWEST:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # how slow it is here is another question: `doctor`
            yield _drift(outputs(again(dtype)), expected, dtype, pairs=kind == "CrossEncoder")


def outputs(encoder: Any, **options: Any) -> np.ndarray:
    """Return the encoder's numbers for the pairs' texts and a text that is too long, in rows."""
    texts = [*FIRST, " ".join(2 * (FIRST + SECOND))]
    if hasattr(encoder, "predict"):
        pairs = list(zip(texts, reversed(texts), strict=True))
        return encoder.predict(pairs, activation_fn=nn.Identity(), **options).reshape(len(texts), -1)
    if isinstance(encoder, MultiVectorEncoder):
        return np.concatenate(encoder.encode(texts, convert_to_numpy=True, **options))
    dense = {} if hasattr(encoder, "truncate_dim") else {"convert_to_sparse_tensor": False}
    return np.asarray(encoder.encode(texts, **dense, **options))


def digest(bert: nn.Module) -> str:
    """Return a digest of the weights in float32, without the pooler's, which not all files have."""
    found = hashlib.sha256()
    for name, value in sorted(bert.state_dict().items()):
        if not name.startswith("pooler."):
            found.update(value.float().cpu().contiguous().numpy().data)
    return found.hexdigest()


def _published(encoder: Any, wrong: str) -> Iterator[Check]:
    known, name = KNOWN.get(digest(encoder.model)), encoder.model.report.source
    if known is None:
        if any(name == each.name for each in KNOWN.values()):
            text = f"the weights are not those that were published as {name}"
            yield Check("published", FAILED, text, "fetch it again")
        return
    vectors = encoder.encode(list(TEXTS))[:, : len(known.first[0])]
    apart = np.abs(vectors - known.first).max() if vectors.shape == np.shape(known.first) else np.inf
    if not apart <= ROUNDING:
        text = f"the weights are those of {known.name}, but vectors are up to {apart:.1g} away from the published"
        yield Check("published", wrong, text, "its own tokenizer, pooling and config.json: one of them was changed")
        return
    yield Check("published", OK, f"the weights and vectors of {known.name}; STS Benchmark (dev) {known.sts}")


def _gaps(encoder: Any, model: BertWithMaskedLM) -> Check:
    mask, found = encoder.tokenizer.mask_token, 0
    for text, words in GAPS:
        (guesses,) = fill_mask(model, encoder.tokenizer, text.format(mask), top_k=10)
        found += any(guess.token_str.lower() in words.split() for guess in guesses)
    status = OK if 2 * found >= len(GAPS) else WARNING if found > 1 else FAILED
    advice = "" if status == OK else "a model of English gets nearly all: wrong weights, or a wrong tokenizer?"
    return Check("gaps", status, f"in {found} of {len(GAPS)} sentences a fitting word is among the ten best", advice)


def _order(encoder: Any, *, trained: bool) -> Check:
    cosines = similarity_pairwise(encoder.encode(FIRST), encoder.encode(SECOND), "cosine")
    found = spearman(cosines.numpy(), np.array(SCORES))
    seen = f"{len(PAIRS)} English pairs in people's order: Spearman {found:.2f}; good models have 0.7 to 0.85"
    if found >= GOOD:
        return Check("meaning", OK, seen)
    if not trained:
        return Check("meaning", WARNING, seen, "a plain BERT, not trained for sentences: train it, or take one that is")
    advice = "the vectors mean little: wrong weights, pooling or tokenizer, or not a model of English sentences"
    return Check("meaning", WARNING if found >= BAD else FAILED, seen, advice)


def _paraphrases(encoder: Any) -> Check:
    """Compare each text and its paraphrase with the text and all other texts."""
    count = SCORES.count(max(SCORES))
    queries = FIRST[:count]
    if hasattr(encoder, "predict"):
        scores = encoder.predict([(query, text) for query in queries for text in SECOND], activation_fn=nn.Identity())
    else:
        scores = encoder.similarity(encoder.encode_query(queries), encoder.encode_document(SECOND)).cpu().numpy()
    scores = scores.reshape(count, -1)
    right = scores.diagonal()[:, None] > scores
    found = right.sum() / (right.size - count)
    seen = f"a paraphrase is before {100 * found:.0f} % of other texts; with good models before 99 %"
    advice = "" if found >= BEST else "scores mean little: wrong weights or tokenizer, or not a model of English?"
    lexical = getattr(encoder, "static", None) is not None  # its queries have the weights of their own words only
    status = OK if found >= BEST else WARNING if found >= WORST or lexical else FAILED
    return Check("meaning", status, seen, advice)


def _stack(encoder: Any, expected: np.ndarray) -> Iterator[Check]:
    found = outputs(encoder)
    decision = encoder._decision
    if encoder._not_compiled:
        yield Check("compiled code", WARNING, encoder._not_compiled)
    if decision.stack is None:
        yield Check("fast stack", OK, f"not used: {decision.reasons['']}")
        return
    apart = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))
    layers = decision.stack.layers
    by = " and ".join(sorted({layer.by for layer in layers if layer is not None}))
    count = f"{sum(layer is not None for layer in layers)} of {len(layers)} layers {by}"
    seen = f"{count}; away from the page by {apart:.0e} of the largest number"
    status = OK if apart <= SAME else WARNING if apart <= NEAR else FAILED
    yield Check("fast stack", status, seen, "" if status == OK else "report it, with `minibert doctor`; use fast=False")


def _drift(found: np.ndarray, expected: np.ndarray, dtype: str, *, pairs: bool) -> Check:
    if pairs:
        apart, spread = np.abs(found - expected).max(), np.ptp(expected)
        good = apart <= 0.05 * spread
        seen = f"scores from {expected.min():.2f} to {expected.max():.2f} move by {apart:.1g}"
    else:
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        lowest = ((found * expected).sum(1) / np.maximum(lengths, 1e-30)).min()
        good, seen = lowest >= LOWEST[dtype], f"lowest cosine to float32 {lowest:.4f}; usual is {LOWEST[dtype]} or more"
    if not np.isfinite(found).all():
        return Check(dtype, FAILED, "NaN or infinity", "use float32")
    advice = "" if good else f"use float32 for this model: in {dtype} it is further away than others"
    return Check(dtype, OK if good else WARNING, seen, advice)
