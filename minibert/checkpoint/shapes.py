"""Modules without numbers: what names and shapes a model has, before any memory is taken for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


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


@contextmanager
def shapes_only() -> Iterator[None]:
    """What is built inside has parameters on the meta device, to be replaced by ``load_state_dict(assign=True)``."""
    with torch.device("meta"), _NoInitialisation():
        yield
