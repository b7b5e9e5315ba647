"""BERT on one page (arXiv 1810.04805; its layers are those of "Attention is all you need", arXiv 1706.03762).

Read from top to bottom: the small parts first, then the layer, then the whole. Seven letters give the shapes:

    B batch                          H heads
    S sequence, in tokens            K head size (the paper's d_k; D = H * K)
    D hidden size                    F intermediate size, inside the feed-forward
    V vocabulary

What makes BERT BERT:
  * post-norm: each sub-layer adds to its input and the SUM is normalised. States between layers are normalised
    already, so there is no norm at the end (GPT-2 and its kin normalise first: "pre-norm");
  * every position attends to every other, left and right; only padding is masked;
  * positions are learned vectors, added to those of the token and of the sentence (token type);
  * GELU is exact, by erf, and the variance of layer norm is biased, with eps 1e-12.

Nothing here knows of files, text or the network. Any part can be replaced by assignment. Its contract is the first
line of its docstring. Weights are named as on this page (`layers.3.attention.query.weight`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from .config import BertConfig

if TYPE_CHECKING:
    import os
    from collections.abc import Collection

    from typing_extensions import Self, Unpack

    from .checkpoint.hub import HubOptions


class LayerNorm(nn.Module):
    """Shift and scale each position's vector to mean 0 and variance 1, then by learned weights. (B, S, D) -> same"""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # In half precision eps 1e-12 would round to 0 and squares would overflow: compute at least in float32.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = wide - wide.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)  # biased: divided by D, not D - 1
        return (centred / torch.sqrt(variance + self.eps) * self.weight + self.bias).to(x.dtype)


def gelu(x: Tensor) -> Tensor:
    """Scale x by the chance that a standard normal number is below it (arXiv 1606.08415): exact, by erf."""
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def gelu_new(x: Tensor) -> Tensor:
    """The tanh approximation of gelu, up to 5e-4 away from it: Google's own code, and few published checkpoints."""
    return x * 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


class Activation(nn.Module):
    """Apply the non-linearity that config.json calls `hidden_act`, number by number. Any shape -> same"""

    formulas = {"gelu": gelu, "gelu_new": gelu_new, "relu": torch.relu, "silu": nn.functional.silu}

    def __init__(self, hidden_act: str) -> None:
        super().__init__()
        self.formula = self.formulas[hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(x)


class Embeddings(nn.Module):
    """Sum three vectors: the token's, its position's and its sentence's. (B, S) ids -> (B, S, D)"""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.token = nn.Embedding(config.vocab_size, D, padding_idx=config.pad_token_id)
        # With relative positions, attention takes care of the order of words instead.
        absolute = config.position_embedding_type == "absolute"
        self.position = nn.Embedding(config.max_position_embeddings, D) if absolute else None
        self.token_type = nn.Embedding(config.type_vocab_size, D)
        self.norm = LayerNorm(D, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)  # everything is the first sentence
        x = self.token(input_ids) + self.token_type(token_type_ids)  # (B, S, D)
        if self.position is not None:
            x = x + self.position(torch.arange(input_ids.shape[1], device=input_ids.device))
        return self.dropout(self.norm(x))


class RelativePositions(nn.Module):
    """Score how far apart two positions are (arXiv 2009.13658). q, k (B, H, S, K) -> bias (B, H, S, S)"""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.furthest = config.max_position_embeddings - 1
        self.distance = nn.Embedding(2 * self.furthest + 1, config.head_size)
        self.with_key = config.position_embedding_type == "relative_key_query"

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        place = torch.arange(q.shape[2], device=q.device)
        apart = self.distance(place[:, None] - place[None, :] + self.furthest)  # (S, S, K), row: query, column: key
        bias = torch.einsum("bhqk,qsk->bhqs", q, apart)
        if self.with_key:
            bias = bias + torch.einsum("bhsk,qsk->bhqs", k, apart)
        return bias / math.sqrt(q.shape[-1])


class ScaledDotProductAttention(nn.Module):
    """Attend: softmax(q kᵀ / sqrt(K) + bias) v, without weights. q, k, v (B, H, S, K) -> (B, H, S, K)

    `mask` is True where a key may be attended to. It broadcasts to (B, H, S, S), as `bias` does. `scores` and `probs`
    do nothing but name two values worth watching, both (B, H, S, S) and before dropout.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.scores = nn.Identity()
        self.probs = nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, S, S)
        scores = self.scores(scores if bias is None else scores + bias)
        if mask is not None:
            # The lowest finite number, not -inf: a row that is all padding must stay finite, and not become NaN.
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        probs = self.probs(torch.softmax(scores, dim=-1))
        return self.dropout(probs) @ v  # (B, H, S, K)


class MultiHeadAttention(nn.Module):
    """Let every position attend to every other, in H independent heads. x (B, S, D), mask or None -> (B, S, D)"""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.head_size = config.head_size
        self.query = nn.Linear(D, D)
        self.key = nn.Linear(D, D)
        self.value = nn.Linear(D, D)
        self.relative = None if config.position_embedding_type == "absolute" else RelativePositions(config)
        self.core = ScaledDotProductAttention(config.attention_probs_dropout_prob)
        self.out = nn.Linear(D, D)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (self.split(project(x)) for project in (self.query, self.key, self.value))
        bias = None if self.relative is None else self.relative(q, k)
        attended = self.core(q, k, v, mask, bias)  # (B, H, S, K)
        return self.out(attended.transpose(1, 2).flatten(2))  # (B, S, D)

    def split(self, x: Tensor) -> Tensor:
        """Split each vector into its heads. (B, S, D) -> (B, H, S, K)"""
        return x.unflatten(-1, (-1, self.head_size)).transpose(1, 2)


class FeedForward(nn.Module):
    """Widen each position by itself, activate, narrow. (B, S, D) -> (B, S, D)"""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = Activation(config.hidden_act)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))  # (B, S, F) in between


class EncoderLayer(nn.Module):
    """Attend, then feed forward; each adds to its input, and the sum is normalised. x (B, S, D), mask -> (B, S, D)"""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config)
        self.attention_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, mask)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class Encoder(nn.ModuleList):
    """Apply the layers one after another; `layers[3]` is the fourth. x (B, S, D), mask -> (B, S, D)"""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self:
            x = layer(x, mask)
        return x


class Pooler(nn.Module):
    """Apply a dense layer and tanh to the [CLS] vector, as trained for next sentences. (B, S, D) -> (B, D)

    CLS pooling of sentence encoders is not this. It is the vector that goes in here, `last_hidden_state[:, 0]`.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.dense(x[:, 0]))


class EncoderOutput(NamedTuple):
    """The output of `Bert`: `last_hidden_state` (B, S, D), and `pooler_output` (B, D), or None without a pooler."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None


class Bert(nn.Module):
    """Turn token ids into one vector per token. (B, S) -> EncoderOutput

    `Bert(config)` has fresh random weights and is in training mode, as any module of torch. `from_pretrained` loads
    published weights, in eval mode.
    """

    report: Any = None  # after from_pretrained: the LoadReport, which accounts for every tensor

    def __init__(self, config: BertConfig, pooler: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = Encoder(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.pooler = Pooler(config) if pooler else None
        self.apply(self.initialise)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> EncoderOutput:
        """Run the whole page.

        Args:
            input_ids: (B, S) whole numbers below V, int64 or int32.
            attention_mask: (B, S), bool or 0/1: True at a token, False at padding. Or (B, S, S), where [b, i, j] is
                True if i may attend to j. None: no padding.
            token_type_ids: (B, S): 0 for the first sentence, 1 for the second. None: all 0.

        Raises:
            ValueError: S is 0 or above max_position_embeddings, shapes disagree, or an id is out of its range.
            TypeError: ids that are not int64 or int32, a mask of floating-point numbers.
        """
        self.config.check_batch(input_ids, attention_mask, token_type_ids)
        mask = None
        if attention_mask is not None:
            mask = attention_mask.bool().unsqueeze(1)  # one mask for all heads
            mask = mask.unsqueeze(1) if mask.ndim == 3 else mask  # (B, 1, 1 or S, S)
        x = self.embeddings(input_ids, token_type_ids)
        x = self.layers(x, mask)
        return EncoderOutput(x, None if self.pooler is None else self.pooler(x))

    def initialise(self, module: nn.Module) -> None:
        """Draw fresh weights as in the paper: normal with `initializer_range`; 0 for biases and the padding token."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()

    @classmethod
    def for_checkpoint(cls, config: BertConfig, names: Collection[str]) -> Self:
        """Build the model that a checkpoint fills: it has a pooler if the tensors' names have one."""
        return cls(config, pooler="pooler.dense.weight" in names)

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], *, device: Any = None, dtype: Any = None, **hub: Unpack[HubOptions]
    ) -> Self:
        """Load published weights from a folder or the hub, in eval mode; see `checkpoint.load.load_bert`."""
        from .checkpoint.load import load_bert  # only these two methods know that files exist

        return load_bert(name, into=cls, device=device, dtype=dtype, **hub)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json and model.safetensors as transformers reads them; see `checkpoint.save.save_model`."""
        from .checkpoint.save import save_model

        save_model(self, folder, lambda: Bert(self.config, pooler=self.pooler is not None))
