"""From token states to the weights of words: the masked-LM head, pooled as its scores are made.

    B texts    T tokens of them, without padding    D hidden size    V vocabulary    C words at a time

Scores of all words for all tokens, (T, V), are never in memory. Some words' scores are made for some texts, pooled,
and forgotten; of each text only the words that it has are kept. Padding has no scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..fast.changes import track, version
from ..fast.decide import departure, unusable
from ..fast.prepare import ARITHMETICS
from ..fast.stack import activation_name, pack
from ..fast.tokens import round_up
from ..fused import has_hooks
from ..heads import BertForMaskedLM, MaskedLMHead
from ..pooling import SpladePooling
from .sparse_vectors import Row

WORDS = 2048  # at a time: so few that their scores stay in the processor's cache
TEXTS = 64  # pooled at a time, at most: 8 MB of BERT's vocabulary
TOKENS = 2048  # of several texts, at most


class PageHead:
    """The head as the page computes it, whatever it is by now. (T, D) -> scores of all words (T, V) at once"""

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model = model
        self.tokens = 256 if device.type == "cpu" else TOKENS  # at a time: 31 MB of BERT's vocabulary, or 250

    def __call__(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the one block."""
        yield self.model.to_vocabulary(x)


class FastHead:
    """The page's own head once more, with its products in the stack's arithmetic, packed. (T, D) -> (T, C) each"""

    tokens = TOKENS

    def __init__(self, model: BertForMaskedLM, arithmetic: str) -> None:
        head = model.masked_lm
        self.weights = track(model)  # kept, so that no other takes the place of one in memory
        self.key = _key(model, arithmetic)  # before packing, so that a change meanwhile is noticed
        self.norm, self.activation = head.norm, activation_name(head.activation)
        with torch.no_grad():
            pairs = zip(_table(model).detach().split(WORDS), head.bias.detach().split(WORDS), strict=True)
            self.dense = pack(ARITHMETICS[arithmetic], head.dense)
            self.blocks = [ARITHMETICS[arithmetic](table, bias.clone()) for table, bias in pairs]

    def __call__(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the scores of WORDS words at a time."""
        norm, T = self.norm, len(x)
        x = functional.pad(x, (0, 0, 0, round_up(T) - T))
        x = self.dense(x, self.activation).to(norm.weight.dtype)
        x = torch.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps)
        for block in self.blocks:
            yield block(x)[:T]


def whole_model(model: Any) -> str | None:
    """Say why the model itself has to be called, and not its parts; None where it need not."""
    if type(model) is not BertForMaskedLM:
        return f"the model is {type(model).__name__}, not BertForMaskedLM"
    if own := vars(model).keys() & {"forward", "read", "to_vocabulary"}:
        return f"the model has {min(own)!r} of its own"
    return "the model has a hook" if has_hooks(model) else None


def as_they_are(scores: Tensor) -> Iterator[Tensor]:
    """Yield scores that a whole model has made, (T, V)."""
    yield scores


def why_page(model: BertForMaskedLM) -> str | None:
    """Say why the page computes the head whoever computes the layers; None where it need not."""
    head, dtype = model.masked_lm, model.bert.embeddings.token.weight.dtype
    if why := departure(head, "masked_lm", MaskedLMHead):
        return why
    if activation_name(head.activation) is None:
        return "masked_lm.activation has a formula of its own"
    exact = dtype if dtype is torch.float64 else torch.float32
    return unusable(head, "masked_lm", exact) or unusable(model.bert.embeddings.token, "embeddings.token", exact)


def fast_head(model: BertForMaskedLM, arithmetic: str, before: FastHead | None) -> FastHead:
    """Return the head for the stack; the one before, unless a weight has changed."""
    return before if before is not None and before.key == _key(model, arithmetic) else FastHead(model, arithmetic)


def _table(model: BertForMaskedLM) -> Tensor:
    decoder = model.masked_lm.decoder
    return (model.bert.embeddings.token if decoder is None else decoder).weight


def _key(model: BertForMaskedLM, arithmetic: str) -> list[Any]:
    head = model.masked_lm
    weights: list[Any] = [*head.parameters(), _table(model)]
    seen = [(id(weight), version(weight) if hasattr(weight, "taken") else None) for weight in weights]
    return [arithmetic, activation_name(head.activation), head.norm.eps, *seen]


def weigh(
    head: Callable[[Tensor], Iterator[Tensor]],
    pooling: SpladePooling,
    x: Tensor,
    lengths: Sequence[int],
    keep: int | None,
) -> list[Row]:
    """Return the words of each text, with their weights.

    Args:
        head: Makes scores of x, all or some words at a time.
        x: The texts' states without padding, one text after another, (T, D).
        lengths: Tokens of each text, (B,).
        keep: Words of a text, at most: those with the highest weights. None: all.
    """
    rows: list[Row] = []
    begin = 0
    for group in _groups(lengths, getattr(head, "tokens", TOKENS)):
        end = begin + sum(group)
        if begin == end:  # no text has a token
            rows += [(np.empty(0, np.int32), np.empty(0, np.float32))] * len(group)
            continue
        parts = [_pool(pooling, scores, group) for scores in head(x[begin:end])]
        rows += _words_of(torch.cat(parts, 1), pooling, keep)
        begin = end
    return rows


def _groups(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Cut texts into groups of at most TEXTS, and of so many tokens unless one text has more."""
    group: list[int] = []
    for length in lengths:
        if group and (len(group) == TEXTS or sum(group) + length > tokens):
            yield group
            group = []
        group.append(length)
    if group:
        yield group


def _pool(pooling: SpladePooling, scores: Tensor, lengths: Sequence[int]) -> Tensor:
    """Reduce each text's scores, neighbours of one length at once. (T, C) -> (B, C), float32 at least"""
    parts, begin = [], 0
    for length, same in groupby(lengths):
        count = len(list(same))
        end = begin + length * count
        texts = scores[begin:end].view(count, length, scores.shape[1])
        parts.append(pooling.reduce(texts) if length else scores.new_zeros(count, scores.shape[1]))
        begin = end
    wide = torch.promote_types(scores.dtype, torch.float32)
    return torch.cat([part.to(wide) for part in parts])


def _words_of(pooled: Tensor, pooling: SpladePooling, keep: int | None) -> Iterator[Row]:
    """Return the words of each text that have a weight, at most ``keep``. (B, V) -> B rows"""
    pooled = pooled.relu_()
    if keep is not None and keep < pooled.shape[1]:
        top = pooled.topk(keep, 1)
        pooled = torch.zeros_like(pooled).scatter_(1, top.indices, top.values)
    numbers, ids = pooled.nonzero(as_tuple=True)
    weights = pooling.finish(pooled[numbers, ids]).cpu().numpy()
    cuts = np.searchsorted(numbers.cpu().numpy(), np.arange(1, len(pooled)))
    return zip(np.split(ids.int().cpu().numpy(), cuts), np.split(weights, cuts), strict=True)
