"""Files that are damaged or hostile: each gives ONE clear error of ours, fast, and takes no memory worth the name."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import resource
import shutil
import struct
import sys
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers import TINY, widen
from torch import Tensor

from minibert import Bert, BertForSequenceClassification, CheckpointError, ConfigError, HubError
from minibert.checkpoint.hub import open_files
from minibert.checkpoint.load import WrongTensorsError

OURS = (CheckpointError, ConfigError, HubError)
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX = f"{SAFETENSORS}.index.json"
TERA = 10**12


# --- A good checkpoint, and what tears it up


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    widen(Bert(TINY)).save_pretrained(folder)
    Bert.from_pretrained(folder)  # what a first load imports is no test's fault
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A whole checkpoint of our own."""
    shutil.copytree(original, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def modest(original: Path) -> Iterator[None]:
    """Whatever is in a file: under 5 seconds, and no new peak of memory above 100 MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    began, peak = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - began < 20
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * unit < 100e6


def refused(folder: Path, *words: str) -> Exception:
    """Load, and give back the error, which must be one of ours and say all of the words."""
    with pytest.raises(OURS) as caught:
        Bert.from_pretrained(folder)
    for word in words:
        assert word in str(caught.value)
    return caught.value


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in values.items() if value != "absent"}))


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / SAFETENSORS)


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in tensors_of(folder).items()}
    change(tensors)
    safetensors.torch.save_file(tensors, folder / SAFETENSORS)


def with_header(good: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The safetensors file with another header: its length, JSON, then the tensors' bytes."""
    (length,) = struct.unpack("<Q", good[:8])
    header = json.loads(good[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + good[8 + length :]


def filled_header(good: bytes, filling: bytes) -> bytes:
    (length,) = struct.unpack("<Q", good[:8])
    return good[:8] + (filling * length)[:length] + good[8 + length :]


def torch_saved(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def use_pickle(folder: Path, content: bytes) -> None:
    """Let the folder hold this pytorch_model.bin and no other weights."""
    (folder / SAFETENSORS).unlink(missing_ok=True)
    (folder / PICKLE).write_bytes(content)


# --- model.safetensors

CUTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "in the header's length": lambda good: good[:7],
    "after the header's length": lambda good: good[:8],
    "in the header": lambda good: good[:1000],
    "in the tensors": lambda good: good[: len(good) // 2],
    "by the last byte": lambda good: good[:-1],
}
GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "a byte too many": lambda good: good + b"\0",
    "random bytes": lambda good: random.Random(0).randbytes(len(good)),
    "zeros": lambda good: bytes(len(good)),
    "a header of 2**60 bytes": lambda good: struct.pack("<Q", 2**60) + good[8:],
    "a header of 0xFF": lambda good: filled_header(good, b"\xff"),
    "a header of NaN": lambda good: filled_header(good, b"NaN,"),
    "a header that is no JSON": lambda good: filled_header(good, b"{"),
    "a header that is a list": lambda good: filled_header(good, b"[1,2]" + b" " * 10**4),
    "a header nested too deep": lambda good: filled_header(good, b"["),
    "a web page": lambda good: b"<!DOCTYPE html><html>Sign in</html>",
    "a pointer of git-lfs": lambda good: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
}


@pytest.mark.parametrize("damage", [*CUTS.values(), *GARBAGE.values()], ids=[*CUTS, *GARBAGE])
def test_a_damaged_safetensors_file_is_named(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    path = folder / SAFETENSORS
    path.write_bytes(damage(path.read_bytes()))
    refused(folder, str(path), "damaged")


BIAS = "embeddings.LayerNorm.bias"
HEADERS: dict[str, dict[str, Any]] = {
    "10 TB, with offsets of a few bytes": {"dtype": "F32", "shape": [5 * TERA // 2], "data_offsets": [0, 128]},
    "10 TB, with offsets that agree": {"dtype": "F32", "shape": [5 * TERA // 2], "data_offsets": [0, 10 * TERA]},
    "more bytes than 64 bits count": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 128]},
    "a negative size": {"dtype": "F32", "shape": [-32], "data_offsets": [0, 128]},
    "offsets that overlap": {"dtype": "F32", "shape": [32], "data_offsets": [64, 192]},
    "an unknown dtype": {"dtype": "F33", "shape": [32], "data_offsets": [0, 128]},
}


@pytest.mark.parametrize("entry", HEADERS.values(), ids=HEADERS)
def test_a_safetensors_header_is_not_believed(folder: Path, entry: dict[str, Any]) -> None:
    path = folder / SAFETENSORS
    path.write_bytes(with_header(path.read_bytes(), lambda header: header.update({BIAS: entry})))
    refused(folder, str(path), "damaged")


def test_a_dtype_that_minibert_does_not_read_is_named(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({BIAS: t[BIAS].to(torch.float8_e5m2)}))
    refused(folder, SAFETENSORS, BIAS, "F8_E5M2")


def test_eight_bits_without_a_scale_are_read_and_with_one_refused(folder: Path) -> None:
    """As transformers 5.23 reads them where there is none; where there is, its quantisers would multiply by it."""
    before = Bert.from_pretrained(folder).state_dict()["embeddings.norm.bias"]
    change_tensors(folder, lambda t: t.update({BIAS: t[BIAS].to(torch.float8_e4m3fn)}))
    after = Bert.from_pretrained(folder).state_dict()["embeddings.norm.bias"]
    assert torch.equal(after, before.to(torch.float8_e4m3fn).float())
    change_tensors(folder, lambda t: t.update({f"{BIAS}_scale": torch.ones(1)}))
    refused(folder, SAFETENSORS, BIAS, "quantised, with a scale")


def test_weights_that_are_integers_are_named(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({BIAS: t[BIAS].to(torch.int32)}))
    refused(folder, SAFETENSORS, BIAS, "int32")


# --- Tensors that do not fit the configuration


def test_a_wrong_shape_is_told_with_both_shapes(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({BIAS: torch.zeros(33)}))
    error = refused(folder, str(folder), f"{BIAS}: (33,) in the files, (32,) by config.json")
    assert isinstance(error, WrongTensorsError)
    assert error.report.wrong_shape == (f"{BIAS}: (33,) in the files, (32,) by config.json",)


def test_all_missing_and_all_unexpected_tensors_are_listed_by_their_published_names(folder: Path) -> None:
    missing = ("encoder.layer.0.attention.self.query.weight", "encoder.layer.1.output.LayerNorm.bias")
    unexpected = ("adapter.weight", "encoder.layer.2.attention.self.query.weight", "lm_head.bias")

    def change(tensors: dict[str, Tensor]) -> None:
        for name in missing:
            del tensors[name]
        tensors.update(dict.fromkeys(unexpected[:1], torch.zeros(1)))
        tensors.update({name: torch.zeros(1) for name in unexpected[1:]})

    change_tensors(folder, change)
    error = refused(folder, *missing, *unexpected, "2 missing", "3 unexpected")
    assert isinstance(error, WrongTensorsError)
    assert set(error.report.missing) == set(missing)
    assert set(error.report.unexpected) == set(unexpected)
    assert not error.report.complete


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "0.auto_model.", "base_model.model."])
@pytest.mark.parametrize("inner", ["", "bert."])
def test_the_prefix_of_a_model_around_bert_is_said_in_one_line(folder: Path, prefix: str, inner: str) -> None:
    tensors = {prefix + inner + name: tensor for name, tensor in tensors_of(folder).items()}
    safetensors.torch.save_file(tensors, folder / SAFETENSORS)
    error = refused(folder, f"{len(tensors)} names begin with {prefix!r}")
    assert "\n" not in str(error)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("alone", [True, False])
def test_an_adapter_is_named_and_not_ignored(folder: Path, file: str, alone: bool) -> None:
    (folder / file).write_text('{"peft_type": "LORA"}')
    if alone:
        (folder / "config.json").unlink()
        (folder / SAFETENSORS).unlink()
    refused(folder, file, "adapter", "peft")


@pytest.mark.parametrize("lost", ["weight", "bias"])
def test_half_a_pooler_is_refused(folder: Path, lost: str) -> None:
    change_tensors(folder, lambda t: t.pop(f"pooler.dense.{lost}"))
    refused(folder, "half a pooler", f"pooler.dense.{'bias' if lost == 'weight' else 'weight'}")


def test_two_names_for_one_tensor_are_both_named(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({f"bert.{BIAS}": t[BIAS].clone()}))
    refused(folder, f"bert.{BIAS}", f"{BIAS} and")


def test_gamma_stands_for_weight_in_a_layer_norm_only(folder: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["embeddings.LayerNorm.gamma"] = tensors.pop("embeddings.LayerNorm.weight")
        tensors["embeddings.not_layernorm.gamma"] = torch.zeros(32)

    change_tensors(folder, change)
    error = refused(folder, "embeddings.not_layernorm.gamma")
    assert isinstance(error, WrongTensorsError)
    assert error.report.unexpected == ("embeddings.not_layernorm.gamma",)
    assert error.report.missing == ()


def test_a_class_that_adds_weights_is_told_to_add_them_afterwards(folder: Path) -> None:
    class WithHead(Bert):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.head = torch.nn.Linear(32, 2)

    with pytest.raises(CheckpointError, match=r"WithHead .*'head'"):
        WithHead.from_pretrained(folder)


# --- Shards


def shard(folder: Path, **changes: Any) -> None:
    """Put the weights into one shard and an index."""
    (folder / SAFETENSORS).rename(folder / "shard.safetensors")
    names = safetensors.torch.load_file(folder / "shard.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {**dict.fromkeys(names, "shard.safetensors"), **changes}}))


NO_SHARDS = ("../../etc/passwd", "../model.safetensors", "/abs/path.safetensors", "a/../../b.safetensors")
NO_SHARDS += ("..\\b.safetensors", "C:b.safetensors", "\0.safetensors", "", "config.json", PICKLE)
NO_SHARDS += ("x" * 5000 + ".safetensors", "x/" * 5000 + ".safetensors")


@pytest.mark.parametrize("place", NO_SHARDS, ids=lambda place: ascii(place)[:30])
def test_an_index_can_name_no_file_but_shards_of_its_folder(folder: Path, place: str) -> None:
    (folder / PICKLE).write_bytes(torch_saved(tensors_of(folder)))
    shutil.copy(folder / SAFETENSORS, folder.parent)
    shard(folder, **{BIAS: place})
    refused(folder, repr(place)[1:-1][:200])


def test_a_shard_that_is_missing_is_named(folder: Path) -> None:
    shard(folder, **{BIAS: "lost.safetensors"})
    refused(folder, str(folder), "lost.safetensors")


def test_a_shard_that_is_damaged_is_named(folder: Path) -> None:
    shard(folder)
    (folder / "shard.safetensors").write_bytes(b"damaged")
    refused(folder, str(folder / "shard.safetensors"))


def test_a_tensor_that_is_not_in_its_shard_is_named(folder: Path) -> None:
    shard(folder, **{"embeddings.LayerNorm.lost": "shard.safetensors"})
    refused(folder, INDEX, "embeddings.LayerNorm.lost", "shard.safetensors")


INDICES = {
    "empty": b"",
    "no JSON": b"{'weight_map': {}}",
    "not UTF-8": b"\xff\xfe",
    "a list": b"[]",
    "nested too deep": b"[" * 10**5,
    "no weight_map": b"{}",
    "weight_map is a list": b'{"weight_map": []}',
    "weight_map to numbers": b'{"weight_map": {"a": 1}}',
    "weight_map to objects": b'{"weight_map": {"a": {}}}',
}


@pytest.mark.parametrize("content", INDICES.values(), ids=INDICES)
def test_a_damaged_index_is_named(folder: Path, content: bytes) -> None:
    shard(folder)
    (folder / INDEX).write_bytes(content)
    refused(folder, str(folder / INDEX))


def test_an_index_of_nothing_is_refused(folder: Path) -> None:
    shard(folder)
    (folder / INDEX).write_text('{"weight_map": {}}')
    refused(folder, str(folder), "37 missing")


# --- pytorch_model.bin


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_whole_pickle_loads(folder: Path, zipped: bool) -> None:
    use_pickle(folder, torch_saved(tensors_of(folder), _use_new_zipfile_serialization=zipped))
    Bert.from_pretrained(folder)


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.01, 0.2, 0.5, 0.9, 0.99, 0.99999])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_is_cut_short_is_named(folder: Path, zipped: bool, share: float) -> None:
    whole = torch_saved(tensors_of(folder), _use_new_zipfile_serialization=zipped)
    use_pickle(folder, whole[: int(len(whole) * share)])
    refused(folder, str(folder / PICKLE), "damaged")


class RunsCode:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.witness}",)


HOSTILE: dict[str, Callable[[object], bytes]] = {
    "zip": torch_saved,
    "legacy": lambda value: torch_saved(value, _use_new_zipfile_serialization=False),
    "bare": lambda value: pickle.dumps(value, protocol=2),
}


@pytest.mark.parametrize("save", HOSTILE.values(), ids=HOSTILE)
def test_code_in_a_pickle_is_not_run(folder: Path, tmp_path: Path, save: Callable[[object], bytes]) -> None:
    witness = tmp_path / "witness"
    use_pickle(folder, save({BIAS: RunsCode(witness)}))
    error = refused(folder, str(folder / PICKLE), "A pickle can run any code")
    assert "weights_only" not in str(error)  # torch's own message advises to run it
    assert not witness.exists()
    pickle.loads(pickle.dumps(RunsCode(witness)))
    assert witness.exists()  # it would have


@pytest.mark.parametrize("within", [b"%s", b"%sK\x01s", b"%sQ"], ids=["value", "key", "name of a storage"])
@pytest.mark.parametrize("deeper", [b"\x85" * 3000, b"\x85q\x01h\x01\x86" * 40], ids=["deep", "unfolding"])
@pytest.mark.parametrize("save", ["zip", "legacy"])
def test_tuples_without_end_in_a_pickle_are_refused_before_python_hashes_them(
    folder: Path, save: str, deeper: bytes, within: bytes
) -> None:
    deep = b")" + deeper  # a million of the first overflow the stack; the second unfold to 2**40
    data = b"\x80\x02}" + within % deep + b"."
    good = torch_saved({}, _use_new_zipfile_serialization=save == "zip")
    empty = b"\x80\x02}q\x00."
    use_pickle(
        folder, zip_again(good, zipfile.ZIP_STORED, data_pkl=data) if save == "zip" else good.replace(empty, data)
    )
    refused(folder, str(folder / PICKLE), "a tuple unfolds to more than 200 tuples")


def zip_again(good: bytes, method: int, **replaced: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(buffer, "w", method) as target:
        for entry in source.infolist():
            last = entry.filename.rpartition("/")[2]
            target.writestr(entry.filename, replaced.get(last.replace(".", "_"), source.read(entry)))
    return buffer.getvalue()


def test_a_zip_bomb_is_not_unpacked(folder: Path) -> None:
    bomb = zip_again(torch_saved(tensors_of(folder)), zipfile.ZIP_DEFLATED, data_pkl=bytes(3 * 10**8))
    assert len(bomb) < 10**6
    use_pickle(folder, bomb)
    refused(folder, str(folder / PICKLE), "data.pkl is compressed")


def test_a_zip_entry_that_lies_about_its_size_is_refused(folder: Path) -> None:
    good = torch_saved(tensors_of(folder))
    at = good.rindex(b"PK\x01\x02")  # an entry of the zip's directory: 20 and 24 bytes on are its two sizes
    use_pickle(folder, good[: at + 24] + struct.pack("<I", 2**31) + good[at + 28 :])
    refused(folder, str(folder / PICKLE))


def test_a_zip_record_cut_to_nothing_is_not_filled_with_its_neighbours_bytes(folder: Path) -> None:
    good = torch_saved(tensors_of(folder))
    use_pickle(folder, zip_again(good, zipfile.ZIP_STORED))
    Bert.from_pretrained(folder)
    (folder / PICKLE).unlink()
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data/7"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(buffer, "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, b"" if entry.filename == name else source.read(entry))
    use_pickle(folder, buffer.getvalue())
    refused(folder, str(folder / PICKLE), "damaged: no record")


class Allocates:
    """A small pickle that says how many bytes to take; torch's own unpickler does so."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return self.kind, (1000,)


@pytest.mark.parametrize("save", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("kind", [bytearray, torch.FloatTensor, set], ids=lambda kind: kind.__name__)
def test_a_pickle_takes_no_memory_on_its_word(folder: Path, save: Callable[[object], bytes], kind: Any) -> None:
    use_pickle(folder, save({BIAS: Allocates(kind)}))
    refused(folder, str(folder / PICKLE), "holds more than tensors", kind.__name__)


def test_more_layers_than_the_files_have_are_not_built(folder: Path) -> None:
    """A file may hold many tensors without one layer of a BERT."""
    change_tensors(folder, lambda t: t.update({f"cls.x{i}": torch.zeros(1) for i in range(2000)}))
    change_config(folder, num_hidden_layers=2000)
    refused(folder, "num_hidden_layers 2000", "2 layers")


def test_strides_of_0_do_not_fill_the_memory(folder: Path) -> None:
    """One stored number that says it is (10**8, 32) of them, with a config.json that agrees."""
    many = torch.zeros(1).expand(10**8, 32)
    use_pickle(folder, torch_saved({**tensors_of(folder), "embeddings.word_embeddings.weight": many}))
    change_config(folder, vocab_size=10**8)
    refused(folder, str(folder / PICKLE), "embeddings.word_embeddings.weight", "(100000000, 32)")


def test_a_legacy_storage_is_not_believed(folder: Path) -> None:
    """The older format says how many numbers a storage has before it gives them."""
    buffer = io.BytesIO()

    class Pickler(pickle._Pickler):
        def persistent_id(self, value: object) -> object:
            return ("storage", torch.FloatStorage, "0", "cpu", TERA, None) if value == "THE STORAGE" else None

    class Huge:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, ("THE STORAGE", 0, (TERA,), (1,), False, OrderedDict())

    for value in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}):
        pickle.dump(value, buffer, protocol=2)
    Pickler(buffer, protocol=2).dump({BIAS: Huge()})
    pickle.dump(["0"], buffer, protocol=2)
    buffer.write(struct.pack("<q", TERA) + bytes(100))
    use_pickle(folder, buffer.getvalue())
    refused(folder, str(folder / PICKLE), "damaged")


NO_TENSORS: dict[str, Callable[[dict[str, Tensor]], bytes]] = {
    "a list": lambda tensors: torch_saved(list(tensors.values())),
    "a nested dict": lambda tensors: torch_saved({"model": tensors}),
    "a dict of numbers": lambda tensors: torch_saved({**tensors, "epoch": 3}),
    "a dict by numbers": lambda tensors: torch_saved(dict(enumerate(tensors.values()))),
    "a tensor": lambda tensors: torch_saved(tensors[BIAS]),
    "nothing": lambda tensors: torch_saved(None),
    "text": lambda tensors: b"These are no weights.\n" * 99,
    "another zip": lambda tensors: zip_again(b"PK\x05\x06" + bytes(18), zipfile.ZIP_STORED),
    "safetensors": lambda tensors: safetensors.torch.save(tensors),
}


@pytest.mark.parametrize("save", NO_TENSORS.values(), ids=NO_TENSORS)
def test_a_pickle_of_anything_but_a_dict_of_tensors_is_named(
    folder: Path, save: Callable[[dict[str, Tensor]], bytes]
) -> None:
    use_pickle(folder, save(tensors_of(folder)))
    refused(folder, str(folder / PICKLE))


ODD = {"sparse": torch.ones(32).to_sparse(), "meta": torch.empty(32, device="meta")}


@pytest.mark.parametrize("kind", ODD)
def test_a_tensor_of_an_odd_kind_is_named(folder: Path, kind: str) -> None:
    use_pickle(folder, torch_saved({**tensors_of(folder), BIAS: ODD[kind]}))
    refused(folder, str(folder / PICKLE), kind, BIAS)


# --- No weights, no configuration


def test_no_weights_at_all_tells_what_was_looked_for(folder: Path) -> None:
    (folder / SAFETENSORS).unlink()
    refused(folder, str(folder), "no weights", SAFETENSORS, PICKLE)


def test_weights_of_another_framework_are_named(folder: Path) -> None:
    (folder / SAFETENSORS).rename(folder / "tf_model.h5")
    refused(folder, str(folder), "it has tf_model.h5", "convert")


def test_no_config_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    refused(folder, str(folder), "config.json")


CONFIGS = {
    "empty": b"",
    "no JSON": b"{hidden_size: 32}",
    "not UTF-8": b"\xff\xfe{}",
    "a list": b"[1, 2]",
    "a number of many digits": b'{"hidden_size": ' + b"9" * 5000 + b"}",
    "nested too deep": b"[" * 10**5,
}


@pytest.mark.parametrize("content", CONFIGS.values(), ids=CONFIGS)
def test_a_damaged_config_is_named(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    refused(folder, str(folder / "config.json"))


WRONG_FIELDS: dict[str, dict[str, Any]] = {
    "missing sizes": {"hidden_size": "absent", "vocab_size": "absent"},
    "another architecture": {"model_type": "roberta"},
    "a decoder": {"is_decoder": True},
    "cross-attention": {"add_cross_attention": True},
    "unknown activation": {"hidden_act": "swoosh"},
    "activation of another type": {"hidden_act": ["gelu"]},
    "unknown positions": {"position_embedding_type": "rotary"},
    "size in a string": {"hidden_size": "32"},
    "size of a half": {"hidden_size": 32.5},
    "size as a bool": {"num_hidden_layers": True},
    "size as null": {"intermediate_size": None},
    "size of 0": {"vocab_size": 0},
    "negative size": {"max_position_embeddings": -1},
    "heads that do not divide": {"num_attention_heads": 5},
    "more heads than numbers": {"num_attention_heads": 64},
    "dropout above 1": {"hidden_dropout_prob": 1.5},
    "eps of 0": {"layer_norm_eps": 0},
    "eps beyond every float": {"layer_norm_eps": 10**400},
    "eps beyond torch's int": {"layer_norm_eps": 2**63},
    "eps of NaN": {"layer_norm_eps": float("nan")},
    "padding beyond the vocabulary": {"pad_token_id": 99},
}


@pytest.mark.parametrize("fields", WRONG_FIELDS.values(), ids=WRONG_FIELDS)
def test_a_wrong_field_of_the_config_is_named_with_its_file(folder: Path, fields: dict[str, Any]) -> None:
    change_config(folder, **fields)
    said = [str(value) for value in fields.values() if value not in ("absent", None)]
    error = refused(folder, str(folder / "config.json"), *fields, *said)
    assert isinstance(error, ConfigError)


@pytest.mark.parametrize("odd", [[{}], [[]], {"a": 1}, "x", 7], ids=str)
def test_what_config_json_says_of_its_class_may_be_anything(folder: Path, odd: object) -> None:
    change_config(folder, architectures=odd)
    Bert.from_pretrained(folder)
    with pytest.raises(OURS, match=r"classifier\.weight"):
        BertForSequenceClassification.from_pretrained(folder)


LONG = "x" * 10**6
LONG_VALUES: dict[str, Callable[[Path], object]] = {
    "a field": lambda folder: change_config(folder, hidden_act=LONG),
    "a list": lambda folder: change_config(folder, hidden_size=["x"] * 10**5),
    "a tensor's name": lambda folder: change_tensors(folder, lambda t: t.update({LONG: torch.zeros(1)})),
    "names": lambda folder: change_tensors(folder, lambda t: t.update({f"x{i}": torch.zeros(1) for i in range(5000)})),
    "a shard": lambda folder: shard(folder, **{BIAS: LONG}),
    "a type": lambda folder: use_pickle(folder, b"\x80\x02c" + LONG.encode() + b"\nx\n)R."),
}


@pytest.mark.parametrize("change", LONG_VALUES.values(), ids=LONG_VALUES)
def test_no_message_repeats_a_value_of_any_length(folder: Path, change: Callable[[Path], object]) -> None:
    change(folder)
    assert len(str(refused(folder))) < 20_000


SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size")
SIZES += ("max_position_embeddings", "type_vocab_size")


@pytest.mark.parametrize("size", [10**9, 10**12, 2**62, 10**30], ids=["10**9", "10**12", "2**62", "10**30"])
@pytest.mark.parametrize("name", SIZES)
def test_a_config_of_monstrous_size_takes_no_memory(folder: Path, name: str, size: int) -> None:
    change_config(folder, **{name: size})
    refused(folder, str(folder), str(size))


def test_relative_positions_of_monstrous_size_take_no_memory(folder: Path) -> None:
    change_config(folder, position_embedding_type="relative_key", max_position_embeddings=2**62)
    refused(folder, str(folder), "max_position_embeddings")


@pytest.mark.parametrize("file", ["../outside", "/etc/passwd", "a/../../b", "", "..\\outside", "C:\\outside", "a\0b"])
def test_no_name_leaves_its_folder(folder: Path, file: str) -> None:
    (folder.parent / "outside").write_text("secret")
    with pytest.raises(HubError, match="outside its folder"):
        open_files(folder).get(file)


# --- Any bytes at all

KINDS: dict[str, Callable[[Path], bytes]] = {
    "safetensors": lambda folder: (folder / SAFETENSORS).read_bytes(),
    "pickle": lambda folder: torch_saved(tensors_of(folder)),
    "legacy pickle": lambda folder: torch_saved(tensors_of(folder), _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_and_cut_bytes_either_load_or_raise_one_of_ours(folder: Path, kind: str) -> None:
    whole = KINDS[kind](folder)
    (folder / SAFETENSORS).unlink()
    outcomes = set()
    for seed in range(120):
        chance = random.Random(f"{kind} {seed}")
        content = bytearray(whole)
        # Headers and pickles lie at one of the ends; the numbers between them may be anything.
        last = chance.choice((4000, 8000, len(whole)))
        for _ in range(chance.choice((1, 1, 3, 30))):
            at = chance.randrange(last)
            content[at if chance.random() < 0.5 else len(whole) - 1 - at] = chance.randrange(256)
        if chance.random() < 0.2:
            del content[chance.randrange(len(whole)) :]
        path = folder / (SAFETENSORS if kind == "safetensors" else PICKLE)
        path.unlink(missing_ok=True)  # not overwritten: a model may be mapped from it
        path.write_bytes(content)
        error: BaseException | None = None
        try:
            Bert.from_pretrained(folder)
        except BaseException as raised:
            error = raised
        outcomes.add("loaded" if error is None else "refused")
        assert error is None or isinstance(error, OURS), f"seed {seed}"
        assert error is None or str(folder) in str(error) or "two names for one tensor" in str(error), f"seed {seed}"
    assert outcomes == {"loaded", "refused"}
