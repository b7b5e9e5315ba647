"""Who looks on, and who has put something else in: there the page computes, so that nothing is missed.

Asked at every call of every part, so it looks into torch's own dicts, which costs a tenth of its public properties.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

# What the page itself puts there.
STOCK = (nn.Identity, nn.Dropout, nn.Linear)


def watched(*parts: nn.Module) -> bool:
    """Whether a hook would miss the call of one of these."""
    return _has_any_global_hook() or any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
        for part in parts
    )


def replaced(*parts: nn.Module) -> bool:
    """Whether one of these is no longer the page's own, by assignment, by `parametrize` or by a `forward` set on it."""
    return any(type(part) not in STOCK or "forward" in part.__dict__ for part in parts)


def every_part(module: nn.Module) -> Iterator[nn.Module]:
    """The module and all in it, as `modules()`, without their names; a part in two places comes twice."""
    rest = [module]
    while rest:
        part = rest.pop()
        yield part
        rest += [inner for inner in part._modules.values() if inner is not None]
