"""The checkpoint's pooling in torch, as cheap as it can be, for transformers and for what is made of it."""

from __future__ import annotations

import torch
from torch import Tensor

from .job import Model


def pool(model: Model, x: Tensor, mask: Tensor | None) -> Tensor:
    """Sentence vectors, in float32 at least. x (B, S, D), mask (B, S) or None where nothing is padded -> (B, D)"""
    if model.pooling == "cls":
        vectors = x[:, 0]
    elif mask is None:
        vectors = x.mean(1, dtype=torch.promote_types(x.dtype, torch.float32))
    else:
        weights = mask.to(torch.promote_types(x.dtype, torch.float32))
        vectors = (weights.unsqueeze(1) @ x.to(weights.dtype)).squeeze(1) / weights.sum(1, keepdim=True)
    vectors = vectors.to(torch.promote_types(x.dtype, torch.float32))
    return torch.nn.functional.normalize(vectors, dim=-1) if model.normalize else vectors
