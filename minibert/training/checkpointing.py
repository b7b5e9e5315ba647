"""Gradient checkpointing (arXiv 1604.06174): keep each layer's input, compute the layer again for its gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..model import Encoder


class CheckpointedEncoder(Encoder):
    """The layers, one after another, each computed twice. x (B, S, D), mask -> (B, S, D)"""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The same numbers, the same dropout, for a third more time and one layer's memory instead of all."""
        for layer in self:
            x = checkpoint(layer, x, mask, use_reentrant=False)
        return x


@contextmanager
def layers_checkpointed(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Inside, if ``wanted``, every stack of layers in the model is computed so; a stack of your own class is not."""
    stacks = [part for part in model.modules() if wanted and type(part) is Encoder]
    for stack in stacks:
        stack.__class__ = CheckpointedEncoder
    try:
        yield
    finally:
        for stack in stacks:
            stack.__class__ = Encoder
