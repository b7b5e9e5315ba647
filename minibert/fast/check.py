"""Before the stack is used in a process: does it compute what the page computes?

Someone may have edited `model.py`, or patched a class of it. A reader who changes a formula expects `encode` to use it.
"""

from __future__ import annotations

import threading
import warnings
from typing import Any

import numpy as np
import torch

from ..config import ClassifierConfig
from ..fused import fuse, unfuse
from ..heads import BertForSequenceClassification
from ..model import EncoderOutput
from ..pooling import POOLINGS, Pooling
from ..tokenizer import Tokens
from ..truncation import TruncationReport
from .changes import PAGE, Code
from .stack import FastEmbeddings, FastLayer, PlainLinear, Stack
from .tokens import PackedTokens

TOLERANCE = 1e-9  # in float64 the two differ by some 1e-15, and any edit by more
_lock = threading.Lock()
_code = Code(PAGE)  # as it was when it was checked
_results: dict[tuple[str, float, int], bool] = {}


def page_is_known(activation: str, eps: float, depth: int = 2) -> bool:
    """Return True if a small random BERT has the same states on the page and in the stack; milliseconds, then cached.

    Where they differ, one warning says so. It is checked again when a class of the page was changed since.
    """
    global _code
    with _lock:
        if not _code.holds():
            _code = Code(PAGE)
            _results.clear()
        kind = activation, eps, depth
        if kind not in _results:
            _results[kind] = _compare(*kind)
            if not _results[kind]:
                what = "the page (minibert/model.py, or a class of it) was changed: it computes other numbers than the "
                warnings.warn(f"{what}fast stack. encode uses the page itself, which is slower", stacklevel=2)
        return _results[kind]


def _compare(activation: str, eps: float, depth: int) -> bool:
    """Run a classifier and the poolings on three texts in float64, whatever dtype, device or mode torch is set to."""
    lengths = np.array([66, 4, 4])
    ids = (np.arange(lengths.sum(), dtype=np.int32) % 28) + 1
    tokens = Tokens(ids, (ids % 3 == 0).astype(np.int8), np.cumsum([0, *lengths]), TruncationReport())
    real = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])  # (B, S)
    sizes: Any = {"vocab_size": 29, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    config = ClassifierConfig(
        **sizes, max_position_embeddings=66, num_hidden_layers=depth, hidden_act=activation, layer_norm_eps=eps
    )
    modes = torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.autocast("cpu", enabled=False)
    with modes[0], modes[1], modes[2], torch.no_grad():
        try:
            with torch.device("cpu"):
                model, generator = (
                    BertForSequenceClassification(config).double().eval(),
                    torch.Generator().manual_seed(0),
                )
                batch = torch.zeros(2, *real.shape, dtype=torch.int64)
            bert: Any = model.bert
            for parameter in model.parameters():
                parameter.normal_(std=0.5, generator=generator)
            batch[0, real], batch[1, real] = (torch.from_numpy(x).long() for x in (ids, tokens.types))
            stack = Stack(bert, FastEmbeddings(bert.embeddings), [FastLayer(x, PlainLinear) for x in bert.layers])
            texts = PackedTokens(tokens, np.arange(len(lengths)))
            x, first = stack(texts), stack(texts, first_only=True)
            scores = model.read(EncoderOutput(first, bert.pooler(first))).logits
            found = [x[real], scores, Pooling("cls")(first, None), *(Pooling(mode)(x, real) for mode in POOLINGS)]
            for exchange in (unfuse, fuse):  # the page's own parts, and the fused ones
                scores, states = exchange(model)(batch[0], real, batch[1])
                expected = [states[real], scores, Pooling("cls")(states, real)]
                expected += [Pooling(mode)(states, real) for mode in POOLINGS]
                if not all(torch.allclose(x, y, rtol=0, atol=TOLERANCE) for x, y in zip(found, expected, strict=True)):
                    return False
        except Exception:  # whatever a changed page raises, it raises again where the user sees it
            return False
    return True
