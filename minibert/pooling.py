"""Token vectors -> one vector per sentence, and the modules that may follow: Dense and Normalize. Below: SPLADE's.

The six modes are those of sentence-transformers' Pooling module. Sentence-BERT (arXiv 1908.10084, section 3) compares
cls, mean and max. Each is a pure function from token vectors (B, S, D) and a mask (B, S), True at tokens, to (B, D).
Padding may be on the left or on the right. A row without a single token gives zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def cls(x: Tensor, mask: Tensor) -> Tensor:
    """Return the first token's vector, raw: no dense layer, no tanh (those are `pooler_output`)."""
    return _pick(x, mask, mask.int().argmax(1))


def lasttoken(x: Tensor, mask: Tensor) -> Tensor:
    """Return the last token's vector: [SEP] for BERT."""
    return _pick(x, mask, x.shape[1] - 1 - mask.int().flip(1).argmax(1))


def max(x: Tensor, mask: Tensor) -> Tensor:  # noqa: A001 - the published name
    """Return the maximum over the tokens, dimension by dimension."""
    highest = x.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1)
    return highest.masked_fill(~mask.any(1, keepdim=True), 0)


def mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the tokens, [CLS] and [SEP] included."""
    return _weighted_mean(x, mask)


def mean_sqrt_len_tokens(x: Tensor, mask: Tensor) -> Tensor:
    """Return the sum over the tokens, divided by the square root of their number."""
    return _weighted_sum(x, mask) / _total(x, mask).sqrt()


def weightedmean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean with weights 1, 2, 3, ... from the first token on (SGPT, arXiv 2202.08904)."""
    return _weighted_mean(x, _positions(mask) * mask)


_FUNCTIONS = (cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken)
POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {pooling.__name__: pooling for pooling in _FUNCTIONS}

# The same modes in one operation, for batches without padding.
UNPADDED: dict[str, Callable[[Tensor], Tensor]] = {
    "cls": lambda x: x[:, 0],
    "max": lambda x: x.amax(1),
    "mean": lambda x: x.mean(1),
}


class Pooling(nn.Module):
    """Pool by one or several modes, side by side. x (B, S, D), mask (B, S) or None -> (B, modes * D)

    Without a mask nothing is padding. With ``include_prompt=False`` the first ``prompt_length`` tokens of each text
    ([CLS] and the prompt) are left out, as INSTRUCTOR models need. ``weightedmean`` still counts positions from the
    first of them. Raises ValueError if a mode is unknown.
    """

    def __init__(self, modes: str | Sequence[str] = "mean", include_prompt: bool = True) -> None:
        super().__init__()
        self.modes = (modes,) if isinstance(modes, str) else tuple(modes)
        if not self.modes or not set(self.modes) <= set(POOLINGS):
            raise ValueError(f"pooling {modes!r} is unknown: choose {', '.join(POOLINGS)}, or a list of them")
        self.include_prompt = include_prompt

    def forward(self, x: Tensor, mask: Tensor | None, prompt_length: int = 0) -> Tensor:
        """Pool all tokens, or those after the prompt. Raise ValueError for a mask that is not (B, S)."""
        if mask is not None and mask.ndim != 2:
            raise ValueError(f"a pooling needs a mask (B, S), not {tuple(mask.shape)}")
        skipped = 0 if self.include_prompt else prompt_length
        if mask is None and not skipped and len(self.modes) == 1 and self.modes[0] in UNPADDED:
            return UNPADDED[self.modes[0]](x)
        mask = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
        if not skipped:
            return torch.cat([POOLINGS[mode](x, mask) for mode in self.modes], dim=-1)
        kept = mask & (_positions(mask) > skipped)
        weights = _positions(mask) * kept  # counted from the prompt's first token, as sentence-transformers does
        functions = POOLINGS | {"weightedmean": lambda x, _: _weighted_mean(x, weights)}
        return torch.cat([functions[mode](x, kept) for mode in self.modes], dim=-1)

    def extra_repr(self) -> str:
        """Return the text that print(encoder) shows."""
        return ", ".join(self.modes) + ("" if self.include_prompt else ", without the prompt")


# By the last part of the names that sentence-transformers writes, which are looked up here and never imported.
DENSE_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Identity": torch.positive,  # which returns its input and, unlike a lambda, can be pickled
    "Tanh": torch.tanh,
    "ReLU": torch.relu,
    "Sigmoid": torch.sigmoid,
    "GELU": nn.functional.gelu,
}


class Dense(nn.Module):
    """Apply a linear layer and an activation after the pooling. (B, in) -> (B, out)

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
        projected = residual and in_features != out_features
        self.residual = nn.Linear(in_features, out_features, bias=False) if projected else None

    def forward(self, x: Tensor) -> Tensor:
        """Compute in the dtype of the weights."""
        x = x.to(self.linear.weight.dtype)
        out = DENSE_ACTIVATIONS[self.activation](self.linear(x))
        if not self.use_residual:
            return out
        return out + (x if self.residual is None else self.residual(x))


def normalize(x: Tensor) -> Tensor:
    """Scale vectors to length 1; a zero vector stays zero. (..., D) -> (..., D)

    16 bits are too few for lengths: in float16, those above 65504 are infinite, and the least one that torch divides
    by, 1e-12, is 0.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return nn.functional.normalize(wide, dim=-1).to(x.dtype)


class Normalize(nn.Module):
    """Scale each vector to length 1, so that the dot product is the cosine. (B, D) -> (B, D)"""

    def forward(self, x: Tensor) -> Tensor:
        """Return unit vectors; a zero vector stays zero."""
        return normalize(x)


# By the names that sentence-transformers writes: the logarithm once (SPLADE, arXiv 2107.05720) or twice (2504.14839).
SPLADE_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: torch.relu(x).log1p(),
    "log1p_relu": lambda x: torch.relu(x).log1p().log1p(),
}
SPLADE_STRATEGIES = ("max", "sum")


class SpladePooling(nn.Module):
    """Weigh each word of the vocabulary in a text. Scores (B, S, V) and a mask (B, S) or None -> (B, V)

    The weight is the highest log(1 + relu(score)) over the tokens, or their sum. Padding never counts.
    Raises ValueError if the strategy or the activation is unknown.
    """

    def __init__(self, pooling_strategy: str = "max", activation_function: str = "relu") -> None:
        super().__init__()
        self.pooling_strategy, self.activation_function = pooling_strategy, activation_function
        for name, known in (("pooling_strategy", SPLADE_STRATEGIES), ("activation_function", SPLADE_ACTIVATIONS)):
            if (value := getattr(self, name)) not in list(known):
                raise ValueError(f"{name} {value!r:.80} is unknown: choose {' or '.join(known)}")

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool all tokens."""
        return self.finish(self.reduce(scores, mask))

    def reduce(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Do what needs each token's scores, of all words or of some. (B, S, C) -> (B, C)"""
        if self.pooling_strategy == "sum":  # sums lose too much in half precision
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            weights = SPLADE_ACTIVATIONS[self.activation_function](scores)
            return (weights if mask is None else weights.masked_fill(~mask.unsqueeze(-1), 0)).sum(1)
        if mask is not None:
            scores = scores.masked_fill(~mask.unsqueeze(-1), -torch.inf)
        return scores.max(1).values if scores.requires_grad else scores.amax(1)  # the gradient of max keeps less

    def finish(self, pooled: Tensor) -> Tensor:
        """Activate what was reduced, any shape. The activations rise, so they need not come before the maximum."""
        return SPLADE_ACTIVATIONS[self.activation_function](pooled) if self.pooling_strategy == "max" else pooled

    def extra_repr(self) -> str:
        """Return the text that print(encoder) shows."""
        return f"{self.pooling_strategy}, {self.activation_function}"


def _positions(mask: Tensor) -> Tensor:
    """Return 1, 2, 3, ... from the first token on. (B, S) -> (B, S)"""
    return torch.arange(1, mask.shape[1] + 1, device=mask.device) - mask.int().argmax(1, keepdim=True)


def _weighted_sum(x: Tensor, weights: Tensor) -> Tensor:
    # einsum would be shorter, but it would add padding's NaNs. A masked position must not count, whatever it holds.
    return (x.masked_fill((weights == 0).unsqueeze(-1), 0) * weights.unsqueeze(-1)).sum(1)


def _total(x: Tensor, weights: Tensor) -> Tensor:
    return weights.sum(1, keepdim=True).clamp(min=1).to(x.dtype)


def _weighted_mean(x: Tensor, weights: Tensor) -> Tensor:
    return _weighted_sum(x, weights) / _total(x, weights)


def _pick(x: Tensor, mask: Tensor, index: Tensor) -> Tensor:
    rows = torch.arange(len(x), device=x.device)
    return x[rows, index].masked_fill(~mask.bool().any(1, keepdim=True), 0)
