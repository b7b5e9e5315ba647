"""Before the stack is used: did someone edit `model.py`, or patch a class of it, and expect `encode` to use that?"""

from __future__ import annotations

import ast
import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from .. import heads, model, pooling
from ..config import BertConfig
from ..display import warn
from ..tokenizer import Tokens
from ..truncation import TruncationReport
from .changes import PAGE, Code
from .stack import FastEmbeddings, FastLayer, PlainLinear, Stack
from .tokens import PackedTokens

TOLERANCE = 1e-9  # in float64 the two differ by some 1e-15
SOURCES = model, heads, pooling
# Digests of the sources, and of their code without comments and docstrings. A test tells the new ones after an edit.
TEXT, CODE = "8684bfc37946ab619c89269824c828ae", "c5e70f7b6490d2396cb4046ef176c1e4"
_imported = Code(PAGE)
_warned: list[Code] = []  # of what was warned already


def page_is_known(activation: str, eps: float, depth: int = 2) -> bool:
    """Return True if sources and classes are unchanged, and page and stack give a small random BERT the same states.

    It takes milliseconds, once a process. Otherwise one warning says that the page computes.
    """
    if _imported.holds() and _is_unedited() and _compare(activation, eps, depth):
        return True
    if not any(code.holds() for code in _warned):
        _warned[:] = [Code(PAGE)]
        what = "the page (minibert/model.py, or a class of it) was changed, so the fast stack does not stand for it"
        warn(f"{what}. encode uses the page itself, which is slower")
    return False


@cache
def _is_unedited() -> bool:
    try:
        texts = [inspect.getsource(source) for source in SOURCES]
    except OSError:  # without sources there is nothing to edit
        return True
    return _digest(texts) == TEXT or _digest(map(_code_of, texts)) == CODE


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]


def _code_of(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            body[0] = ast.Pass()
    return ast.unparse(tree)


@cache
def _compare(activation: str, eps: float, depth: int) -> bool:
    return difference(partial(FastLayer, arithmetic=PlainLinear), torch.float64, activation, eps, depth) <= TOLERANCE


def difference(
    make: Callable[[Any], FastLayer], dtype: torch.dtype, activation: str, eps: float = 1e-12, depth: int = 2
) -> float:
    """Return how far a stack of such layers is from the page on three texts, whatever mode torch is in; or infinity."""
    with in_plain_modes():
        try:
            bert, tokens, real, expected = example(dtype, activation, eps, depth)
            stack = Stack(bert, FastEmbeddings(bert.embeddings), list(map(make, bert.layers)))
            states = stack(PackedTokens(tokens, np.arange(len(real))))
        except Exception:  # whatever a changed page raises, it raises again where the user sees it
            return math.inf
    apart = (states - expected)[real].abs().max().item()
    return apart if math.isfinite(apart) else math.inf


@contextmanager
def in_plain_modes(device: str = "cpu") -> Iterator[None]:
    """Compute as if torch had just been imported: without gradients, autocast, inference mode, or a change of seed."""
    modes = torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.autocast(device, enabled=False)
    with modes[0], modes[1], modes[2], torch.no_grad():
        yield


def example(
    dtype: torch.dtype, activation: str, eps: float, depth: int, head_size: int = 8, device: Any = "cpu"
) -> tuple[Any, Tokens, torch.Tensor, torch.Tensor]:
    """Return a small random Bert, three texts, where (B, S) they have tokens, and the page's states (B, S, D)."""
    ids = np.arange(1, 28, dtype=np.int32)
    tokens = Tokens(ids, (ids % 3 == 0).astype(np.int8), np.array([0, 19, 23, 27]), TruncationReport())
    texts = PackedTokens(tokens, np.arange(3))
    sizes: Any = {"vocab_size": 29, "hidden_size": 2 * head_size, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 3 * head_size, "max_position_embeddings": 19, "num_hidden_layers": depth}
    with torch.device("cpu"):
        bert = model.Bert(BertConfig(**sizes, hidden_act=activation, layer_norm_eps=eps)).to(dtype).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in bert.parameters():  # products as wide whatever the width
        weight.normal_(std=0.5 if weight.ndim < 2 else 2 / math.sqrt(2 * head_size), generator=generator)
    real, *inputs = (x.to(device) for x in (texts.mask, *texts.as_page_input()) if x is not None)
    return bert.to(device), tokens, real, bert(inputs[0], real, inputs[1]).last_hidden_state
