"""The stack on a GPU, in the dtype of the weights: what is chosen there, what is checked, what the page does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..call import upload
from ..display import warn
from ..fast.check import example, in_plain_modes
from ..fast.stack import FastEmbeddings, FastLayer, PlainLinear, Stack
from ..fast.tokens import PackedTokens
from ..model import Bert, EncoderLayer
from ..tokenizer import Tokens
from .graphs import WARM, Card, Graphs, reason
from .tokens import CudaTokens, attend, attend_first, suits_varlen, varlen_operator

# How far states of a small random BERT, of size 1, may be from the page's in the same dtype on the same device. On a
# CPU they differ by up to 2e-6, 4e-3 and 0.03; where tokens attend to a neighbour's, by 0.1 to 0.3.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, "tf32": 0.012, torch.float16: 0.012, torch.bfloat16: 0.08}
MOST_TOKENS = 512  # of a text that a graph is recorded for


# What the check has shown, by `CudaLayer.kind`: use torch's variable-length attention? Why does the page compute?
_trials: dict[tuple[Any, ...], tuple[bool, str]] = {}


class CudaLayer(FastLayer):
    """The same layer by torch's operators for GPUs. Where one of them fails, the page's code computes the layer."""

    attend, attend_first = staticmethod(attend), staticmethod(attend_first)  # type: ignore[assignment]

    def __init__(self, layer: EncoderLayer, *, strict: bool = False) -> None:
        super().__init__(layer, PlainLinear)
        self.strict, self.failure = strict, ""  # strict: raise, and do not leave it to the page

    @property
    def kind(self) -> tuple[Any, ...]:
        """All that decides which operators compute it."""
        weight = self.attention_norm[1]
        return weight.device, weight.dtype, self.head_size, self.activation, self.attention_norm[-1], *settings()

    def __call__(self, x: Tensor, texts: PackedTokens) -> Tensor:
        """Compute all tokens. (T, D) -> (T, D)"""
        y = self._try(super().__call__, x, texts)
        return texts.pack(self.layer(texts.unpack(x), texts.attended)) if y is None else y

    def first(self, x: Tensor, texts: PackedTokens) -> Tensor:
        """Compute each text's first token only. (T, D) -> (B, D)"""
        y = self._try(super().first, x, texts)
        return self.layer(texts.unpack(x), texts.attended).select(1, 0) if y is None else y

    def _try(self, compute: Callable[..., Tensor], x: Tensor, texts: PackedTokens) -> Tensor | None:
        if not self.failure:
            try:
                return compute(x, texts)
            except RuntimeError as error:
                recording = x.is_cuda and torch.cuda.is_current_stream_capturing()
                if self.strict or recording or isinstance(error, torch.OutOfMemoryError):
                    raise
                self.failure = f"{self.kind[0]} could not compute the stack: {reason(error)}"
            _trials[self.kind] = False, self.failure
            warn(f"{self.failure}. The page computes, which is slower")
        return None


class CudaStack(Stack):
    """The embeddings and layers of a Bert on a GPU. A text's NaN stays in it: texts are never attended together."""

    def __init__(self, bert: Bert, embeddings: Any, layers: Sequence[Any], varlen: bool | None = None) -> None:
        super().__init__(bert, embeddings, layers)
        used = [layer for layer in layers if layer is not None]
        self.varlen = all(_trials[layer.kind][0] for layer in used) if varlen is None else varlen
        self.graphs = Graphs(Card(next(bert.parameters()).device))
        self.note = self.graphs.failure
        # Weights that a graph reads where they are; others are copies, or make another stack when they change.
        norms = [x for layer in used for x in (*layer.attention_norm, *layer.feed_forward_norm)]
        norms += [] if embeddings is None else [*vars(embeddings).values(), *embeddings.norm]
        self.read = [x for x in norms if isinstance(x, Tensor)]

    @classmethod
    def why_not(cls, layers: Sequence[Any]) -> str:
        """Say why such layers can't be computed here, after a check of each new kind; "" where they can."""
        return next((why for layer in layers if (why := try_out(layer)[1])), "")

    @property
    def failure(self) -> str:  # type: ignore[override]
        """Why a layer was left to the page during a call; "" where none was."""
        return next((layer.failure for layer in self.layers if isinstance(layer, CudaLayer) and layer.failure), "")

    def compute(self, tokens: Tokens, rows: np.ndarray, *, first_only: bool) -> tuple[Tensor, Tensor | None]:
        """Return some texts' last hidden states and a mask (B, S) where there is padding. Nothing waits."""
        lengths, whole = tokens.lengths[rows], self.embeddings is not None and None not in self.layers
        alone = whole and len(rows) == 1 and int(lengths[0]) <= MOST_TOKENS
        texts = CudaTokens(tokens, rows, varlen=self.varlen, bucketed=alone)

        def states(numbers: Tensor) -> Tensor:
            texts.place(numbers)
            return self(texts, first_only=first_only)

        if alone and not torch._C._len_torch_dispatch_stack():  # such a mode is to see each operator
            guard = *settings(), *[weight.data_ptr() for weight in self.read]
            x = self.graphs.run((texts.shape[1], first_only, texts.varlen), guard, texts.numbers, states)
        else:
            x = states(upload(texts.numbers, self.graphs.card.device))
        if first_only:  # a text without tokens has no first one, as the mask says
            return x, None if texts.mask is None or lengths.min() else texts.mask.narrow(1, 0, 1)
        return x[:, : lengths.max()], texts.mask


def settings() -> tuple[object, ...]:
    """Return torch's settings that change what products give."""
    products = torch.backends.cuda.matmul
    reduced = products.allow_fp16_reduced_precision_reduction, products.allow_bf16_reduced_precision_reduction
    return products.fp32_precision, *reduced, torch.are_deterministic_algorithms_enabled()


def try_out(layer: CudaLayer) -> tuple[bool, str]:
    """Compare such layers with the page where they will compute, once. Where that fails, one warning says so."""
    device, dtype, head_size, *_ = kind = layer.kind
    if kind in _trials:
        return _trials[kind]
    capable = suits_varlen(dtype, head_size, torch.cuda.get_device_capability(device)) and varlen_operator() is not None
    varlen = capable and not differs(layer, varlen=True)
    if why := "" if varlen else differs(layer, varlen=False):
        why = f"on {device}, in {str(dtype).removeprefix('torch.')}, the stack {why}"
        warn(f"{why}. encode uses the page, which is slower")
    _trials[kind] = varlen, why
    return varlen, why


def differs(layer: CudaLayer, varlen: bool) -> str:
    """Say how such layers are not as the page, on three texts together and alone; "" where they are."""
    device, dtype, head_size, activation, eps, precision, *_ = layer.kind
    apart: list[Tensor] = []
    try:
        with in_plain_modes(device.type):
            bert, tokens, real, expected = example(dtype, activation, eps, 2, head_size, device)
            layers = [CudaLayer(each, strict=True) for each in bert.layers]
            stack = CudaStack(bert, FastEmbeddings(bert.embeddings), layers, varlen)
            for rows, first_only in product(
                (np.arange(3), *np.arange(3)[:, None], *[np.arange(1)] * WARM), (False, True)
            ):
                x, _ = stack.compute(tokens, rows, first_only=first_only)
                at = torch.from_numpy(rows).to(device)
                apart.append((x - expected[at, : x.shape[1]])[real[at, : x.shape[1]]].double().abs().max())
            most = float(torch.stack(apart).max())
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an unknown card raises
        return f"raises {reason(error)}"
    allowed = TOLERANCES.get("tf32" if dtype is torch.float32 and precision == "tf32" else dtype, 0.0)
    return "" if most <= allowed else f"differs from the page by {most:.0e}"
