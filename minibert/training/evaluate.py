"""Evaluators: `evaluator(encoder)` returns scores by name, from 0 to 1 (correlations from -1 to 1).

Each is made once, from examples. Dropout is off while they run. All but NLI's take a SparseEncoder too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from .. import vectors
from ..config import check_count
from ..encoder import SentenceEncoder
from ..retrieval import sparse_vectors
from ..retrieval.sparse_encoder import SparseEncoder
from .examples import Examples

AnyEncoder: TypeAlias = SentenceEncoder | SparseEncoder

CELLS = 2**24  # most numbers in a matrix of scores: 64 MiB


class STSEvaluator:
    """Correlations of pairs' cosines with human scores. Raises ValueError without at least two pairs and scores."""

    def __init__(self, examples: Examples) -> None:
        self.first, self.second = _columns(examples, 2, "STS")
        self.scores = _labels(examples, "STS").double().numpy()
        if len(self.scores) < 2:
            raise ValueError("a correlation needs at least two pairs")

    def __call__(self, encoder: AnyEncoder) -> dict[str, float]:
        """Return `spearman` (of the ranks; papers quote it) and `pearson`; NaN if all cosines are equal."""
        u, v = _encode(encoder.encode, self.first, self.second)
        compare = sparse_vectors.similarity_pairwise if u.is_sparse else vectors.similarity_pairwise
        cosines = compare(u, v, "cosine").double().cpu().numpy()
        return {"spearman": spearman(cosines, self.scores), "pearson": pearson(cosines, self.scores)}


class NLIEvaluator:
    """The accuracy of a classifier of pairs of vectors, such as a softmax objective's.

    ``classifier`` takes u (B, D) and v (B, D), on the encoder's device, and returns logits (B, classes). Raises
    ValueError if the examples are not pairs, or have no labels.
    """

    def __init__(self, examples: Examples, classifier: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.first, self.second = _columns(examples, 2, "NLI")
        self.labels, self.classifier = _labels(examples, "NLI"), classifier

    def __call__(self, encoder: SentenceEncoder) -> dict[str, float]:
        """Return `accuracy`."""
        u, v = _encode(encoder.encode, self.first, self.second)
        with torch.no_grad():
            found = [self.classifier(*both).argmax(-1) for both in zip(u.split(1024), v.split(1024), strict=True)]
        return {"accuracy": _mean(torch.cat(found).cpu() == self.labels)}


class TripletEvaluator:
    """The share of triplets (anchor, positive, negative) whose positive is more similar than their negative.

    It uses the encoder's similarity, and its prompts for queries (the anchors) and documents, as sentence-transformers'
    TripletEvaluator. A tie counts as failed. Raises ValueError if the examples are not triplets.
    """

    def __init__(self, examples: Examples) -> None:
        self.anchors, self.positives, self.negatives = _columns(examples, 3, "a triplet evaluation")

    def __call__(self, encoder: AnyEncoder) -> dict[str, float]:
        """Return `accuracy`."""
        (anchors,) = _encode(encoder.encode_query, self.anchors)
        positives, negatives = _encode(encoder.encode_document, self.positives, self.negatives)
        right = encoder.similarity_pairwise(anchors, positives) > encoder.similarity_pairwise(anchors, negatives)
        return {"accuracy": _mean(right)}


class RetrievalEvaluator:
    """The ranks of each query's relevant documents among all documents, the most similar first.

    It uses the encoder's similarity and its prompts for queries and documents. ``chunk`` documents are encoded at a
    time, and only the best so far are kept; ties are in the order of the corpus. Queries without relevant documents
    don't count, as in sentence-transformers' InformationRetrievalEvaluator.

    Args:
        queries, corpus: Texts by their ids.
        relevant: Ids of documents by the id of their query.
        at: The k of each measure.

    Raises:
        ValueError: A relevant document is not in the corpus, no query has one, or a k or the chunk is below 1.
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
        if not at:
            raise ValueError("retrieval needs a k: `at` is empty")
        for name, count in [*(("a k of `at`", k) for k in at), ("chunk", chunk)]:
            check_count(name, count)
        places = {name: place for place, name in enumerate(corpus)}
        known = {query: set(relevant[query]) for query in queries if relevant.get(query)}
        if not known:
            raise ValueError("retrieval needs a query that has a relevant document")
        for query, documents in known.items():
            if missing := documents - places.keys():
                raise ValueError(f"query {query!r}: the document {min(missing)!r} is not in the corpus")
        self.queries = [queries[query] for query in known]
        self.relevant = [{places[name] for name in documents} for documents in known.values()]
        self.corpus, self.at, self.chunk = list(corpus.values()), sorted(set(at)), chunk

    @classmethod
    def from_pairs(
        cls, examples: Examples, *, at: Sequence[int] = (1, 3, 5, 10), chunk: int = 10_000
    ) -> RetrievalEvaluator:
        """Make one from pairs (query, document): all documents that a query is paired with are relevant.

        The corpus is the second column, each text once. Raises as the class; ValueError if these are not pairs.
        """
        queries, documents = _columns(examples, 2, "retrieval")
        relevant: dict[str, set[str]] = {}
        for query, document in zip(queries, documents, strict=True):
            relevant.setdefault(query, set()).add(document)
        texts = {text: text for text in documents}
        return cls({text: text for text in queries}, texts, relevant, at=at, chunk=chunk)

    def __call__(self, encoder: AnyEncoder) -> dict[str, float]:
        """Return means over queries, for each k.

        `accuracy@k`: a relevant document is among the first k. `recall@k`: the share of the relevant ones among them.
        `mrr@k`: 1 / rank of the first relevant one, or 0. `ndcg@k`: each relevant one counts 1 / log2(1 + rank), and
        the sum is divided by the largest possible one.
        """
        found = self._search(encoder)  # (Q, K) places in the corpus, best first
        pairs = zip(found.tolist(), self.relevant, strict=True)
        hits = torch.tensor([[place in known for place in row] for row, known in pairs]).double()
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

    def _search(self, encoder: AnyEncoder) -> Tensor:
        """Return the places of each query's best documents, best first. (Q, at most max(at))"""
        (queries,) = _encode(encoder.encode_query, self.queries)
        most = max(self.at)
        scores = torch.empty(len(queries), 0, dtype=queries.dtype, device=queries.device)
        places = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
        for start in range(0, len(self.corpus), self.chunk):
            (documents,) = _encode(encoder.encode_document, self.corpus[start : start + self.chunk])
            here = start + torch.arange(len(documents), device=queries.device)
            best = []
            size = max(1, CELLS // len(documents))
            for rows in torch.arange(len(queries), device=queries.device).split(size):
                # Earlier documents come first, and a stable sort keeps the order of ties. NaN comes last.
                s, p = scores[rows], places[rows]
                new = torch.cat([s, encoder.similarity(queries.index_select(0, rows), documents)], 1)
                keys = new.nan_to_num(-torch.inf, torch.inf, -torch.inf)
                order = keys.sort(dim=1, descending=True, stable=True).indices[:, :most]
                best.append((new.gather(1, order), torch.cat([p, here.expand(len(rows), -1)], 1).gather(1, order)))
            scores, places = torch.cat([s for s, _ in best]), torch.cat([p for _, p in best])
        return places


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank the values from 1 for the lowest; ties share the mean of their ranks. (n,) -> (n,)"""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[which])


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Return the linear correlation of two arrays (n,); NaN if all numbers of one are equal."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(a, b)[0, 1])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of their ranks."""
    return pearson(ranks(a), ranks(b))


def _encode(encode: Callable[..., Tensor], *columns: Sequence[str]) -> list[Tensor]:
    """Return the vectors of each column, (n, D); a text that occurs several times is encoded once."""
    places: dict[str, int] = {}
    rows = [[places.setdefault(text, len(places)) for text in column] for column in columns]
    found = encode(list(places), convert_to_tensor=True)  # a sparse matrix takes no other index
    return [found.index_select(0, torch.tensor(row, device=found.device)) for row in rows]


def _mean(values: Tensor) -> float:
    return values.double().mean().item()


def _columns(examples: Examples, count: int, of: str) -> list[list[str]]:
    if len(examples.columns) != count:
        raise ValueError(f"{of} needs {count} columns of texts, not {len(examples.columns)}")
    return examples.columns


def _labels(examples: Examples, of: str) -> Tensor:
    if examples.labels is None:
        raise ValueError(f"{of} needs labels: name their column")
    return examples.labels.cpu()
