"""The compiled code of a checkpoint's folder: whether it may be used here, and why not."""

from __future__ import annotations

import hashlib
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
from ..fast.check import difference
from ..fast.prepare import ARITHMETICS
from ..fast.stack import FastLayer
from ..fast.tokens import PackedTokens
from ..model import EncoderLayer
from ..tokenizer import Tokens
from ..truncation import TruncationReport
from .build import (
    FOLDER,
    LIBRARY,
    MANIFEST,
    CompileError,
    build,
    machine,
    processor_features,
    record,
    sources_digest,
)
from .layer import CompiledLayer, Library

# How far a small random BERT may be from the page, whose states are of size 1.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05, "int8": 0.1}
MOST = 2**24  # bytes of a library
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
    library = Library(folder / LIBRARY)
    try:
        why = _unusable(library, read_json(folder / MANIFEST), wanted, arithmetic)
    except ConfigError as error:
        why = str(error)
    if why and wanted:
        raise CompileError(f"{folder}: {why}")
    return (None, f"the folder's compiled code is not used: {why}") if why else (library, "")


def _unusable(library: Library, facts: dict[str, Any], wanted: bool | None, arithmetic: str) -> str:
    """Say why a library can't be used here; "" where it can. It is read, and loaded only if all else is right."""
    again = "compile it again (minibert compile)"
    if facts.get("machine") != machine():
        return f"it was compiled for {str(facts.get('machine'))[:50]}, and this is {machine()}"
    needed = facts.get("features")
    if not isinstance(needed, list) or (missing := [str(x)[:20] for x in needed if x not in processor_features()]):
        return f"it was compiled for a processor with {', '.join(missing[:9])}" if isinstance(needed, list) else again
    if facts.get("sources") != sources_digest():
        return f"it was compiled by another version of minibert: {again}"
    try:
        with library.path.open("rb") as file:
            digest = hashlib.sha256(file.read(MOST)).hexdigest()
    except OSError as error:
        return f"{library.path.name} can't be read ({error.strerror}): {again}"
    if digest != facts.get("sha256"):
        return f"{library.path.name} is not the file that was compiled: {again}"
    if not wanted and not record(digest).exists():
        return "it was not compiled by this user on this machine. If you trust it: from_pretrained(..., compiled=True)"
    speed = facts.get("speed", {}).get(arithmetic, [])  # whose digest is known, or which was asked for: well-formed
    if min(speed, default=1) < SLOW:
        return f"it is slower than the stack in {arithmetic} ({', '.join(map(str, speed))} times its speed)"
    try:
        return _wrong(library, arithmetic)
    except OSError as error:  # another system library than that of the machine that compiled it
        return f"it can't be loaded ({str(error)[:200]}): {again}"


def _wrong(library: Library, arithmetic: str) -> str:
    """Say how far the library is from the page, if too far. Raise OSError if it can't be loaded."""
    library.load()  # outside of what `difference` catches
    apart = difference(partial(CompiledLayer, library, arithmetic), torch.float32, "gelu")
    if apart < TOLERANCES[arithmetic]:
        return ""
    return f"its numbers in {arithmetic} differ from the page's by {apart:.0e}"


def save_compiled(folder: str | os.PathLike[str], save: Callable[[Path], None], config: BertConfig) -> Library:
    """Save a model by ``save``, with code for this processor beside it. Return the code.

    Raises:
        CompileError: There is no compiler, it fails, or the code computes other numbers. Nothing is written.
        OSError: The folder can't be written, and stays as it was.
    """
    with replacing_model(folder) as new:
        compiled = new / FOLDER
        compiled.mkdir()
        digest = build(compiled)
        library = Library(compiled / LIBRARY)
        for arithmetic in ARITHMETICS:
            if why := _wrong(library, arithmetic):
                raise CompileError(f"the compiler made a wrong library: {why}")
        facts = read_json(compiled / MANIFEST)
        write_json({**facts, "speed": measure(library, config)}, compiled / MANIFEST)
        save(new)
    mark = record(digest)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return Library(Path(folder).resolve() / FOLDER / LIBRARY)


def measure(library: Library, config: BertConfig) -> dict[str, list[float]]:
    """Return, for each arithmetic, the speed of a compiled layer over the stack's: of one short text, and of 32."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.no_grad():
        layer = EncoderLayer(config).float().eval()
    found = {}
    for arithmetic in ARITHMETICS:
        layers = CompiledLayer(library, arithmetic, layer), FastLayer(layer, ARITHMETICS[arithmetic])
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
