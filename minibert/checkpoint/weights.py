"""Weights as they lie on the disk: safetensors, PyTorch pickles (restricted), either of them in shards.

Checkpoints are untrusted input. A file is opened so that nothing in it is run and so that no memory is taken on its
word alone: headers first, then shapes against config.json, then the tensors, mapped where the format allows it.
"""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import read_json_object
from .hub import CheckpointFiles
from .tensorflow import read_tf1
from .tensors import CheckpointError, LazyTensor, damaged

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
TF1 = "bert_model.ckpt.index"

# In this order: safetensors wins where a pickle lies beside it.
CANDIDATES = (SAFETENSORS, f"{SAFETENSORS}.index.json", PICKLE, f"{PICKLE}.index.json")

_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def open_weights(files: CheckpointFiles, candidates: tuple[str, ...] = CANDIDATES) -> dict[str, LazyTensor]:
    """Name in the file -> tensor not yet read, from the first kind of file that the checkpoint has.

    Raises:
        CheckpointError, ConfigError: there are no weights that minibert reads, or a file is damaged; it is named.
        OSError: a file can't be had or read.
    """
    path = files.first(candidates)
    if path is None and (path := files.cached(TF1)) is not None:
        return read_tf1(path)
    if path is None:
        others = [name for name in ("tf_model.h5", "flax_model.msgpack", "onnx/model.onnx") if files.cached(name)]
        raise CheckpointError(
            f"{files.name} has no weights that minibert reads{files.excuse}: none of {', '.join((*candidates, TF1))}"
            + (f" (it has {', '.join(others)}; convert it to model.safetensors first)" if others else "")
        )
    if path.name.endswith(".index.json"):
        return _open_shards(files, path)
    return _open_one(path)


def _open_one(path: Path) -> dict[str, LazyTensor]:
    return _open_safetensors(path) if path.name.endswith(".safetensors") else _open_pickle(path)


def _open_shards(files: CheckpointFiles, index: Path) -> dict[str, LazyTensor]:
    """Follow the index; every tensor must lie in the shard that it names."""
    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise CheckpointError(f"{index}: an index of shards needs a weight_map from tensor names to file names")
    kind = ".safetensors" if index.name.startswith(SAFETENSORS) else ".bin"
    shards: dict[str, dict[str, LazyTensor]] = {}
    for place in dict.fromkeys(places.values()):
        if not place.endswith(kind):
            raise CheckpointError(f"{index}: the shard {place!r} is not a {kind} file")
        shards[place] = _open_one(files.require(place))
    if lost := [f"{name} (in {place})" for name, place in places.items() if name not in shards[place]]:
        raise CheckpointError(f"{index}: not in the shard that the index names: {', '.join(lost)}")
    return {name: shards[place][name] for name, place in places.items()}


def _open_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Read the header; safetensors itself checks it against the size of the file."""
    stored = {}
    try:
        handle = safe_open(path, framework="pt")
        mapped = None if sys.byteorder == "big" else _Mapped(path)
        for name in handle.keys():  # noqa: SIM118 - a handle is no dict
            header = handle.get_slice(name)
            kind = header.get_dtype()
            if kind not in _SAFETENSORS_DTYPES:
                raise CheckpointError(f"{path}: {name} is of dtype {kind}, which minibert does not read")
            shape, dtype = tuple(header.get_shape()), _SAFETENSORS_DTYPES[kind]
            read = partial(handle.get_tensor, name) if mapped is None else partial(mapped.tensor, name, dtype, shape)
            stored[name] = LazyTensor(shape, dtype, path, read)
    except (SafetensorError, RuntimeError) as error:  # torch's where the file can't be mapped
        raise damaged(path, error) from error
    return stored


class _Mapped:
    """Tensors of a safetensors file that was found sound, as `get_tensor` gives them, but none of their bytes read.

    safetensors looks at the first of each tensor's, around which the system may bring megabytes into memory.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            self.header = json.loads(file.read(size))
        self.begin = 8 + size
        self.storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=path.stat().st_size)

    def tensor(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        first, last = self.header[name]["data_offsets"]
        return torch.empty(0, dtype=dtype).set_(self.storage[self.begin + first : self.begin + last]).view(shape)


def _open_pickle(path: Path) -> dict[str, LazyTensor]:
    """Read a state dict saved by torch.save, with an unpickler that can build tensors and containers and nothing else.

    The zip format (torch 1.6 and later) is mapped; the older one is read.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # as torch tells the two formats apart
    try:
        if zipped:
            _refuse_bombs(path)
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        # Not torch's first line: it advises to run the file's code.
        why = [line for line in str(error).splitlines() if "GLOBAL" in line or line.startswith("Unsupported")]
        raise CheckpointError(
            f"{path}: holds more than tensors, or is damaged, and was not opened further. A pickle can run any code, "
            f"so only weights are read from it. ({''.join(why[:1]) or type(error).__name__})"
        ) from error
    except Exception as error:  # torch raises nearly every kind for damaged files
        raise damaged(path, error) from error
    if not isinstance(values, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in values.items()
    ):
        raise CheckpointError(f"{path}: expected a flat dict from names to tensors, as model.state_dict() gives")
    if odd := [name for name, t in values.items() if t.layout != torch.strided or t.is_nested or t.is_meta]:
        raise CheckpointError(f"{path}: sparse, nested or without numbers, which can't be read: {', '.join(odd)}")
    return {
        name: LazyTensor(tuple(tensor.shape), tensor.dtype, path, partial(_unpickled, path, name, tensor))
        for name, tensor in values.items()
    }


def _unpickled(path: Path, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A stride of 0 makes one number stand for any number of them: a small file that would fill the memory."""
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{path}: {name} claims {tuple(tensor.shape)}, more than the file holds for it")
    return tensor.detach()


def _refuse_bombs(path: Path) -> None:
    """torch.save never compresses, so a compressed entry is not its work, and might unpack to any size."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise CheckpointError(
                    f"{path}: {entry.filename} is compressed ({entry.compress_size} bytes that say they are "
                    f"{entry.file_size}); torch.save does not do that, so the file is not opened"
                )
