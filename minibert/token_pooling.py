"""Fewer vectors per document: neighbours in a cluster tree give way to their mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .pooling import normalize

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
            counts = torch.bincount(places)
            sums = rest.new_zeros(len(counts), rest.shape[1]).index_add(0, places, rest)
            x = torch.cat([kept, sums / counts[:, None]])
        if not self.normalize_embeddings:
            return x
        return normalize(x)

    def __repr__(self) -> str:
        """Return the text that print(encoder) shows."""
        return f"HierarchicalTokenPooling({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def pool_tokens(pooling: HierarchicalTokenPooling | None, vectors: list[Tensor], task: str | None) -> list[Tensor]:
    """Pool each text's vectors, if there is a pooling. Raise TypeError if it is something else."""
    if not isinstance(pooling, HierarchicalTokenPooling | None):
        raise TypeError(f"token_pooling must be a HierarchicalTokenPooling, not {type(pooling).__name__}")
    return vectors if pooling is None else pooling.pool(vectors, task)


def check_tasks(tasks: object, name: str) -> tuple[str, ...]:
    """Return them. Raise ValueError unless each is "query" or "document"."""
    if not isinstance(tasks, list | tuple) or not all(task in TASKS for task in tasks):
        raise ValueError(f"{name} must be some of {', '.join(TASKS)}, not {tasks!r:.80}")
    return tuple(tasks)


def ward_clusters(distances: np.ndarray, count: int) -> np.ndarray:
    """Cut Ward's tree into ``count`` clusters, numbered as scipy does; fewer where heights are equal.

    The tree is found by chains of nearest neighbours (Müllner, arXiv 1109.2378, section 3.2), and clusters are as far
    apart as Lance and Williams say. Equal distances are taken in scipy's order. (n, n) symmetric -> (n,), from 0

    Raises:
        ValueError: a distance is not finite.
    """
    if not np.isfinite(distances).all():
        raise ValueError("token pooling needs vectors of finite numbers")
    n = len(distances)
    d, sizes = distances.copy(), np.ones(n)  # of clusters, in the place of one of their members
    merges: list[tuple[float, int, int]] = []
    np.fill_diagonal(d, np.inf)
    chain: list[int] = []
    while len(merges) < n - 1:
        chain = chain or [int((sizes > 0).argmax())]
        near = int(d[chain[-1]].argmin())
        if len(chain) < 2 or d[chain[-1], near] < d[chain[-1], chain[-2]]:
            chain.append(near)
            continue
        x, y = sorted((chain.pop(), chain.pop()))
        height, t = d[x, y], 1 / (sizes[x] + sizes[y] + sizes)
        first, second = (sizes + sizes[x]) * t * d[x] * d[x], (sizes + sizes[y]) * t * d[y] * d[y]
        merges.append((float(height), x, y))
        with np.errstate(invalid="ignore"):
            d[y] = np.sqrt(first + second - sizes * t * height * height)
        sizes[y], sizes[x] = sizes[x] + sizes[y], 0
        d[y, (sizes == 0) | (np.arange(n) == y)] = np.inf
        d[:, y], d[x], d[:, x] = d[y], np.inf, np.inf
    return _cut(merges, count)


def _cut(merges: list[tuple[float, int, int]], count: int) -> np.ndarray:
    """Keep merges up to the least height that leaves at most ``count``; number these as scipy walks the tree. (n,)"""
    n = len(merges) + 1
    heights, children, names = np.zeros(2 * n - 1), {}, np.arange(n)  # of the cluster that each token is in
    for name, (height, x, y) in enumerate(sorted(merges, key=lambda merge: merge[0]), n):
        left, right = children[name] = sorted((int(names[x]), int(names[y])))
        heights[name] = height
        names[(names == left) | (names == right)] = name
    whole = int(np.searchsorted(heights, heights[2 * n - 1 - count], side="right"))  # names from here on are cut
    numbers, found, waiting = [-1] * (2 * n - 1), 0, [2 * n - 2]
    while waiting:
        name = waiting.pop()
        if name >= whole:
            left, right = children[name]
            waiting += sorted((right, left), key=lambda child: child >= n)  # leaves last, each kind left to right
        else:
            numbers[name], found = found, found + 1
    for name in range(whole - 1, n - 1, -1):
        for child in children[name]:
            numbers[child] = numbers[name]
    return np.array(numbers[:n])
