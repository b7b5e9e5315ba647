"""The page's own formulas, computed by torch's fused kernels: the same numbers to a few roundings, in fewer passes.

Each class takes the place of a part of the page and has nothing of its own: the weights, the names and the hooks are
those of the part (see `prepare`). Gradients flow through all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..model import Activation, Embeddings, LayerNorm
from .watching import quiet


class KernelLayerNorm(LayerNorm):
    """One pass where the page makes seven. (B, S, D) -> same"""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; statistics are kept in float32 at least, as on the page."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class KernelActivation(Activation):
    """GELU in one pass where the page makes four (tanh: eight). Any shape -> same"""

    def forward(self, x: Tensor) -> Tensor:
        """Bend; the formulas without a kernel of their own are the page's."""
        name = formula_name(self)
        return self.formula(x) if name is None else bend(x, name)


class KernelEmbeddings(Embeddings):
    """Positions as a piece of their table, which needs no look-up; the norm at once. (B, S) ids -> (B, S, D)"""

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Sum; the page does so wherever a part is watched, replaced or in training mode."""
        token, position, token_type = self.token, self.position, self.token_type
        own = type(self.dropout) is nn.Dropout and all(
            type(table) is nn.Embedding and "forward" not in table.__dict__ for table in (token, position, token_type)
        )
        unseen = own and type(self.norm) is KernelLayerNorm and not torch.is_grad_enabled() and quiet(self) is not None
        if position is None or token_type_ids is None or not unseen:
            return super().forward(input_ids, token_type_ids)
        x = torch.embedding(token.weight, input_ids)
        x = x.add_(torch.embedding(token_type.weight, token_type_ids)).add_(position.weight[: input_ids.shape[1]])
        return self.norm.forward(x)


def formula_name(activation: Activation) -> str | None:
    """Which of the page's formulas it is; None: somebody else's."""
    return next((name for name, formula in Activation.formulas.items() if formula is activation.formula), None)


def bend(x: Tensor, activation: str | None) -> Tensor:
    """The page's formula of that name, in one pass where torch has one; None: x as it is."""
    if activation is None:
        return x
    if activation in ("gelu", "gelu_new"):
        return functional.gelu(x, approximate="none" if activation == "gelu" else "tanh")
    return Activation.formulas[activation](x)
