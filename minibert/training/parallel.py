"""Several processes, each with a device, that train one model: `torchrun --nproc-per-node 2 ...`.

Every process draws the same batches and embeds its share of each. Vectors are gathered, so that every objective sees
the whole batch, and gradients are averaged. With one process, each function here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.distributed.rendezvous import rendezvous
from torch.nn import functional

_groups = count()


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


def world() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Tell if this is the process that evaluates and writes."""
    return rank() == 0


def local_device() -> torch.device:
    """Return this process's device: the GPU of torchrun's LOCAL_RANK, or the CPU."""
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Inside, torchrun's processes (RANK, WORLD_SIZE) are one group. torch's RuntimeError: they don't meet."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    store, own, number = next(rendezvous("env://"))
    # Each group has its own prefix, because the keys that an earlier one left in the store would mislead it.
    store = dist.PrefixStore(f"minibert {next(_groups)}", store)  # type: ignore[attr-defined]
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=own, world_size=number)
    try:
        yield
    finally:
        dist.destroy_process_group()


def share(rows: np.ndarray) -> np.ndarray:
    """Return this process's rows of a batch: every n-th of n processes."""
    return rows[rank() :: world()]


def gather(own: Tensor, count: int) -> Tensor:
    """Gather all processes' vectors in the order of the batch, with gradients for its own. (own, D) -> (count, D)"""
    return own if world() == 1 else _Gather.apply(own, count)  # type: ignore[no-untyped-call]


def average_gradients(module: nn.Module) -> None:
    """Make every gradient the mean of all processes' gradients."""
    gradients = [value.grad for value in module.parameters() if value.grad is not None] if world() > 1 else []
    for dtype in {gradient.dtype for gradient in gradients}:
        of_dtype = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.flatten() for gradient in of_dtype]) / world()  # one message, not one per parameter
        dist.all_reduce(flat)
        for gradient, mean in zip(of_dtype, flat.split([gradient.numel() for gradient in of_dtype]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def mean(value: Tensor) -> float:
    """Return the mean of all processes' numbers."""
    if world() > 1:
        value = value / world()
        dist.all_reduce(value)
    return float(value)


def same_weights(module: nn.Module) -> None:
    """Give every process the first one's weights."""
    if world() > 1:
        for value in module.state_dict().values():
            dist.broadcast(value, 0)
            increment_version(value)  # torch does not count it, and `encode` may have packed the weights before


def wait() -> None:
    """Wait until all processes are here."""
    if world() > 1:
        dist.barrier()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, count: int) -> Tensor:
        sent = functional.pad(own, (0, 0, 0, -(-count // world()) - len(own))).contiguous()  # as many as the first has
        parts = [torch.empty_like(sent) for _ in range(world())]
        dist.all_gather(parts, sent)
        return torch.stack(parts, dim=1).flatten(0, 1)[:count]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # Every process computes the same loss of the whole batch, but only its own rows have gradients here. Averaging
        # divides them by the number of processes.
        return gradients[0][rank() :: world()] * world(), None
