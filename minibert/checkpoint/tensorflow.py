"""Read Google's original BERT checkpoints (TensorFlow 1: ``bert_model.ckpt.index`` and its data files) in numpy.

Such a checkpoint is a *tensor bundle*. The data files (``bert_model.ckpt.data-00000-of-00001``) hold only the tensors'
bytes, and the index locates them. The index is a sorted table in LevelDB's format: data blocks, a metaindex block, an
index block and a footer.

The footer begins with two *handles* (a block's offset and size) and ends in a magic number. The second handle is the
index block's, and each value there is the handle of one data block. A block is a list of (key, value) rows, in which a
key stores only its difference from the key before. Restart points for binary search follow (unused here), then a
trailer with the kind of compression and a checksum. The values in the data blocks are protocol buffers: at the empty
key a ``BundleHeaderProto`` (number of data files, byte order), and at each tensor's name a ``BundleEntryProto`` (type,
shape, data file, offset, size).

Sources: LevelDB's doc/table_format.md and tensorflow/core/lib/io/format; tensorflow/core/util/tensor_bundle and
tensorflow/core/protobuf/tensor_bundle.proto; for the names, transformers 4's load_tf_weights_in_bert.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .tensors import CheckpointError, LazyTensor

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER, _TRAILER = 48, 5
# A row of a few bytes can repeat a long key, so these limits bound the memory that an index can ask for. BERT-large
# with its optimizer's state takes about 0.1 MB, with names of up to 90 bytes and two dimensions.
_MAX_INDEX, _MAX_NAME, _MAX_RANK = 1 << 20, 512, 8
# By their number in tensorflow/core/framework/types.proto.
_DTYPES = {1: torch.float32, 2: torch.float64, 3: torch.int32, 9: torch.int64, 14: torch.bfloat16, 19: torch.float16}
_WEIGHTS = {"kernel": "weight", "output_weights": "weight"}
_WEIGHTS |= {"bias": "bias", "output_bias": "bias", "gamma": "gamma", "beta": "beta"}


class _Bad(Exception):
    """A fault of the index and its remedy. ``read_tf1`` adds the file's name."""

    def __init__(self, fault: str, remedy: str = "Copy or download the checkpoint again") -> None:
        super().__init__(f"{fault}. {remedy}.")


def read_tf1(index_file: Path) -> dict[str, LazyTensor]:
    """List the tensors of a TensorFlow 1 BERT checkpoint, given its ``.index`` file; the data files lie beside it.

    The names are Hugging Face's, with LayerNorm's old ``gamma`` and ``beta``. The shapes are torch's: TensorFlow's
    ``kernel`` (in, out) becomes a ``weight`` (out, in). Leftovers of training (``global_step``, ``.../adam_m``) keep
    their shapes and names, with dots for slashes.

    Raises:
        CheckpointError: a file, which is named, is damaged or missing, or a tensor's format is unsupported.
    """
    try:
        if not index_file.is_file():
            raise _Bad("no such file", "Give the checkpoint's .index file")
        if index_file.stat().st_size > _MAX_INDEX:
            raise _Bad(f"over {_MAX_INDEX} bytes, which no BERT's index has", "Give a BERT checkpoint's index")
        return _lazy_tensors(index_file, _table(index_file.read_bytes()))
    except _Bad as bad:
        raise CheckpointError(f"{index_file}: {bad}") from None
    except OSError as error:  # of the index or of a data file
        where, what = error.filename or index_file, error.strerror
        raise CheckpointError(f"{where}: {what}. A checkpoint needs its .index and all its .data files.") from None


class _Cursor:
    """Read bytes in order, never past their end."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self.data) - self.at:
            raise _Bad("damaged: a length or an offset points past the end")
        self.at += size
        return self.data[self.at - size : self.at]

    def varint(self) -> int:
        """Read an unsigned number with seven bits per byte, lowest first."""
        value = 0
        for shift in range(0, 70, 7):  # 64 bits take 10 bytes
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise _Bad("damaged: a number has more than 64 bits")


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the table's rows (key, value) in order."""
    if len(data) < _FOOTER or not data.endswith(_MAGIC):
        raise _Bad("cut short, or not a TensorFlow checkpoint's index: it doesn't end in the format's magic number")
    body, footer = data[:-_FOOTER], _Cursor(data[-_FOOTER:])
    _, _, offset, size = (footer.varint() for _ in range(4))
    end, last = 0, None
    for _, value in _rows(_block(body, offset, size)):
        handle = _Cursor(value)
        offset, size = handle.varint(), handle.varint()
        if offset < end:  # else a small file could make us read one block many times
            raise _Bad("damaged: its blocks overlap")
        end = offset + size + _TRAILER
        for key, row in _rows(_block(body, offset, size)):
            if last is not None and key <= last:
                raise _Bad("damaged: its keys are not in order")
            last = key
            yield key, row


def _block(body: bytes, offset: int, size: int) -> bytes:
    cursor = _Cursor(body, offset)
    sealed, checksum = cursor.take(size + 1), cursor.take(4)
    if _masked_crc32c(sealed) != int.from_bytes(checksum, "little"):
        raise _Bad(f"damaged: the block at byte {offset} doesn't match its checksum")
    if sealed[-1] != 0:
        kind = "snappy" if sealed[-1] == 1 else f"kind {sealed[-1]}"
        raise _Bad(f"the block at byte {offset} is compressed ({kind})", "Save it again by tf.compat.v1.train.Saver")
    return sealed[:-1]


def _rows(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    restarts = int.from_bytes(block[-4:], "little")
    rows = _Cursor(_Cursor(block).take(len(block) - 4 * (restarts + 1)))
    key = b""
    while rows:
        shared, unshared, size = rows.varint(), rows.varint(), rows.varint()
        if shared > len(key) or shared + unshared > _MAX_NAME:
            raise _Bad(f"damaged: a name shares more than the last one has, or is longer than {_MAX_NAME} bytes")
        key = key[:shared] + rows.take(unshared)
        yield key, rows.take(size)


def _masked_crc32c(data: bytes) -> int:
    """Return CRC-32C, rotated right by 15 bits, plus a constant (LevelDB's util/crc32c.h)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)  # the Castagnoli polynomial, bits reversed
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _message(data: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """Split a protocol buffer into its numbers (the last of each field, else 0) and nested messages, by field."""
    numbers: dict[int, int] = defaultdict(int)
    nested: dict[int, list[bytes]] = defaultdict(list)
    cursor = _Cursor(data)
    while cursor:
        field, kind = divmod(cursor.varint(), 8)
        if kind == 0:
            value = cursor.varint()
            numbers[field] = value - (1 << 64) if value >> 63 else value  # int32 and int64: two's complement
        elif kind == 2:
            nested[field].append(cursor.take(cursor.varint()))
        elif kind in (1, 5):  # fixed numbers: only the tensors' checksums
            cursor.take(8 if kind == 1 else 4)
        else:
            raise _Bad("damaged: a value is not a protocol buffer")
    return numbers, nested


def _lazy_tensors(index_file: Path, rows: Iterator[tuple[bytes, bytes]]) -> dict[str, LazyTensor]:
    key, value = next(rows, (b"no header", b""))
    header, _ = _message(value)
    shards = header[1]
    if key or shards < 1:
        raise _Bad("a table, but not a TensorFlow checkpoint's: it lacks the header, or the number of data files")
    if header[2] != 0:
        raise _Bad("its data are big-endian", "Save it again on a little-endian machine")
    tensors: dict[str, LazyTensor] = {}
    for key, value in rows:
        tf_name = key.decode(errors="backslashreplace")
        entry, nested = _message(value)
        if not 0 <= entry[3] < shards:
            raise _Bad(f"damaged: {tf_name!r} lies in data file {entry[3]} of {shards}")
        name = _hugging_face_name(tf_name)
        if name in tensors:
            raise _Bad(f"two of its tensors are {name!r}")
        file = index_file.with_name(f"{index_file.stem}.data-{entry[3]:05d}-of-{shards:05d}")
        tensors[name] = _tensor(tf_name, file, entry, nested)
    return tensors


def _tensor(name: str, file: Path, entry: dict[int, int], nested: dict[int, list[bytes]]) -> LazyTensor:
    """Check the offset and size of a ``BundleEntryProto`` against its data file.

    Field 6, the data's checksum, is ignored: 400 MB of BERT would take minutes in pure Python.
    """
    if nested[7]:
        raise _Bad(f"{name!r} is a partitioned variable (it has slices)", "Save it again without a partitioner")
    if entry[1] not in _DTYPES:
        fault = f"{name!r} has type {entry[1]} of TensorFlow's types.proto, which minibert does not read"
        raise _Bad(fault, "Save a TensorFlow 1 checkpoint, with float, int32 and int64 variables only")
    dtype, offset, size = _DTYPES[entry[1]], entry[4], entry[5]
    dims = [dim for part in nested[2] for dim in _message(part)[1][2]]
    shape = tuple(_message(dim)[0][1] for dim in dims[: _MAX_RANK + 1])
    count, length, again = math.prod(shape), file.stat().st_size, "Copy or download it again."
    if len(shape) > _MAX_RANK or min(shape, default=1) < 1 or count * dtype.itemsize != size:
        raise _Bad(f"damaged: {name!r} can't have shape {shape} and type {dtype} in {size} bytes")
    if not 0 <= offset <= length - size:
        raise CheckpointError(f"{file}: {length} bytes, too short: {name!r} takes {size} at byte {offset}. {again}")
    transposed = name.endswith("/kernel") and len(shape) == 2

    def read() -> Tensor:
        try:  # not mapped: a map keeps its file open, and BERT-large has more tensors than macOS allows open files
            array = np.fromfile(file, f"<i{dtype.itemsize}", count, offset=offset)  # numpy lacks bfloat16
        except OSError as error:
            raise CheckpointError(f"{file}: can't be read ({error}). {again}") from None
        if array.size != count:
            raise CheckpointError(f"{file}: became shorter after it was opened. {again}")
        tensor = torch.from_numpy(array).view(dtype).reshape(shape)
        return tensor.t().contiguous() if transposed else tensor

    return LazyTensor(shape[::-1] if transposed else shape, dtype, file, read)


def _hugging_face_name(name: str) -> str:
    scope, _, last = name.rpartition("/")
    if last.endswith("_embeddings"):  # the table itself, which TensorFlow names after its scope
        name = f"{name}/weight"
    elif scope and last in _WEIGHTS:  # other names are leftovers of training
        name = re.sub(r"/layer_([0-9]+)/", r"/layer.\1/", f"{scope}/{_WEIGHTS[last]}")
    return name.replace("/", ".")
