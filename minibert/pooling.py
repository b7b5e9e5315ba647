"""Token vectors -> one vector per sentence, and what may come after: Dense and Normalize.

The six ways are those of sentence-transformers' Pooling module; Sentence-BERT (arXiv 1908.10084, section 3) compares
cls, mean and max. Each is a pure function from token vectors (B, S, D) and a mask (B, S), True at real tokens, to
(B, D). Padding may be on the left or on the right. A row without a single token gives zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def cls(x: Tensor, mask: Tensor) -> Tensor:
    """The first real token's vector, raw: no dense layer, no tanh (those are `pooler_output`)."""
    return _pick(x, mask, mask.int().argmax(1))


def lasttoken(x: Tensor, mask: Tensor) -> Tensor:
    """The last real token's vector: [SEP] for BERT."""
    return _pick(x, mask, x.shape[1] - 1 - mask.int().flip(1).argmax(1))


def max(x: Tensor, mask: Tensor) -> Tensor:  # noqa: A001 - the published name
    """The largest number over the tokens, dimension by dimension."""
    highest = x.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1)
    return highest.masked_fill(~mask.any(1, keepdim=True), 0)


def mean(x: Tensor, mask: Tensor) -> Tensor:
    """The average over the real tokens, [CLS] and [SEP] among them."""
    return _weighted(x, mask) / _count(mask, x)


def mean_sqrt_len_tokens(x: Tensor, mask: Tensor) -> Tensor:
    """The sum over the real tokens, divided by the root of their number."""
    return _weighted(x, mask) / _count(mask, x).sqrt()


def weightedmean(x: Tensor, mask: Tensor) -> Tensor:
    """The average with weights 1, 2, 3, ... from the first real token on (SGPT, arXiv 2202.08904)."""
    weights = _places(mask) * mask
    return _weighted(x, weights) / _count(weights, x)


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": cls,
    "max": max,
    "mean": mean,
    "mean_sqrt_len_tokens": mean_sqrt_len_tokens,
    "weightedmean": weightedmean,
    "lasttoken": lasttoken,
}


# The same in one step, where no position is padding.
UNPADDED: dict[str, Callable[[Tensor], Tensor]] = {
    "cls": lambda x: x[:, 0],
    "max": lambda x: x.amax(1),
    "mean": lambda x: x.mean(1),
}


class Pooling(nn.Module):
    """One or several ways, side by side in the order given. x (B, S, D), mask (B, S) or None -> (B, ways * D)

    Without a mask nothing is padding. With ``include_prompt=False`` the first ``prompt_length`` tokens of each text
    ([CLS] and the prompt) do not count, as for INSTRUCTOR models; ``weightedmean`` still numbers the places from the
    first of them.

    Raises:
        ValueError: a way is unknown.
    """

    def __init__(self, modes: str | Sequence[str] = "mean", include_prompt: bool = True) -> None:
        super().__init__()
        self.modes = (modes,) if isinstance(modes, str) else tuple(modes)
        if not self.modes or not set(self.modes) <= set(POOLINGS):
            raise ValueError(f"pooling {modes!r} is unknown; there are {', '.join(POOLINGS)}, or several in a list")
        self.include_prompt = include_prompt

    def forward(self, x: Tensor, mask: Tensor | None, prompt_length: int = 0) -> Tensor:
        """Pool; ``prompt_length`` counts only without ``include_prompt``."""
        if (
            mask is None
            and len(self.modes) == 1
            and self.modes[0] in UNPADDED
            and (self.include_prompt or not prompt_length)
        ):
            return UNPADDED[self.modes[0]](x)
        mask = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
        if prompt_length and not self.include_prompt:
            kept = mask & (_places(mask) > prompt_length)
            weighted = _places(mask) * kept  # numbered as if the prompt were there
            return torch.cat(
                [
                    _weighted(x, weighted) / _count(weighted, x) if mode == "weightedmean" else POOLINGS[mode](x, kept)
                    for mode in self.modes
                ],
                dim=-1,
            )
        return torch.cat([POOLINGS[mode](x, mask) for mode in self.modes], dim=-1)

    def extra_repr(self) -> str:
        """What print(encoder) shows."""
        return ", ".join(self.modes) + ("" if self.include_prompt else ", without the prompt")


# The names that sentence-transformers writes, by their last part. Looked up here and never imported.
DENSE_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
    "ReLU": torch.relu,
    "Sigmoid": torch.sigmoid,
    "GELU": nn.functional.gelu,
}


class Dense(nn.Module):
    """A linear layer and an activation after the pooling. (B, in) -> (B, out)

    With ``residual`` the input is added to the result, through a matrix without bias where the widths differ.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: str = "Tanh",
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.activation = activation
        self.use_residual = residual
        self.residual = (
            nn.Linear(in_features, out_features, bias=False) if residual and in_features != out_features else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Through the layer, in the precision of its weights."""
        x = x.to(self.linear.weight.dtype)
        out = DENSE_ACTIVATIONS[self.activation](self.linear(x))
        if self.use_residual:
            out = out + (x if self.residual is None else self.residual(x))
        return out


class Normalize(nn.Module):
    """Scale each vector to length 1, so that the dot product is the cosine. (B, D) -> (B, D)"""

    def forward(self, x: Tensor) -> Tensor:
        """A vector of zeros stays zeros."""
        return nn.functional.normalize(x, dim=-1)


def _places(mask: Tensor) -> Tensor:
    """1, 2, 3, ... from the first real token on. (B, S) -> (B, S)"""
    return torch.arange(1, mask.shape[1] + 1, device=mask.device) - mask.int().argmax(1, keepdim=True)


def _weighted(x: Tensor, weights: Tensor) -> Tensor:
    # einsum would be shorter, but sums NaNs of padding in; a masked-out position must not count whatever it holds.
    return (x.masked_fill((weights == 0).unsqueeze(-1), 0) * weights.unsqueeze(-1)).sum(1)


def _count(weights: Tensor, x: Tensor) -> Tensor:
    return weights.sum(1, keepdim=True).clamp(min=1).to(x.dtype)


def _pick(x: Tensor, mask: Tensor, index: Tensor) -> Tensor:
    rows = torch.arange(len(x), device=x.device)
    return x[rows, index].masked_fill(~mask.bool().any(1, keepdim=True), 0)
