"""Google's TensorFlow 1 checkpoints: one that TensorFlow wrote (tools/make_tf1_fixture.py), and damaged ones."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minibert.checkpoint.tensorflow import read_tf1
from minibert.checkpoint.tensors import CheckpointError

FIXTURE = Path(__file__).parent / "fixtures" / "tf1"
INDEX, DATA = "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"
MAGIC = 0xDB4775248B80FB57
FLOAT32, FLOAT64, INT32, STRING, INT64, BFLOAT16, FLOAT16 = 1, 2, 3, 7, 9, 14, 19


# --- A small writer of the format, with its own checksum, so that the reader has a second opinion --------------------


def masked_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def varint(value: int) -> bytes:
    value %= 2**64
    groups = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def header(shards: int = 1, endianness: int = 0) -> bytes:
    return field(1, shards) + field(2, endianness) + field(3, field(1, 1))


def entry(
    dtype: int = FLOAT32,
    shape: Iterable[int] = (2, 3),
    shard: int = 0,
    offset: int = 0,
    size: int = 24,
    more: bytes = b"",
) -> bytes:
    dims = b"".join(field(2, field(1, dim)) for dim in shape)
    checksum = varint(6 << 3 | 5) + bytes(4)
    return field(1, dtype) + field(2, dims) + field(3, shard) + field(4, offset) + field(5, size) + checksum + more


def rows_of(rows: Iterable[tuple[bytes, bytes]]) -> bytes:
    out, last = b"", b""
    for key, value in rows:
        shared = 0
        while shared < min(len(key), len(last)) and key[shared] == last[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return out


def seal(contents: bytes, compression: int = 0) -> bytes:
    sealed = contents + bytes([compression])
    return sealed + struct.pack("<I", masked_crc32c(sealed))


def table(blocks: Iterable[bytes], compression: int = 0) -> bytes:
    """Put the blocks (rows, without their restarts) and their index in one table."""
    restarts = struct.pack("<II", 0, 1)
    out, handles = b"", []
    for number, rows in enumerate(blocks):
        handles.append((bytes([number]), varint(len(out)) + varint(len(rows + restarts))))
        out += seal(rows + restarts, compression)
    footer = b""
    for rows in (b"", rows_of(handles)):
        footer += varint(len(out)) + varint(len(rows + restarts))
        out += seal(rows + restarts)
    return out + footer.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def bundle(folder: Path, entries: dict[str, bytes], head: bytes = header(), data: bytes = bytes(24)) -> Path:
    rows = [(b"", head), *sorted((name.encode(), value) for name, value in entries.items())]
    (folder / DATA).write_bytes(data)
    (folder / INDEX).write_bytes(table([rows_of(rows)]))
    return folder / INDEX


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for name in (INDEX, DATA):
        shutil.copy(FIXTURE / name, tmp_path / name)
    return tmp_path / INDEX


# --- What TensorFlow wrote --------------------------------------------------------------------------------------------


def test_names_and_shapes() -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (99, 32),
        "bert.embeddings.position_embeddings.weight": (40, 32),
        "bert.embeddings.token_type_embeddings.weight": (3, 32),
        "cls.predictions.bias": (99,),
        "cls.seq_relationship.weight": (2, 32),
        "cls.seq_relationship.bias": (2,),
        "global_step": (),
        "bert.embeddings.LayerNorm.beta.adam_m": (32,),
        "bert.embeddings.LayerNorm.beta.adam_v": (32,),
        "bert.encoder.layer_0.intermediate.dense.kernel.adam_m": (32, 37),
        "bert.encoder.layer_0.intermediate.dense.kernel.adam_v": (32, 37),
    }
    dense = {"bert.pooler.dense": (32, 32), "cls.predictions.transform.dense": (32, 32)}
    norms = ["bert.embeddings", "cls.predictions.transform"]
    for layer in ("bert.encoder.layer.0", "bert.encoder.layer.1"):
        dense |= {f"{layer}.attention.self.{part}": (32, 32) for part in ("query", "key", "value")}
        dense |= {f"{layer}.attention.output.dense": (32, 32)}
        dense |= {f"{layer}.intermediate.dense": (37, 32), f"{layer}.output.dense": (32, 37)}
        norms += [f"{layer}.attention.output", f"{layer}.output"]
    for name, (out, wide) in dense.items():
        shapes |= {f"{name}.weight": (out, wide), f"{name}.bias": (out,)}
    for name in norms:
        shapes |= {f"{name}.LayerNorm.gamma": (32,), f"{name}.LayerNorm.beta": (32,)}

    stored = read_tf1(FIXTURE / INDEX)

    assert {name: tensor.shape for name, tensor in stored.items()} == shapes
    for name, tensor in stored.items():
        assert tensor.file == FIXTURE / DATA
        assert tensor.dtype == (torch.int64 if name == "global_step" else torch.float32)
        value = tensor.read()
        assert (value.dtype, value.shape) == (tensor.dtype, tensor.shape)
        assert value.is_contiguous()


def test_values_are_those_that_transformers_reads() -> None:
    stored = read_tf1(FIXTURE / INDEX)
    golden = {name: value for name, value in load_file(FIXTURE / "expected.safetensors").items() if "tensor." in name}
    assert len(golden) == 12
    for name, value in golden.items():
        old = name.removeprefix("tensor.")
        for modern, ancient in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
            old = old.replace(modern, ancient)
        assert torch.equal(stored[old].read(), value), name


def test_training_leftovers_can_be_read() -> None:
    stored = read_tf1(FIXTURE / INDEX)
    assert stored["global_step"].read().item() == 1234567
    assert stored["bert.encoder.layer_0.intermediate.dense.kernel.adam_v"].read().std() > 0.4


def test_bert_gives_what_transformers_gives() -> None:
    from minibert import Bert

    expected = load_file(FIXTURE / "expected.safetensors")
    model = Bert.from_pretrained(str(FIXTURE), dtype="float64")
    with torch.no_grad():
        out = model(expected["input_ids"], expected["attention_mask"], expected["token_type_ids"])
    assert out.pooler_output is not None
    torch.testing.assert_close(out.last_hidden_state, expected["last_hidden_state"], rtol=0, atol=1e-10)
    torch.testing.assert_close(out.pooler_output, expected["pooler_output"], rtol=0, atol=1e-10)


# --- What TensorFlow may write, and the fixture has not --------------------------------------------------------------


def test_checksum_is_crc32c() -> None:
    """The check value of CRC-32C's catalogue entry, before the mask, is 0xE3069283."""
    unmasked = (masked_crc32c(b"123456789") - 0xA282EAD8) % 2**32
    assert (unmasked >> 17 | unmasked << 15) % 2**32 == 0xE3069283


@pytest.mark.parametrize(
    ("code", "dtype"),
    [
        (FLOAT32, torch.float32),
        (FLOAT64, torch.float64),
        (FLOAT16, torch.float16),
        (BFLOAT16, torch.bfloat16),
        (INT32, torch.int32),
        (INT64, torch.int64),
    ],
)
def test_dtypes_and_odd_offsets(tmp_path: Path, code: int, dtype: torch.dtype) -> None:
    values = torch.tensor([[1, -2, 3], [40, 50, -60]], dtype=dtype)
    raw = values.view(torch.uint8).numpy().tobytes()
    index = bundle(tmp_path, {"bert/x/kernel": entry(code, offset=1, size=len(raw))}, data=b"?" + raw)
    stored = read_tf1(index)["bert.x.weight"]
    assert (stored.shape, stored.dtype) == ((3, 2), dtype)
    assert torch.equal(stored.read(), values.T)


def test_several_data_files_and_blocks(tmp_path: Path) -> None:
    blocks = [
        [(b"", header(shards=2)), (b"a/adam_m", entry(shard=1)), (b"b/Adam_1", entry(shard=0, offset=24))],
        [(b"bert/layer_1/bias", entry(shard=1, offset=24)), (b"beta1_power", entry(shape=(), size=4))],
    ]
    (tmp_path / INDEX).write_bytes(table(rows_of(rows) for rows in blocks))
    for shard in (0, 1):
        numbers = torch.arange(12, dtype=torch.float32) + 100 * shard
        (tmp_path / f"bert_model.ckpt.data-0000{shard}-of-00002").write_bytes(numbers.numpy().tobytes())
    read = {name: stored.read().flatten().tolist() for name, stored in read_tf1(tmp_path / INDEX).items()}
    assert read == {
        "a.adam_m": [100, 101, 102, 103, 104, 105],
        "b.Adam_1": [6, 7, 8, 9, 10, 11],
        "bert.layer.1.bias": [106, 107, 108, 109, 110, 111],
        "beta1_power": [0],
    }


def test_what_is_read_is_the_readers_own(copied: Path) -> None:
    before = copied.with_name(DATA).read_bytes()
    for stored in read_tf1(copied).values():
        stored.read().zero_()
    assert copied.with_name(DATA).read_bytes() == before


# --- Damage -----------------------------------------------------------------------------------------------------------


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(lambda data: b"", "cut short", id="empty"),
        pytest.param(lambda data: data[:47], "cut short", id="less than a footer"),
        pytest.param(lambda data: data[:-1], "cut short", id="last byte cut"),
        pytest.param(lambda data: data[len(data) // 2 :], "past the end", id="first half cut"),
        pytest.param(lambda data: flipped(data, len(data) - 3), "magic number", id="other magic"),
        pytest.param(lambda data: flipped(data, 100), "checksum", id="flipped in a data block"),
        pytest.param(lambda data: flipped(data, len(data) - 60), "checksum", id="flipped in the index block"),
        pytest.param(lambda data: bytes(40) + struct.pack("<Q", MAGIC), "past the end", id="footer alone"),
        pytest.param(lambda data: data[:-48] + b"\xff" * 40 + struct.pack("<Q", MAGIC), "64 bits", id="endless varint"),
        pytest.param(
            lambda data: data[:-48] + (varint(0) * 2 + varint(2**63) * 2).ljust(40, b"\0") + struct.pack("<Q", MAGIC),
            "past the end",
            id="block far away",
        ),
        pytest.param(lambda data: bytes(2**20 + 1), "over 1048576 bytes", id="too large"),
        pytest.param(lambda data: table([rows_of([(b"", header())])], 1), r"compressed \(snappy\)", id="snappy"),
        pytest.param(lambda data: table([rows_of([(b"", header())])], 4), r"compressed \(kind 4\)", id="compressed"),
        pytest.param(lambda data: table([]), "lacks the header", id="no rows"),
        pytest.param(lambda data: table([rows_of([(b"a", header())])]), "lacks the header", id="no header"),
        pytest.param(lambda data: table([rows_of([(b"", header(0))])]), "number of data files", id="no data files"),
        pytest.param(lambda data: table([rows_of([(b"", header(-1))])]), "number of data files", id="-1 data files"),
        pytest.param(lambda data: table([rows_of([(b"", header(1, 1))])]), "big-endian", id="big-endian"),
        pytest.param(lambda data: table([rows_of([(b"", b"\x0b")])]), "not a protocol buffer", id="foreign value"),
        pytest.param(lambda data: table([rows_of([(b"", header())])] * 2), "not in order", id="one key twice"),
        pytest.param(lambda data: table([b"\x01\x00\x00"]), "shares more", id="key shares with none"),
        pytest.param(lambda data: table([rows_of([(b"k" * 513, b"")])]), "longer than 512", id="long key"),
        pytest.param(lambda data: table([b"\x00\x00\x7f"]), "past the end", id="value past the block"),
        pytest.param(lambda data: table([b"\x00\x80"]), "past the end", id="varint past the block"),
    ],
)
def test_damaged_index(copied: Path, damage: Callable[[bytes], bytes], says: str) -> None:
    copied.write_bytes(damage(copied.read_bytes()))
    with pytest.raises(CheckpointError, match=says) as error:
        read_tf1(copied)
    assert str(copied) in str(error.value)


def test_too_many_restarts(copied: Path) -> None:
    block = seal(rows_of([(b"", header())]) + struct.pack("<I", 2**32 - 1))
    footer = (varint(0) * 2 + varint(0) + varint(len(block) - 5)).ljust(40, b"\0")
    copied.write_bytes(block + footer + struct.pack("<Q", MAGIC))
    with pytest.raises(CheckpointError, match="past the end"):
        read_tf1(copied)


def test_overlapping_blocks(copied: Path) -> None:
    block = seal(rows_of([(b"", header())]) + struct.pack("<II", 0, 1))
    handle = varint(0) + varint(len(block) - 5)
    index = seal(rows_of([(b"a", handle), (b"b", handle)]) + struct.pack("<II", 0, 1))
    footer = (varint(0) * 2 + varint(len(block)) + varint(len(index) - 5)).ljust(40, b"\0")
    copied.write_bytes(block + index + footer + struct.pack("<Q", MAGIC))
    with pytest.raises(CheckpointError, match="overlap"):
        read_tf1(copied)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        pytest.param(entry(dtype=STRING), "has type 7 of", id="strings"),
        pytest.param(entry(dtype=0), "has type 0 of", id="no type"),
        pytest.param(b"", "has type 0 of", id="nothing"),
        pytest.param(entry(shape=(2, 4)), r"can't have shape \(2, 4\)", id="shape of another size"),
        pytest.param(entry(shape=(-2, -3)), r"can't have shape \(-2, -3\)", id="negative"),
        pytest.param(entry(shape=(0, 2**62), size=0), r"can't have shape \(0, ", id="empty"),
        pytest.param(entry(shape=(2**31, 2**33), size=2**62), "can't have shape", id="product over 64 bits"),
        pytest.param(entry(shape=[1] * 100 + [6]), "can't have shape", id="many dimensions"),
        pytest.param(entry(size=-24), "can't have shape", id="negative size"),
        pytest.param(entry(shard=1), "lies in data file 1 of 1", id="data file out of range"),
        pytest.param(entry(shard=-1), "lies in data file -1 of 1", id="negative data file"),
        pytest.param(entry(more=field(7, field(1, b""))), "partitioned variable", id="slices"),
        pytest.param(entry(more=b"\x22\xff"), "past the end", id="message past the value"),
        pytest.param(field(1, FLOAT32) + field(2, b"\x12\x7f"), "past the end", id="dimension past the shape"),
    ],
)
def test_unusable_entry(tmp_path: Path, value: bytes, says: str) -> None:
    index = bundle(tmp_path, {"bert/x/kernel": value})
    with pytest.raises(CheckpointError, match=says) as error:
        read_tf1(index)
    assert str(index) in str(error.value)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(entry(offset=1), id="one byte too far"),
        pytest.param(entry(offset=2**62), id="far away"),
        pytest.param(entry(offset=-8), id="negative offset"),
        pytest.param(entry(shape=(2**30, 2**30), size=2**62), id="absurd, and consistent"),
    ],
)
def test_entry_outside_its_data_file(tmp_path: Path, value: bytes) -> None:
    index = bundle(tmp_path, {"bert/x/kernel": value})
    with pytest.raises(CheckpointError, match="too short: 'bert/x/kernel' takes") as error:
        read_tf1(index)
    assert str(tmp_path / DATA) in str(error.value)


def test_two_tensors_of_one_name(tmp_path: Path) -> None:
    index = bundle(tmp_path, {"bert/x/bias": entry(), "bert/x/output_bias": entry()})
    with pytest.raises(CheckpointError, match=r"two of its tensors are 'bert\.x\.bias'"):
        read_tf1(index)


def test_no_index(tmp_path: Path) -> None:
    for path in (tmp_path / INDEX, tmp_path):
        with pytest.raises(CheckpointError, match="no such file") as error:
            read_tf1(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("damage", ["missing", "short", "empty"])
def test_damaged_data_file(copied: Path, damage: str) -> None:
    data = copied.with_name(DATA)
    whole = data.read_bytes()
    data.unlink()
    if damage != "missing":
        data.write_bytes(whole[:-1] if damage == "short" else b"")
    with pytest.raises(CheckpointError, match="No such file" if damage == "missing" else "too short") as error:
        read_tf1(copied)
    assert str(data) in str(error.value)


def test_data_file_that_changes_before_it_is_read(copied: Path) -> None:
    data = copied.with_name(DATA)
    stored = read_tf1(copied)["bert.embeddings.word_embeddings.weight"]
    data.write_bytes(b"")
    with pytest.raises(CheckpointError, match="shorter") as error:
        stored.read()
    assert str(data) in str(error.value)
    data.unlink()
    with pytest.raises(CheckpointError, match="can't be read") as error:
        stored.read()
    assert str(data) in str(error.value)


def data_block(index: bytes) -> int:
    """The size of the fixture's one data block: the metaindex block follows it and its trailer."""
    low, high = index[-48:-46]
    return (low & 0x7F | high << 7) - 5


@pytest.mark.parametrize("sealed", [False, True], ids=["as it falls", "with a checksum that fits"])
def test_random_damage_gives_one_kind_of_error(copied: Path, sealed: bool) -> None:
    """With a checksum made to fit, the damage gets past it, to the rows and the protocol buffers."""
    whole = copied.read_bytes()
    size = data_block(whole)
    assert seal(whole[:size]) == whole[: size + 5]
    rng = random.Random(5)
    messages = []
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            damaged[rng.randrange(size if sealed else len(whole))] = rng.randrange(256)
        if sealed:
            damaged[: size + 5] = seal(bytes(damaged[:size]))
        elif rng.random() < 0.3:
            del damaged[rng.randrange(len(whole)) :]
        copied.write_bytes(damaged)
        try:
            for stored in read_tf1(copied).values():
                stored.read()
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 150
    assert all(message.startswith(str(copied.parent)) for message in messages)
