"""Put texts that are near each other into groups, so that a batch asks for fine differences and not only coarse ones.

A group is a text and a neighbour; or a query, its passage, and a neighbour of the passage (a hard negative). Neighbours
are near by the teacher's vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .pairs import KINDS, Kind
from .texts import Texts

BLOCK = 16_384  # texts that are compared with each other: neighbours are looked for within a block
NEAREST = 8  # of which one is drawn


def list_texts(drawn: Texts) -> list[str]:
    """Return all texts, none twice."""
    pairs = (text for pair in drawn.pairs for text in (pair.query, pair.passage))
    return list(dict.fromkeys([*drawn.sentences, *drawn.recombined, *drawn.passages, *pairs]))


def make_groups(
    drawn: Texts, texts: Sequence[str], vectors: np.ndarray, seed: int, kinds: Mapping[str, Kind] = KINDS
) -> list[list[int]]:
    """Return a group for each text, and `Kind.times` as many for each pair, (R, 4).

    A group is the indices of its texts, where -1 is none, and the number of its kind, which is 0 unless it is a pair.

    Args:
        drawn: What the texts are.
        texts: All of them, as `list_texts` returns them.
        vectors: The teacher's, of length 1, (texts, D).
        seed: Of the choice among neighbours.
    """
    index = {text: i for i, text in enumerate(texts)}
    places = [[index[text] for text in kind] for kind in drawn[:3] if kind]
    rows = []
    for number, kind in enumerate(places):
        found = draw_neighbours(np.array(kind), vectors, [seed, number])
        rows.append(np.stack([kind, found, np.full(len(kind), -1), np.zeros_like(found)], axis=1))
    by_kind: dict[str, list[tuple[int, int]]] = {}
    for pair in drawn.pairs:
        by_kind.setdefault(pair.kind, []).append((index[pair.query], index[pair.passage]))
    for number, (name, pairs) in enumerate(sorted(by_kind.items()), len(places)):
        queries, passages = np.array(pairs).T
        for time in range(kinds[name].times):
            found = draw_neighbours(passages, vectors, [seed, number, time])
            rows.append(np.stack([queries, passages, found, np.full_like(found, number)], axis=1))
    return np.concatenate(rows).tolist()


def draw_neighbours(places: np.ndarray, vectors: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """Return for each text one of its nearest among the others, (n,); -1 where there is no other text."""
    chance = np.random.default_rng(seed)
    result = np.full(len(places), -1)
    order = chance.permutation(len(places))
    for own in np.array_split(order, -(-len(order) // BLOCK)):
        block = places[own]
        x = vectors[block].astype(np.float32)
        for start in range(0, len(own), 1024):
            near = x[start : start + 1024] @ x.T
            near[block[start : start + 1024, None] == block] = -np.inf  # itself, wherever it stands
            count = min(NEAREST, len(own) - 1)
            if not count:
                continue
            best = np.argpartition(-near, count - 1, axis=1)[:, :count]
            drawn = best[np.arange(len(best)), chance.integers(count, size=len(best))]
            found = np.where(np.isfinite(near[np.arange(len(best)), drawn]), block[drawn], -1)
            result[own[start : start + 1024]] = found
    return result
