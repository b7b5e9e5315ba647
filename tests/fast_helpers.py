"""Helpers for the tests of the fast stack: tokens of given lengths, a Bert's stack, and who computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY
from torch import Tensor, nn

from minibert import Bert, BertConfig
from minibert.fast.decide import decide
from minibert.fast.int8 import Int8Linear
from minibert.fast.stack import FastLayer, OneDnnLinear, PlainLinear, Stack
from minibert.fast.tokens import PackedTokens
from minibert.tokenizer import Tokens
from minibert.truncation import TruncationReport

# Of states up to 5 of a wide random model: rounding, and what fewer bits cost.
STATES = {"float64": 1e-10, "float32": 1e-4, "bfloat16": 1, "int8": 1}
# Of the same states computed in another order.
ORDER = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 0.15, "int8": 0.6}


def random_tokens(lengths: Sequence[int], config: BertConfig = TINY, seed: int = 0) -> Tokens:
    """Return texts of these lengths, with any ids and token types."""
    generator = np.random.default_rng(seed)
    count = sum(lengths)
    ids = generator.integers(config.vocab_size, size=count).astype(np.int32)
    types = generator.integers(config.type_vocab_size, size=count).astype(np.int8)
    return Tokens(ids, types, np.cumsum([0, *lengths]), TruncationReport())


def packed(tokens: Tokens) -> PackedTokens:
    return PackedTokens(tokens, np.arange(len(tokens.lengths)))


def padded(tokens: Tokens) -> dict[str, Tensor]:
    """Return the page's arguments: `bert(**padded(tokens))`."""
    mask = torch.arange(int(tokens.lengths.max())) < torch.from_numpy(tokens.lengths)[:, None]
    ids, types = torch.zeros(2, *mask.shape, dtype=torch.int64)
    ids[mask], types[mask] = torch.from_numpy(tokens.ids).long(), torch.from_numpy(tokens.types).long()
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def stack_of(bert: Bert, dtype: str = "float32") -> Stack:
    """Return the stack that computes all of a Bert, with products in this dtype; in float64 for a Bert of float64."""
    decision = decide(bert, bert, [], {"float64": "float32"}.get(dtype, dtype), None)
    assert decision.stack is not None
    assert not decision.reasons
    return decision.stack


@torch.inference_mode()
def states(stack: Stack, tokens: Tokens, **options: bool) -> Tensor:
    return stack(packed(tokens), **options)


@contextmanager
def fast_layers(model: nn.Module) -> Iterator[list[tuple[nn.Module, bool]]]:
    """Collect the layers of a model that its stack computes meanwhile, and whether of each text's first token only."""
    calls: list[tuple[nn.Module, bool]] = []
    every, first = FastLayer.__call__, FastLayer.first

    def count_every(self: FastLayer, *arguments: Any) -> Tensor:
        calls.extend([(self.layer, False)] * (self.layer in set(model.modules())))
        return every(self, *arguments)

    def count_first(self: FastLayer, *arguments: Any) -> Tensor:
        calls.extend([(self.layer, True)] * (self.layer in set(model.modules())))
        return first(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FastLayer, "__call__", count_every)
        patch.setattr(FastLayer, "first", count_first)
        yield calls


@contextmanager
def product_rows() -> Iterator[list[int]]:
    """Collect the number of rows of each product that stacks compute meanwhile."""
    rows: list[int] = []

    def watch(kind: type, name: str) -> None:
        compute = getattr(kind, name)

        def count(self: Any, x: Tensor, *arguments: Any) -> Tensor:
            rows.append(len(x))
            return compute(self, x, *arguments)

        patch.setattr(kind, name, count)

    with pytest.MonkeyPatch.context() as patch:
        for kind in (OneDnnLinear, PlainLinear, Int8Linear):
            watch(kind, "__call__")
            watch(kind, "add")
        yield rows
