"""Tensors without numbers yet: those in a file that are known but not read, and a model's names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..config import BertConfig


class CheckpointError(ValueError):
    """The weights can't be used: damaged, incomplete, or not BERT's. The message names the file or the tensors."""


@dataclass(frozen=True)
class Stored:
    """One tensor as it lies in a file. Its shape is known before any memory is taken for it.

    ``read`` gives the tensor (mapped from the file where the format allows it), and raises ``CheckpointError``
    with the file's name when the bytes are not there.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    read: Callable[[], Tensor]


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


AnyModel = TypeVar("AnyModel", bound=nn.Module)


def blank(build: Callable[[], AnyModel], config: BertConfig) -> AnyModel:
    """What a checkpoint of this config is to fill: names and shapes, narrower where config.json says `pruned_heads`.

    Args:
        build: Makes a Bert, or a model that has one as `bert`.
    """
    with shapes_only():
        model = build()
        layers: Any = getattr(model, "bert", model).layers
        for layer, lost in config.pruned_heads.items():
            attention = layers[layer].attention
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
