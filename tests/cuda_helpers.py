"""The stack for GPUs without a GPU: an exact substitute for torch's operator, and recordings that forget Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from minibert import text_model
from minibert.cuda import graphs, stack, tokens
from minibert.cuda.graphs import Card
from minibert.fast.decide import Decision, decide


@torch.library.custom_op("minibert_tests::varlen", mutates_args=())
def _varlen(q: Tensor, k: Tensor, v: Tensor, ends_q: Tensor, ends_k: Tensor, max_q: int, max_k: int) -> Tensor:
    out = torch.full((len(q), *q.shape[1:]), torch.nan, dtype=q.dtype)
    begins = ends_q.tolist(), ends_k.tolist()
    assert begins[0][-1] == len(q)  # beyond the last end the operator leaves what was in memory
    for i in range(len(ends_q) - 1):
        (a, b), (c, d) = ((begin[i], begin[i + 1]) for begin in begins)
        assert 0 <= b - a <= max_q
        assert 0 <= d - c <= max_k
        heads = (x.transpose(0, 1).unsqueeze(0) for x in (q[a:b], k[c:d], v[c:d]))
        out[a:b] = functional.scaled_dot_product_attention(*heads)[0].transpose(0, 1)
    return out


@_varlen.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, ends_q: Tensor, ends_k: Tensor, max_q: int, max_k: int) -> Tensor:
    return q.new_empty(q.shape)


def varlen(q: Tensor, k: Tensor, v: Tensor, ends_q: Tensor, ends_k: Tensor, max_q: int, max_k: int) -> Tensor:
    """Attend text by text, and refuse what torch's operator refuses (`mha_varlen_fwd` of its flash attention)."""
    assert {x.ndim for x in (q, k, v)} == {3}
    assert k.shape == v.shape
    assert q.shape[1:] == k.shape[1:]
    assert len({x.dtype for x in (q, k, v)}) == 1
    assert {x.stride(-1) for x in (q, k, v)} == {1}
    assert ends_q.dtype == ends_k.dtype == torch.int32
    assert len(ends_q) == len(ends_k) > 1
    assert ends_q.is_contiguous()
    assert ends_k.is_contiguous()
    assert len({x.device for x in (q, k, v, ends_q, ends_k)}) == 1
    assert type(max_q) is type(max_k) is int
    return _varlen(q, k, v, ends_q, ends_k, max_q, max_k)


class Tape(TorchDispatchMode):
    """Records operators. As those of a graph they run again without Python, on the very same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        # Of a tensor a graph knows only where it is.
        places = tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, (args, kwargs or {}, result))
        self.calls.append((operator, *places))
        return result

    @torch.inference_mode(False)
    @torch.no_grad()
    def replay(self) -> None:
        for operator, args, kwargs, result in self.calls:
            for old, new in zip(tree_leaves(result), tree_leaves(operator(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class FakeCard(Card):
    """Records on a tape, and waits for nothing."""

    recorded: list[int]  # tokens with filler, of each recording

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def in_order(self) -> Any:
        return nullcontext()

    def record(self, compute: Callable[[Tensor], Tensor], static: Tensor) -> tuple[Callable[[], None], Tensor]:
        compute(static)
        with Tape() as tape:
            result = compute(static)
        self.recorded.append((static.numel() - 4) // 4)
        return tape.replay, result


@contextmanager
def gpu(*, operator: Callable[..., Tensor] | None = varlen) -> Iterator[list[int]]:
    """Let the stack for GPUs compute on the CPU meanwhile. Yields the sizes of what is recorded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeCard, "recorded", recorded := [], raising=False)
        patch.setattr(stack, "Card", FakeCard)
        patch.setattr(stack, "_trials", {})
        patch.setattr(graphs, "failures", {})
        patch.setattr(stack, "suits_varlen", lambda *_: True)
        patch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
        for room in (stack, tokens):
            patch.setattr(room, "varlen_operator", lambda: operator)

        def there(*arguments: Any, **_: Any) -> Any:
            return decide(*arguments, make=stack.CudaLayer, kind=stack.CudaStack)

        holds = Decision.holds  # a decision from outside does not
        patch.setattr(Decision, "holds", lambda x: type(x.stack) is not stack.Stack and holds(x))
        patch.setattr(text_model, "decide", there)
        yield recorded


def stack_of(bert: Any, *, attend_packed: bool) -> stack.CudaStack:
    """Return the stack for GPUs that computes all of a Bert."""
    make = partial(stack.CudaLayer, strict=True)
    return stack.CudaStack(bert, stack.FastEmbeddings(bert.embeddings), list(map(make, bert.layers)), attend_packed)
