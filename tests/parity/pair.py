"""Ours and the reference, side by side: transformers' BertModel, and a Bert that holds the same weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
import transformers
from helpers import TINY, widen
from layer_diff import differences, largest_difference
from torch import nn

from minibert import Bert, BertConfig
from minibert.checkpoint.names import published_name

# In float64. The true differences are about 1e-15, in gradients 1e-14; the faintest of the twelve mistakes makes 3e-5.
EXACT = 1e-10


class Pair(NamedTuple):
    ours: Bert
    theirs: transformers.BertModel


def make_pair(
    config: BertConfig = TINY, *, attention: str = "eager", pooler: bool = True, wide: bool = True, seed: int = 0
) -> Pair:
    """Tiny, float64, eval, every parameter drawn wide, carried from theirs to ours by our own name table.

    `wide=False` leaves the weights as transformers draws them, which proves little: see test_would_notice.py.
    """
    their_config = transformers.BertConfig(**config.to_dict(), attn_implementation=attention)
    theirs = transformers.BertModel(their_config, add_pooling_layer=pooler).double().eval()
    assert theirs.config._attn_implementation == attention
    if wide:
        widen(theirs, seed)
    ours = Bert(config, pooler=pooler).double().eval()
    weights = theirs.state_dict()
    names = {name: published_name(name) for name in ours.state_dict()}
    assert sorted(names.values()) == sorted(weights), "the name table is not one to one"
    ours.load_state_dict({name: weights[published] for name, published in names.items()})
    return Pair(ours, theirs)


def assert_same_all_the_way(pair: Pair, batch: dict[str, torch.Tensor]) -> None:
    """Compare every hidden state and the pooler's vector; say which is the first that differs."""
    for name, difference in differences(*pair, batch).items():
        assert difference < EXACT, f"{name} is the first to differ, by {difference:.1e}"


def assert_same(mine: torch.Tensor, reference: torch.Tensor) -> None:
    assert largest_difference(mine, reference) < EXACT


class Call(NamedTuple):
    inputs: tuple
    output: object


def watch(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, Call]:
    """Run the model; what went into each of its modules, and what came out, by the module's name."""
    seen: dict[str, Call] = {}

    def keep(name):
        return lambda _module, inputs, output: seen.__setitem__(name, Call(inputs, output))

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules()]
    model(**batch)
    for hook in hooks:
        hook.remove()
    return seen
