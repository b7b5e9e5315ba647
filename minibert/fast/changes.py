"""Notice every change of a model before each call: another part, a hook, a mode, a weight, an edit of the page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from inspect import isfunction
from itertools import chain, count
from operator import attrgetter, is_, itemgetter
from sys import _getframe
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.nn.modules.module import _has_any_global_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from .. import fused, heads, model, pooling

# Where torch keeps a module's hooks, its parts and its parameters.
TABLES = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_modules", "_parameters"
SETTINGS = ("head_size", "formula", "eps", "max_norm", "modes")  # values that count, of modules
# Every class whose code the stack stands for, and what it relies on of torch's.
NAMES = {**vars(model), **vars(fused), **vars(heads), **vars(pooling)}.values()
PAGE = [kind for kind in NAMES if isinstance(kind, type) and issubclass(kind, nn.Module)]
FORWARDS = [vars(kind) for kind in (nn.Linear, nn.Embedding, nn.Dropout, nn.Identity)]
DATA: Any = Tensor.data  # torch's own descriptor
_forward, _code, _dtype = itemgetter("forward"), attrgetter("__code__"), attrgetter("dtype")
_NEW = nn.Parameter.__new__.__code__
# Change with a tracked parameter's values, unless memory is shared. `torch.utils.swap_tensors` exchanges attributes.
version, _version, _taken = attrgetter("_version", "taken"), attrgetter("_version"), attrgetter("taken")


class Snapshot:
    """Everything that decides how a module is computed, at one time.

    It never refers to the module itself, which may therefore keep it without a cycle. As few objects as possible are
    looked at: after a call the processor's caches hold weights. ``weights`` and ``modes`` are the parameters whose
    values count and the parts whose mode counts (norms and embeddings are read live, and the stack has no dropout).
    """

    def __init__(self, root: nn.Module, weights: Iterable[nn.Parameter], modes: Iterable[nn.Module]) -> None:
        self._parts = list(modules_in(root))[1:]
        self._own = own = [part.__dict__ for part in self._parts]
        tables = [root._modules, *(each[name] for each in own for name in TABLES)]
        self._settings = [(each, name) for each in own for name in SETTINGS if name in each]
        self._settings += [(part.__dict__, "training") for part in modes]
        self._empty = [table for table in tables if not table]  # nearly all hooks, and most of the rest
        self._filled = [table for table in tables if table]
        self._weights = list(weights)
        self._others = [] if self._weights else list(root.parameters())  # without a stack only dtypes count
        self._seen, self._versions = self._look(), list(map(_version, self._weights))
        self._taken = list(map(_taken, self._weights))
        self._sizes = list(map(len, own))  # a `forward` set on a part is one entry more
        self._accesses = TrackedParameter.accesses

    def holds(self) -> bool:
        """Return True if nothing has changed since."""
        if any(self._empty) or list(map(len, self._own)) != self._sizes:
            return False
        if TrackedParameter.accesses != self._accesses or list(map(_version, self._weights)) != self._versions:
            return False
        now = self._look()
        same = len(now) == len(self._seen) and all(map(is_, now, self._seen))
        return same and list(map(_taken, self._weights)) == self._taken

    def _look(self) -> list[object]:
        tables = chain.from_iterable(map(dict.values, self._filled))
        settings = [own.get(name) for own, name in self._settings]
        kinds, dtypes = map(type, chain(self._parts, self._weights)), map(_dtype, self._others)
        return [*tables, *kinds, *settings, *dtypes, bool(_has_any_global_hook())]


def modules_in(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the module and all below it, as `modules()` without names; a part in two places comes twice."""
    rest = [module]
    while rest:
        part = rest.pop()
        yield part
        rest += [inner for inner in part._modules.values() if inner is not None]


class Code:
    """All that classes consist of, with the code of their functions, which IPython's autoreload exchanges in place."""

    def __init__(self, kinds: Iterable[type]) -> None:
        self._kinds = [vars(kind) for kind in kinds]
        self._functions = [value for kind in self._kinds for value in kind.values() if isfunction(value)]
        self._seen = self._look()

    def holds(self) -> bool:
        """Return True if nothing has changed since."""
        now = self._look()
        return len(now) == len(self._seen) and all(map(is_, now, self._seen))

    def _look(self) -> list[object]:
        own = chain.from_iterable(kind.values() for kind in self._kinds)
        formulas = model.Activation.formulas.values()
        return [*own, *map(_code, self._functions), *formulas, *map(_forward, FORWARDS), nn.Module.__call__]


class TrackedParameter(nn.Parameter):
    """Count how often `.data` was taken: the one way to write to a parameter that torch itself does not count."""

    taken = 0  # another number in each, also before `.data` was taken
    accesses = 0  # to any of them
    _numbers = count(1)

    @property
    def data(self) -> Tensor:
        """Return torch's own `.data`."""
        self.taken = TrackedParameter.accesses = next(self._numbers)
        return DATA.__get__(self)

    @data.setter
    def data(self, value: Tensor) -> None:
        if value is not self:  # as `module.to` assigns it where nothing has to move
            self.taken = TrackedParameter.accesses = next(self._numbers)
        DATA.__set__(self, value)

    def __repr__(self, **options: Any) -> str:  # type: ignore[override]  # as a plain parameter's
        return f"Parameter containing:\n{DATA.__get__(self).requires_grad_(self.requires_grad)}"

    def __getstate__(self) -> dict[str, Any]:  # for pickles, which take `.data`
        return {name: value for name, value in self.__dict__.items() if name != "taken"}

    def detach(self) -> Tensor:
        """Return torch's own; but to `nn.Parameter(this)`, which insists on it, one of this class."""
        tensor = super().detach()
        return tensor.as_subclass(TrackedParameter) if _getframe(1).f_code is _NEW else tensor


def track(part: nn.Module) -> list[nn.Parameter]:
    """Return the parameters whose changes can be counted now. They stay the objects that optimizers and users hold."""
    _count_fused_steps()
    for weight in part.parameters():
        if type(weight) is nn.Parameter:
            weight.__class__ = TrackedParameter
        if isinstance(weight, TrackedParameter):
            weight.__dict__.setdefault("taken", next(TrackedParameter._numbers))
    return [weight for weight in part.parameters() if isinstance(weight, TrackedParameter)]


@cache
def _count_fused_steps() -> None:
    """Let torch count what optimizers with ``fused=True`` write; by itself it does not."""

    def count_step(optimizer: Any, *_: object) -> None:
        for group in optimizer.param_groups:
            if group.get("fused"):
                increment_version(group["params"])

    register_optimizer_step_post_hook(count_step)
