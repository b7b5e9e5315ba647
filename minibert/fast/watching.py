"""Who looks on, and who has put something else in: there the page computes, so that nothing is missed.

Asked at every call of every part, so it looks into torch's own dicts, which costs a tenth of its public properties.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from operator import is_, itemgetter

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

# What the page itself puts there.
STOCK = (nn.Identity, nn.Dropout, nn.Linear)
# Where torch keeps a module's hooks that fire when it is called.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
TRAINING = itemgetter("training")


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


def quiet(module: nn.Module) -> Snapshot | None:
    """What it is made of, if nobody watches any part of it and none is in training mode; the same until it changes."""
    snapshot: Snapshot | None = module.__dict__.get("_snapshot")
    if snapshot is not None and snapshot.holds():
        return snapshot
    parts = list(every_part(module))
    if watched(*parts) or any(part.training for part in parts):
        return None
    module.__dict__["_snapshot"] = None  # its place is part of the picture
    module.__dict__["_snapshot"] = snapshot = Snapshot(module)
    return snapshot


class Snapshot:
    """What a module was made of when nobody watched it and dropout was off, and whether all of that still holds.

    Asked at every call, so everything is laid out for few passes that run in C: microseconds for a hundred parts.
    """

    def __init__(self, root: nn.Module) -> None:
        parts = list(every_part(root))
        self.parts = parts
        self.own = [part.__dict__ for part in parts]
        tables = [own[name] for own in self.own for name in (*HOOKS, "_modules", "_parameters")]
        self.empty = [table for table in tables if not table]  # all hooks are, and most of the rest
        self.tables = [table for table in tables if table]
        self.entries = self._entries()
        self.classes = list(map(type, parts))
        self.sizes = list(map(len, self.own))  # a `forward` set on a part is one entry more

    def holds(self) -> bool:
        """Whether no part or parameter has been exchanged, none is hooked, and none is in training mode."""
        now = self._entries()
        return not (
            _has_any_global_hook()
            or any(self.empty)
            or any(map(TRAINING, self.own))
            or len(now) != len(self.entries)
            or not all(map(is_, now, self.entries))
            or list(map(type, self.parts)) != self.classes
            or list(map(len, self.own)) != self.sizes
        )

    def _entries(self) -> list[object]:
        return list(chain.from_iterable(map(dict.values, self.tables)))

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # a copied module has other parts
