"""Save a model as config.json and model.safetensors: the name table read backwards."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..config import in_short
from ..display import warn
from .atomic import replacing, replacing_all, write_text
from .names import DECODER, TIED, published_name
from .structure import departures
from .tensors import CheckpointError, build_on_meta, dtype_name
from .weights import SAFETENSORS

# What an encoder's folder may hold of the model before, and a loader would read beside or instead of the new files.
STALE = (
    *("model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    *("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"),
    *("vocab.txt", "special_tokens_map.json", "added_tokens.json"),
)


def replacing_model(folder: str | os.PathLike[str]) -> AbstractContextManager[Path]:
    """Yield a new folder for a whole encoder, whose files then move into ``folder``. See ``replacing_all``."""
    return replacing_all(folder, stale=STALE)


def save_model(
    model: nn.Module, folder: str | os.PathLike[str], build: Callable[[], nn.Module], **settings: Any
) -> None:
    """Write a folder that transformers and sentence-transformers load to the same numbers.

    A checkpoint holds weights and a config. A warning names what else was changed, as a part without weights.
    A model with pruned heads (`research.prune_heads`) is written for minibert, in the form of transformers 4.
    ``build`` makes an unchanged model of the same config. ``settings`` are further fields of config.json.

    Raises:
        CheckpointError: a part was replaced by one with other weights, which lack published names. Nothing is written.
        OSError: the folder can't be written. Existing files stay as they were.
    """
    config: Any = model.config
    ours = model.state_dict()
    unchanged = build_on_meta(build, config)
    shapes, published = (
        {name: value.shape for name, value in weights.items()} for weights in (ours, unchanged.state_dict())
    )
    bert: Any = getattr(model, "bert", model)
    if (count := len(bert.layers)) != config.num_hidden_layers:
        advice = f"model.config = dataclasses.replace(model.config, num_hidden_layers={count})"
        raise CheckpointError(f"this model has {count} layers, and its config {config.num_hidden_layers}: {advice}")
    if odd := [name for name in {**shapes, **published} if shapes.get(name) != published.get(name)]:
        text = f"a part of this model was replaced, and its weights have no published form: {', '.join(odd)}"
        raise CheckpointError(f"{text}. Keep them with torch.save(model.state_dict(), ...)")
    changed = {name: what.partition(" (")[0] for name, what in departures(model, unchanged).items() if name}
    if outer := [name for name in changed if not any(name.startswith(f"{other}.") for other in changed)]:
        text = in_short(", ".join(f"{name} is {changed[name]}" for name in outer))
        warn(f"a checkpoint does not hold these changes, make them after loading (or in model.config now): {text}")
    tensors = {published_name(name): tensor for name, tensor in ours.items()}
    if DECODER in tensors:  # transformers 5 reads the bias of such a head by its second name
        tensors |= {copy: tensors[name] for copy, name in TIED.items() if copy != DECODER}
    values = {**config.to_dict(), **settings, "dtype": dtype_name(next(iter(tensors.values())).dtype)}
    with replacing_all(folder) as new:
        write_json(values, new / "config.json")
        write_tensors(tensors, new / SAFETENSORS)


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file whole or not at all. Raise OSError, as on a full disk."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        # safetensors refuses shared memory, but a model may use one layer in two places.
        apart[name] = flat.clone() if flat.data_ptr() in seen else flat
        seen.add(flat.data_ptr())
    with replacing(path) as temporary:
        try:
            save_file(apart, temporary, metadata={"format": "pt"})  # transformers refuses a file without this mark
        except SafetensorError as error:
            # All that it keeps of the system's error, in the words of safetensors 0.8 or 0.5.
            if number := re.search(r"(?:os error |Os \{ code: )(\d+)", str(error)):
                raise OSError(int(number[1]), os.strerror(int(number[1])), os.fspath(path)) from error
            raise OSError(f"{path}: could not be written ({error})") from error


def write_json(values: object, path: Path) -> None:
    """Write a small JSON file in the layout of published ones."""
    write_text(path, json.dumps(values, indent=2) + "\n")
