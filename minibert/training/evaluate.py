"""Evaluators: an encoder in, scores by their names out, from 0 to 1 (correlations from -1 to 1).

Each is made once, from examples, and called as often as wanted: `evaluator(encoder)`. Dropout is off while they run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..encoder import SentenceEncoder
from ..vectors import similarity_pairwise
from .examples import Examples

CELLS = 2**24  # numbers in a matrix of scores, at most: 64 MiB


class STSEvaluator:
    """How well cosines of pairs go along with human judgements: Spearman's and Pearson's correlation.

    Raises:
        ValueError: these are no pairs, or fewer than two, or they have no scores.
    """

    def __init__(self, examples: Examples) -> None:
        self.first, self.second = _columns(examples, 2, "STS")
        self.scores = _labels(examples, "STS").double().numpy()
        if len(self.scores) < 2:
            raise ValueError("a correlation needs at least two pairs")

    def __call__(self, encoder: SentenceEncoder) -> dict[str, float]:
        """`spearman` (of the ranks; the one that papers quote) and `pearson`; NaN where all cosines are equal."""
        u, v = _encode(encoder.encode, self.first, self.second)
        cosines = similarity_pairwise(u, v, "cosine").double().cpu().numpy()
        return {"spearman": spearman(cosines, self.scores), "pearson": pearson(cosines, self.scores)}


class NLIEvaluator:
    """The share of pairs whose class a classifier of their two vectors finds, as a softmax objective's.

    ``classifier`` takes vectors u (B, D) and v (B, D), on the encoder's device, and gives logits (B, classes).

    Raises:
        ValueError: these are no pairs, or they have no labels.
    """

    def __init__(self, examples: Examples, classifier: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.first, self.second = _columns(examples, 2, "NLI")
        self.labels = _labels(examples, "NLI")
        self.classifier = classifier

    def __call__(self, encoder: SentenceEncoder) -> dict[str, float]:
        """`accuracy`."""
        u, v = _encode(encoder.encode, self.first, self.second)
        with torch.no_grad():
            found = [self.classifier(*both).argmax(-1) for both in zip(u.split(1024), v.split(1024), strict=True)]
        return {"accuracy": _mean(torch.cat(found).cpu() == self.labels)}


class TripletEvaluator:
    """The share of triplets (anchor, positive, negative) whose positive is nearer than their negative.

    By the encoder's own measure, and its prompts for queries (the anchors) and documents, as sentence-transformers'
    TripletEvaluator. Equally near counts as failed.

    Raises:
        ValueError: these are no triplets.
    """

    def __init__(self, examples: Examples) -> None:
        self.anchors, self.positives, self.negatives = _columns(examples, 3, "a triplet evaluation")

    def __call__(self, encoder: SentenceEncoder) -> dict[str, float]:
        """`accuracy`."""
        (anchors,) = _encode(encoder.encode_query, self.anchors)
        near, far = _encode(encoder.encode_document, self.positives, self.negatives)
        nearer = encoder.similarity_pairwise(anchors, near) > encoder.similarity_pairwise(anchors, far)
        return {"accuracy": _mean(nearer)}


class RetrievalEvaluator:
    """How high the relevant documents of each query stand among all documents, the most similar first.

    By the encoder's own measure and its prompts for queries and documents. The corpus is encoded in parts of ``chunk``
    documents, of which only the best so far are kept; equally similar ones stand in the order of the corpus. Queries
    without relevant documents don't count, as in sentence-transformers' InformationRetrievalEvaluator.

    Args:
        queries, corpus: Texts by their ids.
        relevant: Ids of documents by the id of their query.
        at: The k of each measure.
        chunk: Documents in memory at once.

    Raises:
        ValueError: a relevant document is not in the corpus, or there is no query that has one.
    """

    def __init__(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        relevant: Mapping[str, Collection[str]],
        *,
        at: Sequence[int] = (1, 3, 5, 10),
        chunk: int = 10_000,
    ) -> None:
        if not at or min(at) < 1 or chunk < 1:
            raise ValueError(f"retrieval needs a k and a chunk of at least 1, not {tuple(at)} and {chunk}")
        places = {name: place for place, name in enumerate(corpus)}
        self.queries: list[str] = []
        self.relevant: list[list[int]] = []
        for query, text in queries.items():
            if not (documents := set(relevant.get(query, ()))):
                continue
            if missing := documents - places.keys():
                raise ValueError(f"query {query!r}: the document {min(missing)!r} is not in the corpus")
            self.queries.append(text)
            self.relevant.append([places[name] for name in documents])
        if not self.queries:
            raise ValueError("retrieval needs a query that has a relevant document")
        self.corpus = list(corpus.values())
        self.at = sorted(set(at))
        self.chunk = chunk

    @classmethod
    def from_pairs(cls, examples: Examples, **options: Any) -> RetrievalEvaluator:
        """Of pairs (query, document): to each query all documents that it is paired with are relevant.

        The second column, each text once, is the corpus. Options and errors as above; ValueError: these are no pairs.
        """
        queries, documents = _columns(examples, 2, "retrieval")
        relevant: dict[str, set[str]] = {}
        for query, document in zip(queries, documents, strict=True):
            relevant.setdefault(query, set()).add(document)
        texts = dict.fromkeys(documents)
        return cls({text: text for text in relevant}, {text: text for text in texts}, relevant, **options)

    def __call__(self, encoder: SentenceEncoder) -> dict[str, float]:
        """For each k, of the first k documents, as a mean over queries:

        `accuracy@k` (is a relevant one among them), `recall@k` (the share of the relevant ones that is), `mrr@k` (1 /
        place of the first relevant one, or 0), `ndcg@k` (each counts 1 / log2(1 + place); divided by the most there
        can be).
        """
        found = self._search(encoder)  # (Q, K) places in the corpus, best first
        hits = torch.tensor([[place in known for place in row] for row, known in self._rows(found)]).double()
        many = torch.tensor([len(documents) for documents in self.relevant])
        ranks = torch.arange(1, hits.shape[1] + 1, dtype=torch.float64)
        gains = 1 / torch.log2(1 + torch.arange(1, max(self.at) + 1, dtype=torch.float64))
        scores = {}
        for k in self.at:
            top = hits[:, :k]
            scores[f"accuracy@{k}"] = _mean(top.amax(1))
            scores[f"recall@{k}"] = _mean(top.sum(1) / many)
            scores[f"mrr@{k}"] = _mean((top / ranks[:k]).amax(1))
            best = gains.cumsum(0)[many.clamp(max=k) - 1]
            scores[f"ndcg@{k}"] = _mean((top * gains[: top.shape[1]]).sum(1) / best)
        return scores

    def _rows(self, found: Tensor) -> zip[tuple[list[int], set[int]]]:
        return zip(found.tolist(), map(set, self.relevant), strict=True)

    def _search(self, encoder: SentenceEncoder) -> Tensor:
        """The places of the best documents of each query, best first. (Q, at most max(at))"""
        (queries,) = _encode(encoder.encode_query, self.queries)
        most = max(self.at)
        scores = queries.new_empty(len(queries), 0)
        places = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
        for start in range(0, len(self.corpus), self.chunk):
            (documents,) = _encode(encoder.encode_document, self.corpus[start : start + self.chunk])
            here = start + torch.arange(len(documents), device=queries.device)
            best = []
            rows = max(1, CELLS // len(documents))
            for some, s, p in zip(queries.split(rows), scores.split(rows), places.split(rows), strict=True):
                # Those from before stand before those that come, and a stable sort leaves equals as they stand.
                new = torch.cat([s, encoder.similarity(some, documents)], 1)
                new, order = new.sort(dim=1, descending=True, stable=True)
                best.append((new[:, :most], torch.cat([p, here.expand(len(some), -1)], 1).gather(1, order[:, :most])))
            scores, places = torch.cat([s for s, _ in best]), torch.cat([p for _, p in best])
        return places


def ranks(values: np.ndarray) -> np.ndarray:
    """1 for the lowest; equal values share the mean of their places. (n,) -> (n,)"""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[which])


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """The linear correlation of two rows of numbers, (n,) each; NaN where all of one are equal."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(a, b)[0, 1])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of their ranks."""
    return pearson(ranks(a), ranks(b))


def _encode(encode: Callable[..., Tensor], *columns: Sequence[str]) -> list[Tensor]:
    """The vectors of each column, (n, D); a text that occurs several times is encoded once."""
    places: dict[str, int] = {}
    rows = [[places.setdefault(text, len(places)) for text in column] for column in columns]
    vectors = encode(list(places), convert_to_tensor=True)
    return [vectors[torch.tensor(row, device=vectors.device)] for row in rows]


def _mean(values: Tensor) -> float:
    return values.double().mean().item()


def _columns(examples: Examples, count: int, of: str) -> list[list[str]]:
    if len(examples.columns) != count:
        raise ValueError(f"{of} needs {count} columns of texts, not {len(examples.columns)}")
    return [list(column) for column in examples.columns]


def _labels(examples: Examples, of: str) -> Tensor:
    if examples.labels is None:
        raise ValueError(f"{of} needs labels: say in which column they are")
    return examples.labels.cpu()
