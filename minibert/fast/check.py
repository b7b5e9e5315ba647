"""Before the stack is used in a process: does it compute what the page computes?

Someone may have edited `model.py`, or patched a class of it. A reader who changes a formula expects `encode` to use it.
"""

from __future__ import annotations

import threading
import warnings
from operator import is_
from typing import Any

import numpy as np
import torch

from ..config import BertConfig
from ..model import Bert
from ..tokenizer import Tokens
from ..truncation import TruncationReport
from .changes import page_code
from .stack import FastEmbeddings, FastLayer, PlainLinear, Stack
from .tokens import PackedTokens

# In float64 the two differ by some 1e-15, and any edit by more.
TOLERANCE = 1e-9
_lock = threading.Lock()
_code: list[object] = []  # of the page, as it was when it was checked
_results: dict[tuple[str, float], bool] = {}


def page_is_known(activation: str, eps: float) -> bool:
    """Return True if a small random BERT has the same states on the page and in the stack; milliseconds, then cached.

    Where they differ, one warning says so. It is checked again when a class of the page was changed since.
    """
    with _lock:
        code = page_code()
        if len(code) != len(_code) or not all(map(is_, code, _code)):
            _code[:] = code
            _results.clear()
        if (activation, eps) not in _results:
            _results[activation, eps] = _compare(activation, eps)
            if not _results[activation, eps]:
                warnings.warn(
                    "the page (minibert/model.py, or a class of it) was changed: it computes other numbers than the "
                    "fast stack. encode uses the page itself, which is slower",
                    stacklevel=2,
                )
        return _results[activation, eps]


def _compare(activation: str, eps: float) -> bool:
    """Run two layers on three texts in float64, whatever dtype, device or mode torch is set to."""
    lengths = np.array([7, 4, 4])
    ids = np.arange(1, 1 + lengths.sum(), dtype=np.int32)
    tokens = Tokens(ids, (ids % 3 == 0).astype(np.int8), np.cumsum([0, *lengths]), TruncationReport())
    real = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])  # (B, S)
    config = BertConfig(
        vocab_size=29,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=9,
        hidden_act=activation,
        layer_norm_eps=eps,
    )
    modes = torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.autocast("cpu", enabled=False)
    with modes[0], modes[1], modes[2], torch.device("cpu"), torch.no_grad():
        try:
            bert: Any = Bert(config, pooler=False).double().eval()
            generator = torch.Generator().manual_seed(0)
            for parameter in bert.parameters():
                parameter.normal_(std=0.5, generator=generator)
            batch = torch.zeros(2, *real.shape, dtype=torch.int64)
            batch[0, real], batch[1, real] = (torch.from_numpy(x).long() for x in (ids, tokens.types))
            expected = bert(batch[0], real, batch[1]).last_hidden_state[real]
            stack = Stack(bert, FastEmbeddings(bert.embeddings), [FastLayer(x, PlainLinear) for x in bert.layers])
            result = stack(PackedTokens(tokens, np.arange(len(lengths))))[real]
        except Exception:  # whatever a changed page raises, it raises again where the user sees it
            return False
    return result.shape == expected.shape and bool((result - expected).abs().max() < TOLERANCE)
