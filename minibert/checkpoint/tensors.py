"""Tensors without numbers: unread tensors in a file, and models that have only names and shapes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..config import BertConfig, FileError
from .hub import first_line

SMALL = 4 << 20  # bytes of a file; larger ones are mapped, and `LoadReport.check_files` watches them

AnyModel = TypeVar("AnyModel", bound=nn.Module)


class CheckpointError(FileError):
    """The weights can't be used: damaged, incomplete, or not BERT's. The message names the file or the tensors."""


def damaged(path: Path, error: BaseException) -> CheckpointError:
    """Return the one error for a file that can't be parsed. It quotes the parser. Raise again an error of our own."""
    if isinstance(error, CheckpointError):
        raise error
    return CheckpointError(f"{path}: damaged or not what its name says ({first_line(error)}); fetch it again")


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file. Its shape is known before any memory is taken for it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    read: Callable[[], Tensor]  # mapped where the format allows it; raises CheckpointError if bytes are missing


def file_state(path: Path) -> tuple[int, ...]:
    """Return which file is there and when it was last written: device, inode, size, time. Raise OSError if none is."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def dtype_name(dtype: torch.dtype) -> str:
    """Return "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


class _NoInitialisation(TorchFunctionMode):
    """Skip the functions of torch.nn.init: on the meta device they make torch import its compiler, for a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def on_meta() -> Iterator[None]:
    """Put new parameters on the meta device, for ``load_state_dict(assign=True)`` to replace."""
    with torch.device("meta"), _NoInitialisation():
        yield


def build_on_meta(build: Callable[[], AnyModel], config: BertConfig) -> AnyModel:
    """Build a Bert, or a model with one as `bert`, of names and shapes only. Layers of `pruned_heads` are narrower."""
    D = config.hidden_size
    with on_meta():
        model = build()
        layers: Any = getattr(model, "bert", model).layers
        for layer, lost in config.pruned_heads.items():
            attention = layers[layer].attention
            narrow = (config.num_attention_heads - len(lost)) * config.head_size
            attention.query, attention.key, attention.value = (nn.Linear(D, narrow) for _ in range(3))
            attention.out = nn.Linear(narrow, D)
    return model
