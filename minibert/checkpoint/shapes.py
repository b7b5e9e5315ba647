"""Modules without numbers: what names and shapes a model has, before any memory is taken for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..config import BertConfig
from ..model import Bert


class _NoInitialisation(TorchFunctionMode):
    """Leave tensors as they are where torch.nn.init would fill them.

    Random numbers for tensors without memory cost nothing by themselves, but make torch import its compiler: a second.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else options["tensor"]
        return func(*args, **options)


AnyBert = TypeVar("AnyBert", bound=Bert)


def blank(kind: type[AnyBert], config: BertConfig, *, pooler: bool) -> AnyBert:
    """What a checkpoint of this config is to fill: names and shapes, narrower where config.json says `pruned_heads`."""
    with shapes_only():
        model = kind(config, pooler=pooler)
        for layer, lost in config.pruned_heads.items():
            attention: Any = model.layers[layer].attention
            D = config.hidden_size
            narrow = (config.num_attention_heads - len(lost)) * config.head_size
            attention.query, attention.key, attention.value = (nn.Linear(D, narrow) for _ in range(3))
            attention.out = nn.Linear(narrow, D)
    return model


@contextmanager
def shapes_only() -> Iterator[None]:
    """What is built inside has parameters on the meta device, to be replaced by ``load_state_dict(assign=True)``."""
    with torch.device("meta"), _NoInitialisation():
        yield
