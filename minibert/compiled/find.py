"""The compiled code of a checkpoint's folder: whether it may be used here, and why not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoint.hub import CheckpointFiles, Folder
from ..checkpoint.save import replacing_model, write_json
from ..config import BertConfig, ConfigError, read_json
from ..display import warn
from ..fast.check import difference
from ..fast.prepare import ARITHMETICS
from ..fast.stack import FastLayer
from ..fast.tokens import PackedTokens
from ..model import EncoderLayer
from ..tokenizer import Tokens
from ..truncation import TruncationReport
from .build import FOLDER, LIBRARY, MANIFEST, CompileError, build, record, why_not_here
from .layer import CompiledLayer, Library, layer_maker

# How far a small random BERT may be from the page, whose states are of size 1.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05, "int8": 0.1}
SLOW = 0.9  # times the stack's speed: code that is slower is not used


def find(files: CheckpointFiles, wanted: bool | None, arithmetic: str) -> tuple[Library | None, str]:
    """Return a checkpoint's compiled code, or None and the reason why it is not used ("" where there is none).

    Code from elsewhere could do anything, so it runs only where it was asked for.

    Args:
        files: The checkpoint.
        wanted: None: if this user compiled it on this machine. True: whoever compiled it. False: never.
        arithmetic: What the encoder computes in.

    Raises:
        CompileError: ``wanted`` is True, and the code can't be used here; why.
    """
    folder = files.path / FOLDER if isinstance(files, Folder) else None
    if wanted is False or folder is None or not (folder / MANIFEST).is_file():
        if wanted:
            raise CompileError(f"{files.name} has no compiled code: minibert compile {files.name} -o FOLDER makes it")
        return None, ""
    path = folder / LIBRARY
    try:
        facts = read_json(folder / MANIFEST)
        why = why_not_here(path, facts) or _untrusted(facts, wanted) or _slow(facts, arithmetic)
        library = Library(path, str(facts.get("sha256")))
        why = why or _wrong(library, arithmetic)
    except ConfigError as error:
        why = str(error)
    except OSError as error:  # another system library than that of the machine that compiled it
        why = f"it can't be loaded ({str(error)[:200]}): compile it again (minibert compile)"
    if why and wanted:
        raise CompileError(f"{folder}: {why}")
    return (None, f"the folder's compiled code is not used: {why}") if why else (library, "")


def _untrusted(facts: dict[str, Any], wanted: bool | None) -> str:
    mark = record(facts["sha256"])
    if wanted or (mark is not None and mark.exists()):
        return ""
    return "it was not compiled by this user on this machine. If you trust it: from_pretrained(..., compiled=True)"


def _slow(facts: dict[str, Any], arithmetic: str) -> str:
    speed = facts.get("speed")
    ratios = speed.get(arithmetic) if isinstance(speed, dict) else None
    if not isinstance(ratios, list) or not ratios or not all(isinstance(ratio, (int, float)) for ratio in ratios):
        return f"its {MANIFEST} does not say how fast it is: compile it again (minibert compile)"
    if min(ratios) >= SLOW:
        return ""
    return f"it is slower than the stack in {arithmetic} ({', '.join(map(str, ratios))} times its speed)"


def _wrong(library: Library, arithmetic: str) -> str:
    """Say how far the library is from the page, if too far. Raise OSError if it can't be loaded."""
    library.load()  # outside of what `difference` catches
    apart = difference(partial(CompiledLayer, library, arithmetic), torch.float32, "gelu")
    if apart < TOLERANCES[arithmetic]:
        return ""
    return f"its numbers in {arithmetic} differ from the page's by {apart:.0e}"


def save_compiled(folder: str | os.PathLike[str], save: Callable[[Path], None], config: BertConfig) -> Library:
    """Save a model by ``save``, with code for this processor beside it. Return the code.

    That this user compiled it is noted in the user's folder for caches. Where it can't be, a warning says so.

    Raises:
        CompileError: There is no compiler, it fails, the code computes other numbers, or it has nothing of this model.
            Nothing is written. OSError: The folder can't be written, and stays as it was.
    """
    with replacing_model(folder) as new:
        compiled = new / FOLDER
        compiled.mkdir()
        digest = build(compiled)
        library = Library(compiled / LIBRARY, digest)
        for arithmetic in ARITHMETICS:
            if why := _wrong(library, arithmetic):
                raise CompileError(f"the compiler made a wrong library: {why}")
        facts = read_json(compiled / MANIFEST)
        write_json({**facts, "speed": measure(library, config)}, compiled / MANIFEST)
        save(new)
    mark = record(digest)
    try:
        if mark is None:
            raise OSError("there is no folder for caches")
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        warn(f"not noted as compiled by you ({error}): load it with compiled=True")
    return Library(Path(folder).resolve() / FOLDER / LIBRARY, digest)


def measure(library: Library, config: BertConfig) -> dict[str, list[float]]:
    """Return, for each arithmetic, the speed of a compiled layer over the stack's: of one short text, and of 32.

    Raise CompileError if a layer of this config can't be compiled.
    """
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.no_grad():
        layer = EncoderLayer(config).float().eval()
    found = {}
    for arithmetic in ARITHMETICS:
        layers = layer_maker(library, arithmetic)(layer), FastLayer(layer, ARITHMETICS[arithmetic])
        if layers[0].by != CompiledLayer.by:
            what = f"a {config.hidden_act} and heads of {config.hidden_size // config.num_attention_heads}"
            raise CompileError(f"the code has no layers with {what}: gelu, gelu_new or relu, and an even size")
        found[arithmetic] = [_ratio(layers, texts, config.hidden_size) for texts in (1, 32)]
    return found


@torch.inference_mode()
def _ratio(layers: tuple[FastLayer, FastLayer], texts: int, width: int) -> float:
    """Return how many times as fast the first layer is: the best of some turns of each."""
    length = 16
    ids = np.ones(length * texts, dtype=np.int32)
    tokens = Tokens(ids, np.zeros(len(ids), np.int8), np.arange(texts + 1) * length, TruncationReport())
    packed = PackedTokens(tokens, np.arange(texts))
    x = torch.ones(len(packed.input_ids), width)
    seconds = [float("inf")] * 2
    for _ in range(12):
        for i, layer in enumerate(layers):
            started = time.perf_counter()
            layer(x, packed)
            seconds[i] = min(seconds[i], time.perf_counter() - started)
    return round(seconds[1] / seconds[0], 2)
