"""Weigh the attention heads of a Bert, or of a module that contains one; switch them off, or remove them for good.

A head's number is its index among the heads that its layer has now, as in the values that ``capture`` gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ..model import Bert
from .catalogue import Numbers, bert_in, whole_numbers
from .hooks import patch


@contextmanager
def mask_heads(model: nn.Module, mask: Tensor | Sequence[Tensor | Sequence[float]]) -> Iterator[None]:
    """Multiply each head's output by a number, in the forwards that run inside.

    This equals multiplying its `probs` after dropout. Gradients flow into the mask: after ``loss.backward()``,
    ``mask.grad.abs()`` estimates how much the loss depends on each head (arXiv 1905.10650, section 4.1).

    The mask is (L, H), a number for each head of each layer; or L rows of different lengths, if heads were pruned.
    Raises ValueError if it has another size, or if a layer's attention has no `core` any more.
    """
    bert = bert_in(model)
    if not isinstance(mask, Iterable):
        raise TypeError(f"the mask must be numbers (L, H), not {type(mask).__name__}")
    rows = [torch.as_tensor(row) for row in (torch.atleast_1d(mask) if isinstance(mask, Tensor) else mask)]
    wanted = [(len(heads_in(bert, layer)),) for layer in range(len(bert.layers))]
    if (given := [tuple(row.shape) for row in rows]) != wanted:
        raise ValueError(f"the mask must have a row of these shapes for each layer: {wanted}, and it has {given}")
    with ExitStack() as patches:
        for layer, row in enumerate(rows):
            patches.enter_context(patch(bert, f"layers.{layer}.attention.core", partial(_weigh, row)))
        yield


@contextmanager
def ablate_heads(model: nn.Module, heads: Mapping[int, Numbers]) -> Iterator[None]:
    """Set the output of heads, given by layer as {3: [0, 5]}, to 0 in the forwards that run inside.

    Raises:
        ValueError: there is no such layer or head, or the layer's attention has no `core` any more.
        TypeError: heads are no mapping of whole numbers.
    """
    bert = bert_in(model)
    with ExitStack() as patches:
        for layer, numbers in checked_heads(bert, heads).items():
            patches.enter_context(patch(bert, f"layers.{layer}.attention.core", torch.zeros_like, heads=numbers))
        yield


def prune_heads(model: nn.Module, heads: Mapping[int, Numbers]) -> None:
    """Remove heads, given by layer as {3: [0, 5]}: the same numbers as with ``ablate_heads``, from smaller matrices.

    A pruned model is saved and loaded as any other: `pruned_heads` in config.json lists the missing heads, in the form
    of transformers 4. (transformers 5 can neither prune nor load such a folder.) `Bert(config)` by itself starts with
    all heads. `query`, `key`, `value` and `out` get new parameters, so prune before you create an optimizer.

    Raises:
        ValueError: there is no such layer or head; none would stay; or one of the four was replaced by something other
            than an nn.Linear. Then nothing is removed.
        TypeError: heads are not whole numbers.
    """
    bert = bert_in(model)
    plan = []
    for layer, numbers in checked_heads(bert, heads).items():
        there = heads_in(bert, layer)
        stay = [number for number in range(len(there)) if number not in numbers]
        if not stay:
            raise ValueError(f"at least one head must stay in layer {layer}, which has {len(there)}")
        plan.append((layer, _linears(bert, layer), stay, [there[number] for number in numbers]))
    gone = {layer: list(before) for layer, before in bert.config.pruned_heads.items()}
    size = bert.config.head_size
    for layer, (*into_heads, out), stay, originals in plan:
        kept = (torch.tensor(stay)[:, None] * size + torch.arange(size)).flatten()
        for linear in into_heads:
            _keep(linear, 0, kept)
        _keep(out, 1, kept)
        gone[layer] = sorted([*gone.get(layer, ()), *originals])
    bert.config = replace(bert.config, pruned_heads=gone)


def _weigh(weights: Tensor, attended: Tensor) -> Tensor:
    return attended * weights.to(attended)[:, None, None]  # (H, 1, 1) to each of (B, H, S, K)


def heads_in(bert: Bert, layer: int) -> list[int]:
    """Return the heads that a layer has now, by their numbers in the unpruned model."""
    pruned = bert.config.pruned_heads.get(layer, ())
    return [head for head in range(bert.config.num_attention_heads) if head not in pruned]


def checked_heads(bert: Bert, heads: Mapping[int, Numbers]) -> dict[int, list[int]]:
    """Return heads in order, by layer where there are any. Raises as ``ablate_heads``."""
    if not isinstance(heads, Mapping):
        raise TypeError(f"heads are given by layer, as {{3: [0, 5]}}, not as {type(heads).__name__}")
    checked = {}
    for layer, several in heads.items():
        if layer not in range(len(bert.layers)):
            raise ValueError(f"there is no layer {layer!r}, only 0 to {len(bert.layers) - 1}")
        numbers, last = sorted(set(whole_numbers(several, "heads"))), len(heads_in(bert, layer)) - 1
        if wrong := [number for number in numbers if not 0 <= number <= last]:
            raise ValueError(f"layer {layer} has no head {wrong[0]}, only 0 to {last}")
        if numbers:
            checked[layer] = numbers
    return checked


def _linears(bert: Bert, layer: int) -> list[nn.Linear]:
    """Return `query`, `key`, `value` and `out`, after checking their sizes."""
    attention, D = bert.layers[layer].attention, bert.config.hidden_size
    width = len(heads_in(bert, layer)) * bert.config.head_size
    found = []
    for name, shape in (("query", (width, D)), ("key", (width, D)), ("value", (width, D)), ("out", (D, width))):
        linear = getattr(attention, name, None)
        if not isinstance(linear, nn.Linear) or tuple(linear.weight.shape) != shape:
            raise ValueError(f"can't prune layers.{layer}.attention.{name}: it is not an nn.Linear of {shape}")
        found.append(linear)
    return found


def _keep(linear: nn.Linear, axis: int, kept: Tensor) -> None:
    """Keep some of the outputs (axis 0) or inputs (axis 1) of a linear layer, which keeps its hooks."""
    for name in ("weight", "bias"):
        old = getattr(linear, name)
        if old is not None and axis < old.ndim:
            cut = old.detach().index_select(axis, kept.to(old.device))
            setattr(linear, name, nn.Parameter(cut, requires_grad=old.requires_grad))
    linear.out_features, linear.in_features = linear.weight.shape
