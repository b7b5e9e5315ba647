"""From files to a model that is ready to compute, in memory for one copy of its weights."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from ..checkpoint.hub import CheckpointFiles
from ..checkpoint.load import load_files, read_again
from .arithmetic import choose
from .linear import DATA
from .prepare import prepare
from .sublayers import ProductAttention, ProductFeedForward

AnyModel = TypeVar("AnyModel", bound=nn.Module)

# Bytes that are read of mapped weights before they are let go: to map a file anew takes some milliseconds.
AT_ONCE = 64 * 2**20


def load_prepared(
    files: CheckpointFiles,
    *,
    into: type[AnyModel],
    device: torch.device,
    dtype: str | torch.dtype | None,
    prepared: bool,
) -> tuple[AnyModel, str]:
    """A model in eval mode, still on the CPU, and what its linear layers compute in.

    Args:
        device: Where it will be put.

    Raises:
        As `checkpoint.load_bert`. ValueError: as `choose`.
    """
    dtype, arithmetic = choose(dtype, device, prepared=prepared)
    model: Any = load_files(files, into=into, dtype=dtype)
    if prepared:
        prepare(model, arithmetic)
        if device.type == "cpu" and model.report.mapped:
            lay_out(model, files)
    return model, arithmetic


@torch.inference_mode(False)  # as `load_files`
def lay_out(model: nn.Module, files: CheckpointFiles) -> None:
    """Lay out the weights of a prepared model now, and exchange them for the same ones of which nothing was read.

    What is read of a mapped file stays in memory, beside the copy that was laid out of it. Until a model is handed out
    nobody can have changed its weights or kept one, so the file can be mapped anew; the system reads it again where
    somebody looks at a weight, or trains it.

    Args:
        model: Just loaded from the files, mapped.
    """
    read = 0
    for part in model.modules():
        if isinstance(part, (ProductAttention, ProductFeedForward)) and part.ready():
            read += sum(value.nbytes for value in part.parameters())
        if read > AT_ONCE:
            _map_anew(model, files)
            read = 0
    _map_anew(model, files)


def _map_anew(model: nn.Module, files: CheckpointFiles) -> None:
    for parameter, same in read_again(model, files):
        # Biases and norms, which are read at every call, are copied: the system brings megabytes around what is read.
        value = parameter.detach().clone() if parameter.ndim < 2 else same
        DATA.__set__(parameter, value)  # by torch's own descriptor: no change that anything is to be laid out for
