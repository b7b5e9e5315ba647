"""Open weights on the disk: safetensors, PyTorch pickles (restricted), shards of either, TensorFlow 1.

Checkpoints are untrusted input. Opening a file runs nothing in it and takes no memory on its word alone. Headers come
first, then shapes against config.json, then the tensors, mapped where the format allows it.
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import re
import sys
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import read_json
from .hub import CheckpointFiles
from .tensorflow import read_tf1
from .tensors import CheckpointError, LazyTensor, damaged

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
TF1 = "bert_model.ckpt.index"

# In this order: safetensors goes before a pickle.
CANDIDATES = (SAFETENSORS, f"{SAFETENSORS}.index.json", PICKLE, f"{PICKLE}.index.json")

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_DTYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}
_DTYPES |= {"BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn}
# What pickles of tensors name: no type that takes memory on the file's word. STACK_GLOBAL is refused by torch.
_TYPES = re.compile(
    r"collections OrderedDict|torch(\.storage)? \w+Storage|torch Size|torch\.serialization _get_layout"
    r"|torch (b?float|u?int|bool)\w*|torch\._utils _rebuild_(parameter(_with_state)?|meta_tensor_no_storage)"
    r"|torch\._utils _rebuild_((sparse_|nested_)?tensor|tensor_v[23])"
)
LARGEST = 200  # tuples in a tuple, counted as often as they are there; a state dict's have fewer than 10
MARK, MARKS = -1, (pickletools.markobject, pickletools.stackslice)


def open_weights(files: CheckpointFiles, candidates: tuple[str, ...] = CANDIDATES) -> dict[str, LazyTensor]:
    """Map names in the file to unread tensors, from the first kind of file that the checkpoint has.

    It raises CheckpointError, ConfigError or OSError, which names the file, if minibert can't read the weights.
    """
    path = files.first(candidates) or files.cached(TF1)
    if path is None:
        others = [name for name in ("tf_model.h5", "flax_model.msgpack", "onnx/model.onnx") if files.cached(name)]
        advice = f" (it has {', '.join(others)}; convert it to model.safetensors first)" if others else ""
        text = f"has no weights that minibert reads{files.excuse}: none of {', '.join((*candidates, TF1))}"
        raise CheckpointError(f"{files.name} {text}{advice}")
    return _open_shards(files, path) if path.suffix == ".json" else _open_one(path)


def _open_one(path: Path) -> dict[str, LazyTensor]:
    return {".safetensors": _open_safetensors, ".bin": _open_pickle, ".index": read_tf1}[path.suffix](path)


def _open_shards(files: CheckpointFiles, index: Path) -> dict[str, LazyTensor]:
    """Follow the index. Every tensor must be in the shard that it names."""
    places = read_json(index).get("weight_map")
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
    """Map the file, after safetensors has checked its header against its size.

    safetensors' own `get_tensor` reads each tensor's first byte, and the system may load megabytes around it.
    """
    try:
        handle = safe_open(path, framework="pt")
        storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=path.stat().st_size)
    except (SafetensorError, RuntimeError) as error:  # RuntimeError: torch can't map the file
        raise damaged(path, error) from error
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)

    def find(name: str) -> Tensor:
        first, last = (8 + size + offset for offset in header[name]["data_offsets"])
        empty = torch.empty(0, dtype=_DTYPES[header[name]["dtype"]])
        return empty.set_(storage[first:last]).view(header[name]["shape"])

    read = handle.get_tensor if sys.byteorder == "big" else find  # files are little-endian
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise CheckpointError(f"{path}: {name} is of dtype {entry['dtype']}, which minibert does not read")
        if entry["dtype"].startswith("F8") and {f"{name}_scale", f"{name}_scale_inv"} & header.keys():
            raise CheckpointError(
                f"{path}: {name} is quantised, with a scale, which minibert does not read: save float16"
            )
        tensors[name] = LazyTensor(tuple(entry["shape"]), _DTYPES[entry["dtype"]], path, partial(read, name))
    return tensors


def _open_pickle(path: Path) -> dict[str, LazyTensor]:
    """Read a state dict of torch.save, with an unpickler that builds only tensors and containers.

    The zip format (torch 1.6 and later) is mapped, the older format is read.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # torch's own test for the format
    try:
        records = _check_zip(path) if zipped else None
        if not zipped:
            with path.open("rb") as file:
                _check_types(file, 5)  # three of the format, the state dict, and the keys of its storages
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        # torch's first line is left out: it advises to run the file's code.
        why = [line for line in str(error).splitlines() if "GLOBAL" in line or line.startswith("Unsupported")]
        text = "damaged, or holds more than tensors. A pickle can run any code, so only tensors are read from it"
        raise CheckpointError(f"{path}: {text} ({''.join(why[:1]) or type(error).__name__})") from error
    except Exception as error:  # torch raises nearly any exception for damaged files
        raise damaged(path, error) from error
    flat = isinstance(values, dict) and all(isinstance(value, Tensor) for value in values.values())
    if not flat or not all(isinstance(name, str) for name in values):
        raise CheckpointError(f"{path}: expected a flat dict from names to tensors, as model.state_dict() gives")
    if odd := [name for name, t in values.items() if t.layout != torch.strided or t.is_nested or t.is_meta]:
        raise CheckpointError(f"{path}: minibert can't read sparse, nested or meta tensors: {', '.join(odd)}")
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in values.values() if t.numel()}
    if records is not None and (lost := Counter(storages.values()) - records):
        raise CheckpointError(f"{path}: damaged: no record of the zip has the {min(lost)} bytes of one of its tensors")
    return {n: LazyTensor(tuple(t.shape), t.dtype, path, partial(_unpickled, path, n, t)) for n, t in values.items()}


def _unpickled(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Detach the tensor. Refuse a stride of 0, which repeats one number: a small file would fill the memory."""
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{path}: {name} claims {tuple(tensor.shape)}, more than the file holds for it")
    return tensor.detach()


def _check_zip(path: Path) -> Counter[int]:
    """Check the records before anything is unpacked, and count those of tensors by their size.

    torch maps as many bytes as the pickle says, whatever the record's size, so they might be the next record's.
    """
    records: Counter[int] = Counter()
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                sizes = f"{entry.compress_size} bytes that claim to be {entry.file_size}"
                raise CheckpointError(f"{path}: {entry.filename} is compressed ({sizes}), which torch.save never does")
            records[entry.file_size] += "/data/" in entry.filename
            if entry.filename.endswith("data.pkl"):
                _check_types(io.BytesIO(archive.read(entry)), 1)
    return records


def _check_types(file: BinaryIO, pickles: int) -> None:
    """Refuse pickles with other types than a state dict's: torch also builds byte arrays, of any size they say.

    Refuse tuples that unfold to many values, too. Python hashes them without a bound: such a key overflows its stack,
    or takes for ever where a tuple has another one several times.
    """
    for _ in range(pickles):
        stack: list[int] = []  # to how many tuples each value unfolds that torch would have on its stack, or MARK
        memo: dict[object, int] = {}
        for code, value, _ in pickletools.genops(file):
            if code.name in ("GLOBAL", "INST") and not _TYPES.fullmatch(str(value)):
                raise pickle.UnpicklingError(f"GLOBAL {str(value)[:99]}")
            taken = [0]
            if pickletools.markobject in code.stack_before:
                taken += iter(stack.pop, MARK)
            taken += [stack.pop() for kind in code.stack_before if kind not in MARKS]
            size = memo.get(value, 0) if "GET" in code.name else max(taken)
            if code.name.startswith("TUPLE") and (size := 1 + sum(taken)) > LARGEST:
                raise ValueError(f"a tuple unfolds to more than {LARGEST} tuples")
            stack += [MARK if kind is pickletools.markobject else size for kind in code.stack_after]
            if "PUT" in code.name:
                memo[value] = stack[-1]
