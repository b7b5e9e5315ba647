"""What every file reader gives: tensors that are known, but not yet read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


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
