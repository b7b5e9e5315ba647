"""Who computes a call of `encode` or `predict`, the stack or the page, part by part, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import is_
from typing import Any

import torch
from torch import nn

from ..display import table
from ..fused import FusedActivation, FusedAttention, FusedLayerNorm, has_hooks
from ..heads import BertForSequenceClassification
from ..model import (
    Activation,
    Bert,
    Embeddings,
    Encoder,
    EncoderLayer,
    FeedForward,
    LayerNorm,
    MultiHeadAttention,
    Pooler,
    ScaledDotProductAttention,
)
from ..pooling import Pooling
from .changes import Snapshot, TrackedParameter, modules_in, page_code
from .check import page_is_known
from .prepare import ARITHMETICS, keep_freed_memory
from .stack import FastEmbeddings, FastLayer, Stack, activation_name

Parts = Mapping[str, tuple[type[nn.Module], ...]]
NORM = LayerNorm, FusedLayerNorm
# The parts that the stack stands for, by their names in the owner, and the classes that may stand there.
EMBEDDINGS: Parts = {
    "": (Embeddings,),
    "token": (nn.Embedding,),
    "position": (nn.Embedding,),
    "token_type": (nn.Embedding,),
    "norm": NORM,
    "dropout": (nn.Dropout,),
}
LAYER: Parts = {
    "": (EncoderLayer,),
    "attention": (MultiHeadAttention,),
    "attention.query": (nn.Linear,),
    "attention.key": (nn.Linear,),
    "attention.value": (nn.Linear,),
    "attention.core": (ScaledDotProductAttention, FusedAttention),
    "attention.core.scores": (nn.Identity,),
    "attention.core.probs": (nn.Identity,),
    "attention.core.dropout": (nn.Dropout,),
    "attention.out": (nn.Linear,),
    "attention_norm": NORM,
    "feed_forward": (FeedForward,),
    "feed_forward.up": (nn.Linear,),
    "feed_forward.activation": (Activation, FusedActivation),
    "feed_forward.down": (nn.Linear,),
    "feed_forward_norm": NORM,
    "dropout": (nn.Dropout,),
}
POOLER: Parts = {"": (Pooler,), "dense": (nn.Linear,)}
# Of these it is known which states they read: none at padding.
READERS = Pooling, Pooler
# Of these models it is known what they make of Bert's output.
HEADS = (BertForSequenceClassification,)


@dataclass(frozen=True)
class Decision:
    """Which parts of a model the stack computes in the next calls, and why the page computes the others."""

    stack: Stack | None  # None: the page computes all
    reasons: Mapping[str, str]  # by the names of the parts that the page computes; "" is the whole model
    device: torch.device
    hooked: bool  # someone watches: batches run in the caller's thread, one after another
    padding: str  # see `batches.plan`; "none" where a part of one's own could read it
    reads_first: bool  # of the last states only each text's first is read
    reads_pooler: bool
    arithmetic: str
    snapshot: Snapshot = field(repr=False)
    code: list[object] = field(repr=False)

    def holds(self) -> bool:
        """Return True if nothing has changed since that could change the decision or a result."""
        return self.snapshot.holds() and all(map(is_, page_code(), self.code))

    def by_page(self, reason: str) -> Decision:
        """Return the decision that the page computes all."""
        padding = "costs" if self.device.type == "cpu" else "device"
        return replace(self, stack=None, reasons={"": reason}, padding=padding)

    def explanation(self) -> str:
        """Return a table: part, who computes it, and why."""
        if self.stack is None:
            return table([("all", "page", self.reasons[""])], left=(0, 1, 2))
        names = ["embeddings", *(f"layers.{i}" for i in range(len(self.stack.layers)))]
        rows = [(name, *(("page", self.reasons[name]) if name in self.reasons else ("fast", ""))) for name in names]
        return table([("part", "computed by", f"(products in {self.arithmetic})"), *rows], left=(0, 1, 2))


def decide(
    root: nn.Module, model: nn.Module, readers: Sequence[nn.Module], arithmetic: str, before: Decision | None
) -> Decision:
    """Decide for all calls until something changes.

    Args:
        root: Holds everything that computes; a hook on any part of it counts.
        model: A Bert, or a model with a head that has one as `bert`.
        readers: The modules that read the last states.
        arithmetic: Of the products, a key of `prepare.ARITHMETICS`.
        before: The decision that no longer holds; weights that did not change stay packed.
    """
    code = page_code()
    bert: Any = getattr(model, "bert", model)
    reasons: dict[str, str] = {}
    stack = None
    if why := _whole(model, bert):
        reasons[""] = why
    else:
        stack = _stack(bert, arithmetic, reasons, before)
    fast = [] if stack is None else [layer for layer in stack.layers if layer is not None]
    pooler = getattr(bert, "pooler", None)
    watched = pooler is not None and _departure(pooler, "pooler", POOLER) is not None
    plain = not watched and all(_departure(reader, "", {"": READERS}) is None for reader in readers)
    # Dropout is off in the stack, so modes count in the other parts only.
    skipped = {part for layer in fast for part in layer.layer.modules()}
    if stack is not None and stack.embeddings is not None:
        skipped.update(bert.embeddings.modules())
    device = next(root.parameters()).device
    padding = "free" if plain and not reasons else "none"
    return Decision(
        stack=stack,
        reasons=reasons,
        device=device,
        hooked=any(has_hooks(part) for part in modules_in(root)),
        padding="device" if device.type != "cpu" else "costs" if stack is None else padding,
        reads_first=plain and all(type(r) is Pooler or getattr(r, "modes", None) == ("cls",) for r in readers),
        reads_pooler=model is not bert or watched,
        arithmetic=arithmetic,
        snapshot=Snapshot(
            root,
            [weight for layer in fast for weight in layer.weights],
            [part for part in root.modules() if part not in skipped and part is not root],
        ),
        code=code,
    )


def _whole(model: nn.Module, bert: Any) -> str | None:
    """Say why the page computes all of a model; None where it need not."""
    if has_hooks():
        return "a hook is registered on all modules of torch"
    if bert is not model and (why := _departure(model, "model", {"": HEADS})):
        return why
    if why := _departure(bert, "model", {"": (Bert,), "layers": (Encoder,)}):
        return why
    return None if len(bert.layers) else "the model has no layers"


def _stack(bert: Bert, arithmetic: str, reasons: dict[str, str], before: Decision | None) -> Stack | None:
    """Build the stack and give a reason for each part that the page computes; no stack where that is all layers."""
    keep_freed_memory()
    old = [] if before is None or before.stack is None else before.stack.layers
    known = {fast.layer: fast for fast in old if fast is not None}
    layers: list[FastLayer | None] = []
    layer: Any
    for i, layer in enumerate(bert.layers):
        why = _departure(layer, f"layers.{i}", LAYER) or _unusable_layer(bert, layer, f"layers.{i}", arithmetic)
        if why:
            reasons[f"layers.{i}"] = why
        elif layer not in known or not known[layer].is_current(ARITHMETICS[arithmetic]):
            known[layer] = FastLayer(layer, ARITHMETICS[arithmetic])
        layers.append(None if why else known[layer])
    if why := _departure(bert.embeddings, "embeddings", EMBEDDINGS) or _unusable_embeddings(bert.embeddings):
        reasons["embeddings"] = why
    fast = [layer for layer in layers if layer is not None]
    if not fast:
        why = reasons["layers.0"]
    elif all(page_is_known(layer.activation, layer.attention_norm[-1]) for layer in fast):
        return Stack(bert, None if "embeddings" in reasons else FastEmbeddings(bert.embeddings), layers)
    else:
        why = "the page's code was changed: it computes other numbers than the stack"
    reasons.clear()
    reasons[""] = why
    return None


def _departure(owner: nn.Module, name: str, parts: Parts) -> str | None:
    """Say which part is not the page's own, or is watched; None where all are."""
    for path, kinds in parts.items():
        part: Any = owner
        for step in path.split(".") if path else []:
            part = part._modules.get(step)
        full = ".".join(filter(None, (name, path)))
        if type(part) not in kinds:
            return f"{full} is {type(part).__name__}, not the page's {kinds[0].__name__}"
        if own := next((key for key in part.__dict__ if callable(getattr(type(part), key, None))), None):
            return f"{full} has a {own!r} of its own"
        if has_hooks(part):
            return f"{full} has a {'forward' if part._forward_hooks or part._forward_pre_hooks else 'backward'} hook"
    return None


def _unusable_layer(bert: Bert, layer: Any, name: str, arithmetic: str) -> str | None:
    """Say why a layer whose parts are the page's own can't be packed."""
    attention = layer.attention
    if attention.relative is not None:
        return f"{name}.attention has relative positions"
    if activation_name(layer.feed_forward.activation) is None:
        return f"{name}.feed_forward.activation has a formula of its own"
    if len({linear.weight.shape for linear in (attention.query, attention.key, attention.value)}) > 1:
        return f"{name}.attention has values of another width than its queries and keys"
    table = bert.embeddings._modules["token"]
    dtype = getattr(getattr(table, "weight", None), "dtype", torch.float32)
    dtypes = (torch.float32, torch.float64) if arithmetic == "float32" else (torch.float32,)
    dtype = dtype if dtype in dtypes else torch.float32
    for path, part in layer.named_modules(prefix=name):
        if isinstance(part, (nn.Linear, LayerNorm)) and (why := _unusable(part, path, dtype)):
            return why
    return None


def _unusable_embeddings(embeddings: Any) -> str | None:
    """Say why embeddings whose parts are the page's own can't be looked up by the stack."""
    for name in ("token", "position", "token_type", "norm"):
        part = embeddings._modules[name]
        if getattr(part, "max_norm", None) is not None:
            return f"embeddings.{name} has a max_norm, which changes its weights when they are read"
        if why := _unusable(part, f"embeddings.{name}", embeddings.token.weight.dtype):
            return why
    return None


def _unusable(part: nn.Module, name: str, dtype: torch.dtype) -> str | None:
    """Say why weights can't be read by the stack."""
    for key in ("weight", "bias"):
        value = part._parameters.get(key)
        if value is None and getattr(part, key, None) is not None:
            return f"{name}.{key} is not a parameter"
        if value is None:
            continue
        if type(value) not in (nn.Parameter, TrackedParameter):
            return f"{name}.{key} is {type(value).__name__}, not a plain parameter"
        if value.is_inference():
            return f"{name}.{key} was made in inference mode, where torch counts no changes"
        if (value.dtype, value.device.type, value.layout) != (dtype, "cpu", torch.strided):
            kind = str(value.dtype).removeprefix("torch.")
            return f"{name}.{key} is {kind} on {value.device}; the stack computes float32 or float64 on the CPU"
    return None
