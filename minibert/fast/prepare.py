"""Which arithmetic computes, and its weights in memory once."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from ..checkpoint.hub import CheckpointFiles
from ..checkpoint.load import read_again
from .changes import DATA
from .int8 import Int8Linear
from .stack import Arithmetic, Stack, pack_bfloat16, pack_float32

# The arithmetic of products, by the name that `dtype` takes. Weights, norms, softmax and residuals stay float32.
ARITHMETICS: dict[str, Arithmetic] = {"float32": pack_float32, "bfloat16": pack_bfloat16, "int8": Int8Linear}
RELEASE = 64 * 2**20  # bytes of mapped weights that are read before they are released; mapping anew takes milliseconds


def pack_at_loading(stack: Stack, model: nn.Module, files: CheckpointFiles, *, first_only: bool) -> None:
    """Pack a model's weights, and exchange them for the same ones of which nothing was read.

    What is read of a mapped file stays in memory beside the packed copy. Nobody has seen the model yet, so its file
    can be mapped anew. The system reads it again where somebody looks at a weight, or trains it.

    Args:
        stack: Of the model, which was just loaded from the files and is mapped.
        first_only: Calls will read only each text's first token.
    """
    read = 0
    for i, layer in enumerate(stack.layers, 1):
        if layer is None:
            continue
        with torch.inference_mode():
            layer.pack(first=first_only and i == len(stack.layers))
        read += sum(weight.nbytes for weight in layer.weights)
        if read > RELEASE:
            _map_anew(model, files)
            read = 0
    _map_anew(model, files)


def _map_anew(model: nn.Module, files: CheckpointFiles) -> None:
    with torch.inference_mode(False):  # weights of that mode never have gradients, and are never packed
        for parameter, same in read_again(model, files):
            # Biases and norms, which are read at every call, are copied: the system reads megabytes around each.
            value = parameter.detach().clone() if parameter.ndim < 2 else same
            DATA.__set__(parameter, value)  # torch's own descriptor: nothing is to be packed again


@cache
def keep_freed_memory() -> None:
    """Let glibc keep freed memory of up to 32 MB: to get it anew, page by page, took a fifth of int8's large calls."""
    torch.empty(2**25 - 2**16, dtype=torch.uint8)  # it learns from what is freed: mallopt(3), M_MMAP_THRESHOLD
