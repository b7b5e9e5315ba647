"""What a checkpoint can't say of a model: how its parts depart from those that its config describes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from inspect import isfunction
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from .tensors import build_on_meta

FUSED = "minibert.fused"
IGNORED = frozenset({"training", "report", "config", "padding_idx"})  # the last counts in training only
SETTINGS = "max_seq_length", "prompts", "default_prompt_name", "truncate_dim"  # of encoders: what calls do unasked
PLAIN = bool, int, float, str


def departures(model: nn.Module, unchanged: nn.Module | None = None) -> dict[str, str]:
    """Return what of a model computes otherwise than in the ``unchanged`` one of its config.

    Keys are parts and their settings, as "layers.0.attention_norm.eps", and "" for a class of one's own; values say
    what is there. Of functions and classes of one's own they hold a digest of the code. Weights, modes, hooks, dropout
    and fused parts do not count.
    """
    if unchanged is None:
        kind: Any = next(each for each in type(model).__mro__ if _published(each))
        config: Any = model.config
        unchanged = build_on_meta(lambda: kind.for_checkpoint(config, model.state_dict()), config)
    ours, published = dict(_structure(model)), dict(_structure(unchanged))
    found = {name: ours.get(name, "absent") for name in {**ours, **published} if ours.get(name) != published.get(name)}
    return found if _published(type(model)) else {"": _class(type(model)), **found}


def changes(encoder: nn.Module) -> dict[str, str]:
    """Return the departures of an encoder's model, and its other parts that are of one's own, with their settings."""
    model: Any = encoder.model
    found = {f"model.{name}".rstrip("."): text for name, text in departures(model).items()}
    for name, part in encoder.named_children():
        if part is not model and not all(_published(type(each)) for each in part.modules()):
            found |= {f"{name}.{inner}": text for inner, text in _structure(part)} | {name: _class(type(part))}
    return found


def content(encoder: nn.Module) -> str:
    """Return a digest of an encoder's weights, parts and settings: another one if any of them is another."""
    settings = [getattr(encoder, name, None) for name in SETTINGS]
    digest = hashlib.sha256(repr((encoder, changes(encoder), settings)).encode())
    add_weights(digest, encoder)
    return digest.hexdigest()


def add_weights(digest: hashlib._Hash, model: nn.Module) -> None:
    """Add the names, types and bytes of all weights to a digest."""
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(memoryview(flat.view(torch.uint8).numpy()))


def _structure(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield all parts below a model, and all settings."""
    for name, part in model.named_modules(remove_duplicate=False):
        if name:  # a fused part is the page's, of which its class is derived
            yield name, _class(next(kind for kind in type(part).__mro__ if kind.__module__ != FUSED))
        for key, value in vars(part).items():
            counts = not key.startswith("_") and key not in IGNORED and not isinstance(part, nn.Dropout)
            if counts and (text := _setting(value)):
                yield f"{name}.{key}".lstrip("."), text


def _setting(value: object) -> str:
    """Return a text for a plain value or a function; empty for what can't be compared."""
    if isinstance(value, PLAIN) or (isinstance(value, (tuple, list)) and all(isinstance(x, PLAIN) for x in value)):
        return repr(value)
    if isinstance(value, type):
        return _class(value)
    if isinstance(value, partial):
        return f"{_setting(value.func)} with {value.args}, {value.keywords}"
    if isinstance(value, BuiltinFunctionType) or (isinstance(value, (FunctionType, MethodType)) and _published(value)):
        return _name(value)
    if isinstance(value, (FunctionType, MethodType)):
        held = [*(value.__defaults__ or ()), *(cell.cell_contents for cell in value.__closure__ or ())]
        return _name(value) + _digest([value.__code__], list(map(_setting, held)))
    return ""


def _class(kind: type) -> str:
    if _published(kind):
        return _name(kind)
    functions = [value for part in kind.__mro__ if not _published(part) for value in vars(part).values()]
    return _name(kind) + _digest([value.__code__ for value in functions if isfunction(value)])


def _published(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] in ("minibert", "torch", "builtins", "None")


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _digest(codes: list[CodeType], held: list[str] | None = None) -> str:
    """Return some letters that tell code, and what it holds, from other code, in any process of one Python."""
    return f" ({hashlib.sha256(repr([[_of_code(code) for code in codes], held]).encode()).hexdigest()[:12]})"


def _of_code(code: CodeType) -> list[Any]:
    ordered = (sorted(each, key=repr) if isinstance(each, frozenset) else each for each in code.co_consts)
    inner = [_of_code(each) if isinstance(each, CodeType) else repr(each) for each in ordered]
    return [code.co_code.hex(), code.co_names, inner]
