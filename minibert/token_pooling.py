"""Fewer vectors per document: neighbours in a cluster tree give way to their mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

TASKS = ("query", "document")


class HierarchicalTokenPooling:
    """Keep one vector of ``pool_factor``: the means of clusters, of Ward's method over cosine distances.

    It is that of sentence-transformers, after Clavié et al. (arXiv 2409.14683): same clusters, in the same order.

    Args:
        pool_factor: From 1, which keeps all; 1.5 keeps two of three.
        num_protected_tokens: So many first vectors ([CLS], as a rule) stay as they are.
        normalize_embeddings: Scale all vectors to length 1 at the end, whether or not any were merged.
        tasks: What is pooled: "document", "query", or both. A text encoded for no task counts as a document.

    Raises:
        ValueError: one of them is out of its range.
    """

    def __init__(
        self,
        pool_factor: float = 1.0,
        *,
        num_protected_tokens: int = 1,
        normalize_embeddings: bool = True,
        tasks: str | Sequence[str] = ("document",),
    ) -> None:
        numbers = ("pool_factor", pool_factor, 1), ("num_protected_tokens", num_protected_tokens, 0)
        for name, value, lowest in numbers:
            if not (isinstance(value, int | float) and lowest <= value < np.inf):
                raise ValueError(f"{name} must be a number from {lowest}, not {value!r:.80}")
        self.tasks = check_tasks([tasks] if isinstance(tasks, str) else tasks, "tasks")
        self.pool_factor, self.num_protected_tokens = pool_factor, int(num_protected_tokens)
        self.normalize_embeddings = normalize_embeddings

    def pool(self, embeddings: Sequence[Tensor], task: str | None = None) -> list[Tensor]:
        """Pool each text's vectors, (tokens, D) -> (fewer, D), if the task is one that is pooled."""
        return [self.pool_one(x) for x in embeddings] if (task or "document") in self.tasks else list(embeddings)

    def pool_one(self, x: Tensor) -> Tensor:
        """Pool one text's vectors. (tokens, D) -> (fewer, D)"""
        kept, rest = x[: self.num_protected_tokens], x[self.num_protected_tokens :]
        count = max(int(len(rest) // self.pool_factor), 1)
        if count < len(rest):
            y = rest.detach().float().cpu()
            places = torch.from_numpy(ward_clusters((1 - y @ y.T).clamp(0, 2).double().numpy(), count)).to(x.device)
            sums = rest.new_zeros(count, rest.shape[1]).index_add(0, places, rest)
            x = torch.cat([kept, sums / torch.bincount(places, minlength=count)[:, None]])
        if not self.normalize_embeddings:
            return x
        return functional.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1).to(x.dtype)

    def __repr__(self) -> str:
        """Return the text that print(encoder) shows."""
        return f"HierarchicalTokenPooling({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def check_tasks(tasks: object, name: str) -> tuple[str, ...]:
    """Return them. Raise ValueError unless each is "query" or "document"."""
    if not isinstance(tasks, list | tuple) or not all(task in TASKS for task in tasks):
        raise ValueError(f"{name} must be some of {', '.join(TASKS)}, not {tasks!r:.80}")
    return tuple(tasks)


def ward_clusters(distances: np.ndarray, count: int) -> np.ndarray:
    """Cut Ward's tree (Murtagh and Legendre, arXiv 1111.6285) into ``count`` clusters, numbered as scipy does.

    Clusters that are each other's nearest are merged all at once: by Ward's method no merge brings others closer, so
    this gives the tree of one merge at a time, and a dozen rounds make it. (n, n) symmetric -> (n,), from 0

    Raises:
        ValueError: a distance is not finite.
    """
    if not np.isfinite(distances).all():
        raise ValueError("token pooling needs vectors of finite numbers")
    n = len(distances)
    squares, sizes, names = np.square(distances), np.ones(n), np.arange(n)  # of the clusters that are left
    merges: list[tuple[float, int, int]] = []  # the square of the height, and both names; it is named n + its place
    while len(names) > 1:
        np.fill_diagonal(squares, np.inf)
        nearest, own = squares.argmin(1), np.arange(len(names))
        first = np.flatnonzero((nearest[nearest] == own) & (nearest > own))
        second = nearest[first]
        pairs, keep = (first, second, squares[first, second]), np.delete(own, second)
        both = zip(pairs[2].tolist(), names[first].tolist(), names[second].tolist(), strict=True)
        names[first] = np.arange(n + len(merges), n + len(merges) + len(first))
        merges += both
        after = sizes.copy()
        after[first] += sizes[second]
        squares = _merge_columns(squares, sizes, sizes, *pairs)[:, keep]
        squares = _merge_columns(squares.T.copy(), after[keep], sizes, *pairs)[:, keep]
        sizes, names = after[keep], names[keep]
    return _cut(merges, n, count)


def _merge_columns(
    squares: np.ndarray, rows: np.ndarray, sizes: np.ndarray, first: np.ndarray, second: np.ndarray, heights: np.ndarray
) -> np.ndarray:
    """Put the distance to both (Lance and Williams) in the first one's column. ``rows``: the sizes of the rows."""
    a, b, r = sizes[first], sizes[second], rows[:, None]
    squares[:, first] = ((a + r) * squares[:, first] + (b + r) * squares[:, second] - r * heights) / (a + b + r)
    return squares


def _cut(merges: list[tuple[float, int, int]], n: int, count: int) -> np.ndarray:
    """Undo the last ``count - 1`` merges, by height, and number what is left as scipy walks the tree. -> (n,)"""
    heights = [0.0] * n
    for height, left, right in merges:
        heights.append(max(height, heights[left], heights[right]))  # rounding may not turn parent and child round
    order = np.argsort(heights[n:], kind="stable")
    names = np.arange(2 * n - 1)
    names[n + order] = np.arange(n, 2 * n - 1)  # by height
    children = [sorted(names[list(merges[place][1:])].tolist()) for place in order]
    whole = 2 * n - count  # names from here on are cut
    numbers, found, waiting = [-1] * (2 * n - 1), 0, [2 * n - 2]
    while waiting:
        name = waiting.pop()
        if name >= whole:
            left, right = children[name - n]
            waiting += sorted((right, left), key=lambda child: child >= n)  # leaves last, each kind left to right
        else:
            numbers[name], found = found, found + 1
    for name in range(whole - 1, n - 1, -1):
        for child in children[name - n]:
            numbers[child] = numbers[name]
    return np.array(numbers[:n])
