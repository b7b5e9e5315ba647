"""Several processes, each with a device, that train one model: `torchrun --nproc-per-node 2 ...`.

Every process draws the same batches and embeds its share of each; vectors are gathered, so that every objective sees
the whole batch, and gradients are averaged. One process alone passes through all this untouched.
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
from torch.distributed.rendezvous import rendezvous

_groups = count()


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if _several() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _several() else 1


def local_device() -> torch.device:
    """Where this process should compute: the GPU of torchrun's LOCAL_RANK, or the CPU."""
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Inside, the processes that torchrun started (RANK, WORLD_SIZE) know each other; nothing where it started none.

    Raises:
        RuntimeError: torch's, where the processes don't find each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    store, own, number = next(rendezvous("env://"))
    # Every group under a name of its own: what the one before left in the store would lead a second one astray.
    store = dist.PrefixStore(f"minibert {next(_groups)}", store)  # type: ignore[attr-defined]
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=own, world_size=number)
    try:
        yield
    finally:
        dist.destroy_process_group()


def share(rows: np.ndarray) -> np.ndarray:
    """Of a batch's rows those of this process: every n-th, where n is the number of processes."""
    return rows[rank() :: world()]


def gather(own: Tensor, count: int) -> Tensor:
    """All processes' vectors in the order of the batch, with gradients for this one's. (own, D) -> (count, D)"""
    if not _several():
        return own
    whole: Tensor = _Gather.apply(own, count)  # type: ignore[no-untyped-call]
    return whole


def average_gradients(module: nn.Module) -> None:
    """Make every gradient the mean of all processes' gradients."""
    if not _several():
        return
    gradients = [value.grad for value in module.parameters() if value.grad is not None]
    for dtype in {gradient.dtype for gradient in gradients}:
        alike = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.flatten() for gradient in alike]) / world()  # one message, not one per parameter
        dist.all_reduce(flat)
        for gradient, mean in zip(alike, flat.split([gradient.numel() for gradient in alike]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def mean(value: Tensor) -> float:
    """The mean of all processes' numbers."""
    if _several():
        value = value / world()
        dist.all_reduce(value)
    return float(value)


def same_weights(module: nn.Module) -> None:
    """Give every process the first one's weights."""
    if _several():
        for value in module.state_dict().values():
            dist.broadcast(value, 0)


def wait() -> None:
    """Until all processes are here."""
    if _several():
        dist.barrier()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, count: int) -> Tensor:
        parts = [own.new_empty(-(-count // world()), own.shape[1]) for _ in range(world())]
        sent = torch.zeros_like(parts[0])
        sent[: len(own)] = own
        dist.all_gather(parts, sent)
        whole = own.new_empty(count, own.shape[1])
        for each, part in enumerate(parts):
            whole[each :: world()] = part[: len(range(each, count, world()))]
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # Every process computes the same loss of the whole batch; what it owes to its own rows is only here, and is
        # divided by the number of processes when gradients are averaged.
        return gradients[0][rank() :: world()] * world(), None


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
