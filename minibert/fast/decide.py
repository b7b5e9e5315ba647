"""Who computes a call of `encode` or `predict`, the stack or the page, part by part, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial, reduce
from typing import Any

import torch
from torch import nn

from ..checkpoint.tensors import on_meta
from ..config import ClassifierConfig
from ..display import table
from ..fused import FUSED, has_hooks
from ..heads import BertForSequenceClassification, MaskedLMHead
from ..model import Bert, Embeddings, Encoder, EncoderLayer, Pooler
from ..pooling import Dense, Normalize, Pooling, SpladePooling
from .changes import PAGE, Code, Snapshot, TrackedParameter, modules_in, track
from .check import page_is_known
from .prepare import ARITHMETICS, keep_freed_memory
from .stack import FastEmbeddings, FastLayer, Stack, activation_name

READERS = Pooling, SpladePooling, Pooler, Dense, Normalize  # known to read no last state at padding


@dataclass(frozen=True)
class Decision:
    """Which parts of a model the stack computes in the next calls, and why the page computes the others."""

    stack: Stack | None  # None: the page computes all
    reasons: Mapping[str, str]  # by the names of the parts that the page computes; "": why it computes all
    device: torch.device
    hooked: bool  # watched, or writing to weights (a max_norm): one batch after another, in the caller's thread
    own_parts: bool  # a part of one's own may keep a tensor, which must not be one of inference mode
    padding: str  # see `batches.plan`; "none" where a part of one's own could read it
    reads_first: bool  # of the last states only each text's first is read
    reads_pooler: bool
    arithmetic: str
    snapshot: Snapshot = field(repr=False)
    code: Code = field(repr=False)

    def holds(self) -> bool:
        """Return True if nothing has changed since that could change the decision or a result."""
        return self.code.holds() and self.snapshot.holds() and not (self.stack and self.stack.failure)

    @property
    def batching(self) -> dict[str, Any]:
        """Return what `batches.plan` has to know."""
        return {"padding": self.padding, "on_gpu": self.device.type != "cpu"}

    def by_page(self, reason: str) -> Decision:
        """Return the decision that the page computes all."""
        return replace(self, stack=None, reasons={"": reason}, padding="none" if self.padding == "none" else "costs")

    def explanation(self) -> str:
        """Return a table: part, who computes it, and why."""
        if self.stack is None:
            return table([("all", "page", self.reasons[""])], left=(0, 1, 2))
        parts = {"embeddings": FastLayer.by, **{f"layers.{i}": x and x.by for i, x in enumerate(self.stack.layers)}}
        rows = [(name, "page" if (why := self.reasons.get(name)) else by, why or "") for name, by in parts.items()]
        return table([("part", "computed by", f"(products in {self.arithmetic})"), *rows], left=(0, 1, 2))


def decide(
    root: nn.Module,
    model: nn.Module,
    readers: Sequence[nn.Module],
    arithmetic: str,
    before: Decision | None,
    make: Callable[[Any], FastLayer] | None = None,
    kind: type[Stack] = Stack,
) -> Decision:
    """Decide for all calls until something changes.

    ``root`` holds all that computes, ``model`` is a Bert or has one as `bert`, ``readers`` read the last states,
    ``before`` no longer holds (weights that did not change stay packed), ``make`` makes layers for a ``kind`` of stack.
    """
    code = Code({kind for part in root.modules() for kind in type(part).__mro__ if kind in PAGE})
    bert: Any = getattr(model, "bert", model)
    make = make or partial(FastLayer, arithmetic=ARITHMETICS[arithmetic])
    reasons = {"": why} if (why := _whole(model, bert)) else {}
    stack = None if why else _stack(bert, arithmetic, reasons, before, make, kind)
    fast = [] if stack is None else [layer for layer in stack.layers if layer is not None]
    pooler = getattr(bert, "pooler", None)
    own_pooler = pooler is not None and departure(pooler, "pooler", Pooler) is not None
    plain = not own_pooler and all(type(reader) in READERS and _own(reader) is None for reader in readers)
    # Dropout is off in the stack, so modes count in the other parts only.
    skipped = {part for layer in fast for part in layer.layer.modules()}
    if stack is not None and stack.embeddings is not None:
        skipped.update(bert.embeddings.modules())
    # The page's parts know a mask, watched or not; parts of one's own need not.
    masked = plain and not any(own in why for why in reasons.values() for own in ("not the page's", "of its own"))
    device, padding = next(root.parameters()).device, "none" if not masked else "costs" if reasons else "free"
    return Decision(
        stack=stack,
        reasons=reasons,
        device=device,
        hooked=any(has_hooks(x) or getattr(x, "max_norm", None) is not None for x in list(modules_in(root))[1:]),
        own_parts=any(type(p).__module__.partition(".")[0] not in ("minibert", "torch") for p in [*root.modules()][1:]),
        padding=padding,
        reads_first=plain and all(type(r) is Pooler or getattr(r, "modes", None) == ("cls",) for r in readers),
        reads_pooler=model is not bert or own_pooler,
        arithmetic=arithmetic if kind is Stack else str(next(bert.parameters()).dtype).removeprefix("torch."),
        snapshot=Snapshot(
            root,
            [weight for layer in fast for weight in layer.products],
            [part for part in root.modules() if part not in skipped and part is not root],
        ),
        code=code,
    )


def _whole(model: nn.Module, bert: Any) -> str | None:
    """Say why the page computes all of a model; None where it need not."""
    if has_hooks():
        return "a hook is registered on all modules of torch"
    kinds: Any = (Bert if bert is model else BertForSequenceClassification), Bert, Encoder
    for part, name, kind in zip((model, bert, bert.layers), ("model", "model", "layers"), kinds, strict=True):
        if why := departure(part, name, kind, deep=False):
            return why
    return None if len(bert.layers) else "the model has no layers"


def _stack(
    bert: Bert, arithmetic: str, reasons: dict[str, str], before: Decision | None, make: Any, kind: type[Stack]
) -> Stack | None:
    """Build the stack and give a reason for each part that the page computes; no stack where that is all layers."""
    keep_freed_memory()
    old = [] if before is None or before.stack is None else before.stack.layers
    known = {fast.layer: fast for fast in old if fast is not None}
    first = next(bert.parameters())
    # Exact products are of float64 too, where all weights are; a GPU computes in the dtype of the weights, and there.
    exact = kind is not Stack or (arithmetic == "float32" and first.dtype is torch.float64)
    like: Any = first.dtype if exact else torch.float32, "cpu" if kind is Stack else str(first.device)
    layers: list[FastLayer | None] = []
    layer: Any
    for i, layer in enumerate(bert.layers):
        name = f"layers.{i}"
        if why := departure(layer, name, EncoderLayer) or _unlike(layer, name) or unusable(layer, name, *like):
            reasons[name] = why
            layers.append(None)
            continue
        fast = make(layer)
        if layer not in known or known[layer].key != fast.key:
            known[layer] = fast
        layers.append(known[layer])
    embeddings = bert.embeddings
    if why := departure(embeddings, "embeddings", Embeddings) or unusable(embeddings, "embeddings", *like):
        reasons["embeddings"] = why
    used = [layer for layer in layers if layer is not None]
    track(bert)
    if not used:
        why = reasons["layers.0"]
    elif not all(page_is_known(layer.activation, layer.attention_norm[-1], len(layers)) for layer in used):
        why = "the page's code was changed: it computes other numbers than the stack"
    elif not (why := kind.why_not(used)):
        return kind(bert, None if "embeddings" in reasons else FastEmbeddings(bert.embeddings), layers)
    reasons[""] = why
    return None


def _fresh(kind: Any) -> Any:
    """Return a part of the page as it is made, without numbers; None for other classes. Fused parts count as such."""
    return _fresh_parts().get(next((page for page, part in FUSED.items() if part is kind), kind))


@cache
def _fresh_parts() -> dict[type, nn.Module]:
    with on_meta():
        model = BertForSequenceClassification(ClassifierConfig(num_hidden_layers=1))
        return {type(part): part for part in reversed((*model.modules(), Pooling(), MaskedLMHead(model.config)))}


def departure(owner: nn.Module, name: str, kind: Any, *, deep: bool = True) -> str | None:
    """Say which part (``deep``: or part of it) is not the page's own, or is watched; None where all are."""
    for path, fresh in _fresh(kind).named_modules() if deep else [("", _fresh(kind))]:
        part: Any = reduce(lambda part, step: part._modules.get(step), path.split(".") if path else [], owner)
        full = ".".join(filter(None, (name, path)))
        if type(part) not in (type(fresh), FUSED.get(type(fresh))):
            return f"{full} is {type(part).__name__}, not the page's {type(fresh).__name__}"
        if why := _own(part):
            return f"{full} has a {why}"
    return None


def _own(part: nn.Module) -> str | None:
    """Say what a part has that a fresh one has not: an attribute, a method of its own, or a hook."""
    kind: Any = type(part)
    fresh = _fresh(kind) or part
    if own := sorted(part.__dict__.keys() - {*fresh.__dict__, *fresh._modules, "report"}):
        return f"{own[0]!r} of its own"
    if has_hooks(part):
        return f"{'forward' if part._forward_hooks or part._forward_pre_hooks else 'backward'} hook"
    return None


def _unlike(layer: Any, name: str) -> str | None:
    """Say why a layer whose parts are the page's own is not like the stack's; None where it is."""
    attention = layer.attention
    if attention.relative is not None:
        return f"{name}.attention has relative positions"
    if activation_name(layer.feed_forward.activation) is None:
        return f"{name}.feed_forward.activation has a formula of its own"
    if len({linear.weight.shape for linear in (attention.query, attention.key, attention.value)}) > 1:
        return f"{name}.attention has values of another width than its queries and keys"
    return None


def unusable(owner: nn.Module, name: str, dtype: torch.dtype, device: str = "cpu") -> str | None:
    """Say why the weights of a part can't be read by the stack; None where they can."""
    for path, part in owner.named_modules(prefix=name):
        if getattr(part, "max_norm", None) is not None:
            return f"{path} has a max_norm, which changes its weights when they are read"
        for key in ("weight", "bias"):
            if (value := getattr(part, key, None)) is None:
                continue
            if type(value) not in (nn.Parameter, TrackedParameter):
                return f"{path}.{key} is {type(value).__name__}, not a plain parameter"
            if value.is_inference():
                return f"{path}.{key} was made in inference mode, where torch counts no changes"
            if (value.dtype, str(value.device), value.layout) != (dtype, device, torch.strided):
                return f"{path}.{key} is {value.dtype} on {value.device}, not {dtype} on {device}"
    return None
