"""Late interaction: a text is as many vectors as tokens, and a query's tokens each look for their best (MaxSim)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

from ..batches import side_by_side, workers_for
from ..checkpoint.multi_vector import MEASURES
from ..config import ConfigError
from ..display import table
from ..tokenizer import Tokens

# Similarities of tokens that are in memory at once, of each block: enough for fast products.
BLOCK = 2**20
QUERY_TOKENS = 1024  # of a block, at most; a single query may be longer
EMPTY = -1e9  # the score of a document without vectors, as in sentence-transformers: below any other, and finite


@dataclass(frozen=True, eq=False)
class TokenVectors(Sequence[Tensor]):
    """The vectors of many texts, packed: text i is ``vectors[starts[i]:starts[i + 1]]``. A sequence of (tokens, D)

    Documents that are searched again and again are packed once: ``TokenVectors.of(encoder.encode_document(texts))``.
    """

    vectors: Tensor  # (all tokens, D)
    starts: np.ndarray  # int64 (texts + 1,)

    @classmethod
    def of(cls, texts: Any) -> TokenVectors:
        """Pack texts of any form that `maxsim` takes. Raises ValueError as that."""
        if isinstance(texts, cls):
            return texts
        parts = _texts(texts)
        return cls(torch.cat(parts) if parts else torch.empty(0, 0), np.cumsum([0, *map(len, parts)]))

    @overload
    def __getitem__(self, i: int) -> Tensor: ...
    @overload
    def __getitem__(self, i: slice) -> TokenVectors: ...
    def __getitem__(self, i: int | slice) -> Tensor | TokenVectors:
        """Return one text's vectors (tokens, D), or some texts', without a copy where they lie together."""
        if isinstance(i, slice):
            if i.step not in (None, 1):
                return TokenVectors.of([self[k] for k in range(*i.indices(len(self)))])
            first, last, _ = i.indices(len(self))
            starts = self.starts[first : max(first, last) + 1]
            return TokenVectors(self.vectors[starts[0] : starts[-1]], starts - starts[0])
        place = range(len(self))[i]
        return self.vectors[self.starts[place] : self.starts[place + 1]]

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.starts) - 1


Texts: TypeAlias = "TokenVectors | Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray]"


@dataclass(frozen=True, eq=False)
class Matches:
    """Where a late-interaction score comes from: each query token's best token of the document. `print` shows it."""

    query: list[str]  # tokens that count, Q
    document: list[str]  # tokens that count, S
    similarities: Tensor  # (Q, S)

    @property
    def best(self) -> Tensor:
        """The place of each query token's best token. (Q,)"""
        return self.similarities.argmax(1)

    @property
    def score(self) -> float:
        """The sum of the best similarities: MaxSim."""
        return float(self.similarities.amax(1).sum())

    def __str__(self) -> str:
        found = zip(self.query, self.best.tolist(), self.similarities.amax(1).tolist(), strict=True)
        rows = [(token, self.document[place], f"{value:.4f}") for token, place, value in found]
        return table([("query", "document", "similarity"), *rows, ("", "sum", f"{self.score:.4f}")], left=(0, 1))


def is_mean(measure: str) -> bool:
    """Return True for "meanmaxsim", False for "maxsim". Raise ConfigError for another measure."""
    if measure not in MEASURES:
        raise ConfigError(f"similarity_fn_name must be one of {', '.join(MEASURES)}, not {measure!r:.80}")
    return measure == "meanmaxsim"


def maxsim(queries: Texts, documents: Texts, *, mean: bool = False) -> Tensor:
    """Score every query against every document: the sum, over its tokens, of the highest dot product. -> (n, m)

    It is ColBERT's (arXiv 2004.12832, equation 3). Memory is bounded: similarities of tokens are made in blocks.

    Args:
        queries, documents: `TokenVectors`; a list of (tokens, D); (tokens, D) for a single text; or (n, S, D) padded
            with zeros. A document without vectors has the score -1e9, a query without has 0.
        mean: Divide by the query's tokens.

    Returns:
        In float32, or in float64 where one of both is; on the documents' device.

    Raises:
        ValueError: they are not vectors, or their widths differ.
    """
    asked, texts = TokenVectors.of(queries), documents if isinstance(documents, TokenVectors) else _texts(documents)
    lengths = np.diff(texts.starts) if isinstance(texts, TokenVectors) else np.array([*map(len, texts)], dtype=int)
    held = texts.vectors if isinstance(texts, TokenVectors) else next(iter(texts), asked.vectors)
    if len(asked) and len(lengths) and asked.vectors.shape[1] != held.shape[1]:
        widths = f"{asked.vectors.shape[1]} and {held.shape[1]}"
        raise ValueError(f"the vectors of queries and documents are of different widths: {widths}")
    dtype = torch.promote_types(torch.promote_types(asked.vectors.dtype, held.dtype), torch.float32)
    scores = torch.empty(len(asked), len(lengths), dtype=dtype, device=held.device)
    blocks = [
        (rows, columns)
        for rows in _blocks(np.diff(asked.starts), QUERY_TOKENS)
        for columns in _blocks(lengths, max(1, BLOCK // max(1, asked.starts[rows.stop] - asked.starts[rows.start])))
    ]

    @torch.no_grad()
    def compute(block: tuple[slice, slice]) -> Tensor:
        own, others = asked[block[0]], texts[block[1]]
        x = (others if isinstance(others, TokenVectors) else TokenVectors.of(list(others))).vectors.to(dtype)
        best = _highest(own.vectors.to(x) @ x.T, lengths[block[1]])  # (query tokens, documents)
        return torch.stack([best[a:b].sum(0) for a, b in pairwise(own.starts)])

    for (rows, columns), values in side_by_side(compute, blocks, workers_for(held.device, hooked=False)):
        scores[rows, columns] = values
    scores[:, torch.from_numpy(lengths == 0).to(held.device)] = EMPTY
    return scores / torch.from_numpy(np.maximum(np.diff(asked.starts), 1)).to(scores)[:, None] if mean else scores


def maxsim_pairwise(queries: Texts, documents: Texts, *, mean: bool = False) -> Tensor:
    """Score the first query against the first document, the second against the second, and so on. -> (n,)

    Takes and raises what `maxsim` does; and ValueError if their numbers differ.
    """
    asked, texts = TokenVectors.of(queries), TokenVectors.of(documents)
    if len(asked) != len(texts):
        raise ValueError(f"pairs need as many queries as documents, not {len(asked)} and {len(texts)}")
    scores = [maxsim(query, document, mean=mean)[0] for query, document in zip(asked, texts, strict=True)]
    return torch.cat(scores) if scores else torch.empty(0)


def _highest(similarities: Tensor, lengths: np.ndarray) -> Tensor:
    """Return the highest of each document's columns, 0 where it has none. (Q, all tokens) -> (Q, documents)"""
    real = np.flatnonzero(lengths)
    best = similarities.new_zeros(len(similarities), len(lengths))
    if not len(real) or not len(similarities):
        return best
    if similarities.is_cpu:
        starts = np.cumsum(lengths[real]) - lengths[real]
        best[:, torch.from_numpy(real)] = torch.from_numpy(np.maximum.reduceat(similarities.numpy(), starts, axis=1))
        return best
    places = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)).to(similarities.device)
    return best.scatter_reduce(1, places.expand(len(best), -1), similarities, "amax", include_self=False)


def _blocks(lengths: np.ndarray, tokens: int) -> Iterator[slice]:
    """Yield runs of texts of at most so many tokens, or of one text."""
    ends, first = np.cumsum(lengths), 0
    while first < len(lengths):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + tokens, side="right")))
        yield slice(first, last)
        first = last


def _texts(texts: Any) -> list[Tensor]:
    """Return each text's vectors (tokens, D). Raise ValueError where they are none, or their widths differ."""
    single = getattr(texts, "ndim", None)
    if single not in (None, 2, 3):
        raise ValueError(f"expected each text's vectors, (tokens, D), not {tuple(texts.shape)}")
    try:
        rows = [texts] if single == 2 else list(texts)
        parts = [x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x)) for x in rows]
    except TypeError:
        kind = type(texts).__name__
        raise ValueError(
            f"expected each text's vectors, as `encode` gives them, not {kind} of something else"
        ) from None
    if single == 3:
        parts = [x[x.any(-1)] for x in parts]
    parts = [x if x.is_floating_point() else x.float() for x in parts]
    if odd := [x for x in parts if x.ndim != 2 or x.shape[1] != parts[0].shape[-1]]:
        shapes = f"{tuple(odd[0].shape)}, after {tuple(parts[0].shape)}"
        raise ValueError(f"expected each text's vectors, (tokens, D), of one width, not {shapes}")
    return parts


def fill_up(tokens: Tokens, length: int, filler: int, *, attend: bool) -> Tokens:
    """Add a token to texts, up to a length; without ``attend`` the texts' own tokens do not attend to it."""
    lengths = np.maximum(tokens.lengths, length)
    starts = np.cumsum([0, *lengths])
    ids, types = np.full(starts[-1], filler, dtype=np.int32), np.zeros(starts[-1], dtype=np.int8)
    places = np.arange(len(tokens.ids)) + np.repeat(starts[:-1] - tokens.starts[:-1], tokens.lengths)
    ids[places], types[places] = tokens.ids, tokens.types
    return Tokens(ids, types, starts, tokens.truncation, None if attend else tokens.lengths)
