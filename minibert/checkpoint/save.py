"""A model -> config.json and model.safetensors, in the published form: the name table read backwards."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..model import Bert
from .atomic import replacing, write_text
from .names import published_name
from .tensors import CheckpointError, blank
from .weights import SAFETENSORS


def save_bert(model: Bert, folder: str | os.PathLike[str]) -> None:
    """Write a folder that transformers and sentence-transformers load to the same numbers; see ``save_model``."""
    save_model(model, folder, model.config.to_dict(), lambda: Bert(model.config, pooler=model.pooler is not None))


def save_model(
    model: nn.Module, folder: str | os.PathLike[str], config: Mapping[str, Any], build: Callable[[], nn.Module]
) -> None:
    """Write a Bert or a model with a head.

    Args:
        model, folder: What, and where to; the folder is made where there is none.
        config: What config.json is to say, but for the dtype.
        build: Makes a model of the same config in which no part was replaced.

    With heads cut out (`research.prune_heads`) it is one for minibert, and of the form that transformers 4 had.

    Raises:
        CheckpointError: the model has weights that BERT does not have (a part was replaced), so there is no
            published name for them. Nothing is written.
        OSError: the folder can't be written; files that were there stay as they were.
    """
    ours = model.state_dict()
    shape: Any = model.config
    plain = blank(build, shape).state_dict()
    shapes, published = ({name: value.shape for name, value in weights.items()} for weights in (ours, plain))
    if odd := [name for name in {**shapes, **published} if shapes.get(name) != published.get(name)]:
        raise CheckpointError(
            f"a part of this model was replaced by one with other weights, which have no published form: "
            f"{', '.join(odd)}. Keep them with torch.save(model.state_dict(), ...)"
        )
    tensors = {published_name(name): tensor for name, tensor in ours.items()}
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with replacing(target / "config.json") as temporary:  # both are written before either takes its place
        write_json({**config, "dtype": dtype}, temporary)
        write_tensors(tensors, target / SAFETENSORS)


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file whole or not at all. Raises OSError, as on a full disk."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        # safetensors wants memory of its own for each; a model may share a layer with another.
        apart[name] = flat.clone() if flat.data_ptr() in seen else flat
        seen.add(flat.data_ptr())
    with replacing(path) as temporary:
        try:
            save_file(apart, temporary, metadata={"format": "pt"})  # without this mark transformers refuses the file
        except SafetensorError as error:
            raise OSError(f"{path}: could not be written ({error})") from error


def write_json(values: object, path: Path) -> None:
    """Write a small JSON file as the published ones look."""
    write_text(path, json.dumps(values, indent=2) + "\n")
