"""Published weights in and out: the name table, every kind of file, the account of it, and what a failure leaves."""

from __future__ import annotations

import copy
import dataclasses
import errno
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers import TINY, random_batch, widen
from safetensors import SafetensorError
from tiny_folder import MEAN, write_encoder
from torch import Tensor, nn

from minibert import Bert, BertConfig, CheckpointError, SentenceEncoder
from minibert.checkpoint import save
from minibert.checkpoint.atomic import replacing
from minibert.checkpoint.names import PUBLISHED_NAMES, by_canonical_name, canonical_name, published_name
from minibert.checkpoint.structure import departures
from minibert.fused import fuse
from minibert.model import Activation, EncoderLayer

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
LARGE = {"cls.predictions.bias": torch.zeros(1 << 20)}  # of another head, so that the file is large
POOLER = ("pooler.dense.weight", "pooler.dense.bias")


def wide(seed: int = 0, config: BertConfig = TINY, pooler: bool = True) -> Bert:
    return widen(Bert(config, pooler=pooler), seed).eval()


def published(seed: int = 0) -> dict[str, Tensor]:
    """Weights under their published names."""
    return {published_name(name): tensor for name, tensor in wide(seed).state_dict().items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint without weights, for the test to put them in."""
    wide().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / SAFETENSORS).unlink()
    return tmp_path / "model"


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same(one: nn.Module, other: nn.Module) -> None:
    """The same names and the same bits (so that NaN and -0.0 count too)."""
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype
        assert tensor.shape == right[name].shape
        assert tensor.numpy(force=True).tobytes() == right[name].numpy(force=True).tobytes(), name


# --- The name table


def test_the_table_is_a_bijection() -> None:
    assert len(PUBLISHED_NAMES) == 13
    assert len(set(PUBLISHED_NAMES.values())) == 13


@pytest.mark.parametrize("positions", ["absolute", "relative_key", "relative_key_query"])
def test_every_weight_has_a_published_name_of_its_own(positions: str) -> None:
    with torch.device("meta"):
        ours = list(Bert(dataclasses.replace(TINY, position_embedding_type=positions)).state_dict())
    assert len({published_name(name) for name in ours}) == len(ours)


def test_bert_base_has_199_tensors() -> None:
    with torch.device("meta"):
        assert len(Bert(BertConfig()).state_dict()) == 199


def test_layers_of_several_digits_keep_their_number() -> None:
    ours = "layers.110.attention.query.weight"
    assert published_name(ours) == "encoder.layer.110.attention.self.query.weight"


@pytest.mark.parametrize("name", ["layers.0.adapter.weight", "layers.attention.query.weight", "head.weight", "weight"])
def test_what_bert_does_not_have_has_no_published_name(name: str) -> None:
    with pytest.raises(KeyError):
        published_name(name)


@pytest.mark.parametrize(
    ("old", "modern"),
    [
        ("bert.embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight"),
        ("encoder.layer.3.output.LayerNorm.beta", "encoder.layer.3.output.LayerNorm.bias"),
        ("encoder.layer.3.output.LayerNorm.weight", "encoder.layer.3.output.LayerNorm.weight"),
        ("bert.bert.x", "bert.x"),
        ("albert.x", "albert.x"),
        ("adapter.gamma", "adapter.gamma"),
        ("adapter.gamma.weight", "adapter.gamma.weight"),
    ],
)
def test_old_names_become_modern_ones(old: str, modern: str) -> None:
    assert canonical_name(old) == modern


def test_two_old_names_for_one_tensor_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"x\.LayerNorm\.gamma and bert\.x\.LayerNorm\.weight"):
        by_canonical_name({"x.LayerNorm.gamma": 1, "bert.x.LayerNorm.weight": 1})


# --- What published files look like

VARIANTS: dict[str, Callable[[], dict[str, Tensor]]] = {
    "modern": published,
    "below bert.": lambda: {f"bert.{name}": tensor for name, tensor in published().items()},
    "gamma and beta": lambda: {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in published().items()
    },
    "in another order": lambda: dict(reversed(published().items())),
    "not contiguous": lambda: {name: tensor.t().contiguous().t() for name, tensor in published().items()},
}


@pytest.mark.parametrize("file", [SAFETENSORS, PICKLE])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_form_of_the_names_loads_to_the_same_weights(folder: Path, variant: str, file: str) -> None:
    tensors = VARIANTS[variant]()
    if file == PICKLE:
        torch.save(tensors, folder / file)
    else:
        write(folder / file, {name: tensor.contiguous() for name, tensor in tensors.items()})
    assert_same(Bert.from_pretrained(folder), wide())


def test_parameters_in_a_pickle_are_tensors_too(folder: Path) -> None:
    torch.save({name: nn.Parameter(tensor) for name, tensor in published().items()}, folder / PICKLE)
    assert_same(Bert.from_pretrained(folder), wide())


HEADS = (
    "embeddings.position_ids",
    "cls.predictions.bias",
    "cls.predictions.decoder.weight",
    "cls.seq_relationship.weight",
    "classifier.weight",
    "qa_outputs.bias",
)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_heads_are_harmless_and_listed(folder: Path, prefix: str) -> None:
    heads = {(prefix if name.startswith("emb") else "") + name: torch.zeros(2, dtype=torch.int64) for name in HEADS}
    write(folder / SAFETENSORS, {**{prefix + name: tensor for name, tensor in published().items()}, **heads})
    model = Bert.from_pretrained(folder)
    assert set(model.report.known_harmless) == set(HEADS)
    assert_same(model, wide())


def test_a_checkpoint_without_pooler_makes_a_bert_without_one(folder: Path) -> None:
    write(folder / SAFETENSORS, {name: tensor for name, tensor in published().items() if name not in POOLER})
    model = Bert.from_pretrained(folder)
    assert model.pooler is None
    assert model(**random_batch(TINY, (3,))).pooler_output is None


def test_relative_positions_load_with_and_without_the_absolute_table(tmp_path: Path) -> None:
    model = wide(config=dataclasses.replace(TINY, position_embedding_type="relative_key_query"))
    model.save_pretrained(tmp_path)
    assert_same(Bert.from_pretrained(tmp_path), model)
    table = "embeddings.position_embeddings.weight"
    write(tmp_path / SAFETENSORS, {**safetensors.torch.load_file(tmp_path / SAFETENSORS), table: torch.zeros(40, 32)})
    loaded = Bert.from_pretrained(tmp_path)
    assert loaded.report.known_harmless == (table,)
    assert_same(loaded, model)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_load_as_one(folder: Path, kind: str) -> None:
    stem, index = ("model", SAFETENSORS) if kind == "safetensors" else ("pytorch_model", PICKLE)
    tensors = published()
    places = {name: f"{stem}-{1 + i % 3:05}-of-00003.{kind}" for i, name in enumerate(tensors)}
    for place in set(places.values()):
        write(folder / place, {name: tensors[name] for name in tensors if places[name] == place})
    save.write_json({"metadata": {"total_size": 1}, "weight_map": places}, folder / f"{index}.index.json")
    model = Bert.from_pretrained(folder)
    assert_same(model, wide())
    assert {file.name for file in model.report.files} == set(places.values())


def test_safetensors_goes_before_the_pickle_beside_it(folder: Path) -> None:
    write(folder / SAFETENSORS, published(1))
    write(folder / PICKLE, published(2))
    assert_same(Bert.from_pretrained(folder), wide(1))


def test_the_class_it_is_asked_of_is_the_class_it_gives(folder: Path) -> None:
    class Mine(Bert):
        pass

    write(folder / SAFETENSORS, published())
    assert type(Mine.from_pretrained(folder)) is Mine


def test_a_loaded_model_is_in_eval_mode(folder: Path) -> None:
    write(folder / SAFETENSORS, published())
    assert not any(module.training for module in Bert.from_pretrained(folder).modules())


# --- Kinds of numbers

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


@pytest.mark.parametrize("file", [SAFETENSORS, PICKLE])
@pytest.mark.parametrize("stored", DTYPES)
def test_any_float_loads_as_float32(folder: Path, stored: str, file: str) -> None:
    write(folder / file, {name: tensor.to(DTYPES[stored]) for name, tensor in published().items()})
    model = Bert.from_pretrained(folder)
    assert model.report.stored_dtype == stored
    assert model.report.dtype == "float32"
    assert_same(model, wide().to(DTYPES[stored]).float())


@pytest.mark.parametrize("asked", DTYPES)
@pytest.mark.parametrize("stored", ["float16", "float32"])
def test_dtype_is_what_the_weights_become(folder: Path, stored: str, asked: str) -> None:
    write(folder / SAFETENSORS, {name: tensor.to(DTYPES[stored]) for name, tensor in published().items()})
    expected = wide().to(DTYPES[stored]).to(DTYPES[asked])
    for dtype in (asked, DTYPES[asked]):
        model = Bert.from_pretrained(folder, dtype=dtype)
        assert model.report.dtype == asked
        assert {parameter.dtype for parameter in model.parameters()} == {DTYPES[asked]}
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, expected.state_dict()[name])


def test_several_stored_dtypes_are_all_told(folder: Path) -> None:
    tensors = published()
    write(folder / SAFETENSORS, {**tensors, POOLER[0]: tensors[POOLER[0]].half()})
    assert Bert.from_pretrained(folder).report.stored_dtype == "float16, float32"


@pytest.mark.parametrize("dtype", ["int8", "float8", torch.int64, 32], ids=str)
def test_a_dtype_that_is_no_float_is_refused(folder: Path, dtype: object) -> None:
    with pytest.raises(ValueError, match="dtype must be one of float32"):
        Bert.from_pretrained(folder, dtype=dtype)


# --- The account


def test_the_report_tells_what_became_of_every_tensor(folder: Path) -> None:
    write(folder / SAFETENSORS, {**published(), "cls.predictions.bias": torch.zeros(99)})
    report = Bert.from_pretrained(str(folder)).report
    assert report.source == str(folder)
    assert report.files == (folder / SAFETENSORS,)
    assert set(report.used) == set(published())
    assert len(report.used) == 5 + 16 * 2 + 2
    assert report.known_harmless == ("cls.predictions.bias",)
    assert (report.unexpected, report.missing, report.wrong_shape) == ((), (), ())
    assert (report.stored_dtype, report.dtype) == ("float32", "float32")
    assert report.complete
    assert report.problems() == ""


# --- Weights in memory


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("file", [SAFETENSORS, PICKLE])
def test_weights_are_mapped_and_not_copied(folder: Path, file: str) -> None:
    write(folder / file, published() | LARGE)
    model = Bert.from_pretrained(folder)
    address = model.embeddings.token.weight.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        if begin <= address < end:
            assert line.endswith(str(folder / file))
            break
    else:
        pytest.fail("the weights lie nowhere")


def write_in_place(path: Path, content: bytes) -> None:
    """As cp and rsync --inplace do."""
    before = path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before + 1, before + 1))  # two writes within the clock's tick look alike


@pytest.mark.parametrize("file", [SAFETENSORS, PICKLE])
@pytest.mark.parametrize("size", ["small", "mapped"])
@pytest.mark.parametrize("fast", [None, False])
def test_a_file_that_is_written_again_is_noticed_or_does_no_harm(
    tmp_path: Path, file: str, size: str, fast: bool | None
) -> None:
    more = LARGE if size == "mapped" else {}
    path = write_encoder(tmp_path, ("Pooling", MEAN)) / file
    write(path, published() | more)
    if file == PICKLE:
        (tmp_path / SAFETENSORS).unlink()
    encoder, trained = (SentenceEncoder.from_pretrained(tmp_path, fast=fast) for _ in range(2))
    expected = encoder.encode("the cat")
    with torch.no_grad():
        for weight in trained.parameters():
            weight.mul_(2.0)
    right = trained.encode("the cat")
    moved = tmp_path / f"moved{path.suffix}"
    write(moved, published(1) | more)
    moved.replace(path)
    assert (encoder.encode("the cat") == expected).all()  # the map keeps the old file
    assert (trained.encode("the cat") == right).all()
    encoder = SentenceEncoder.from_pretrained(tmp_path, fast=fast)
    expected, copied = encoder.encode("the cat"), copy.deepcopy(encoder)
    write(moved, published(2) | more)
    write_in_place(path, moved.read_bytes())
    for either in (encoder, copied):
        if size == "small":
            assert (either.encode("the cat") == expected).all()
        else:
            with pytest.raises(CheckpointError, match=f"{file}: was written again"):
                either.encode("the cat")


@pytest.mark.parametrize("file", [SAFETENSORS, PICKLE])
def test_training_changes_the_model_and_not_the_file(folder: Path, file: str) -> None:
    write(folder / file, published())
    before = contents(folder)
    model = Bert.from_pretrained(folder).train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**random_batch(TINY, (5, 5))).pooler_output.square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.embeddings.token.weight, wide().embeddings.token.weight)
    assert contents(folder) == before
    assert_same(Bert.from_pretrained(folder), wide())


# --- Saving


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pooler", [True, False], ids=["pooler", "no pooler"])
def test_what_is_saved_is_loaded_bit_by_bit(tmp_path: Path, dtype: str, pooler: bool) -> None:
    model = wide(pooler=pooler)
    with torch.no_grad():
        model.layers[0].attention.query.bias[:3] = torch.tensor([float("nan"), float("-inf"), -0.0])
    model.to(DTYPES[dtype]).save_pretrained(tmp_path)
    loaded = Bert.from_pretrained(tmp_path, dtype=dtype)
    assert loaded.report.stored_dtype == dtype
    assert loaded.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.view(torch.uint8), loaded.state_dict()[name].view(torch.uint8)), name


def test_a_folder_is_made_where_there_is_none(tmp_path: Path) -> None:
    wide().save_pretrained(tmp_path / "a" / "b")
    assert set(contents(tmp_path / "a" / "b")) == {"config.json", SAFETENSORS}


def test_others_may_read_what_is_saved(tmp_path: Path) -> None:
    wide().save_pretrained(tmp_path)
    umask = os.umask(0)
    os.umask(umask)
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_layer_that_is_used_twice_is_saved_twice(tmp_path: Path) -> None:
    model = wide()
    model.layers[1] = model.layers[0]
    model.save_pretrained(tmp_path)
    assert_same(Bert.from_pretrained(tmp_path), model)


def test_a_model_can_be_saved_into_the_folder_it_is_mapped_from(folder: Path) -> None:
    write(folder / SAFETENSORS, published())
    model = Bert.from_pretrained(folder)
    with torch.no_grad():
        model.embeddings.token.weight[7] = 1.0
    model.save_pretrained(folder)
    expected = wide()
    with torch.no_grad():
        expected.embeddings.token.weight[7] = 1.0
    assert_same(Bert.from_pretrained(folder), expected)
    assert_same(model, expected)  # it still has its numbers too


def add_head(model: Bert) -> None:
    model.head = nn.Linear(32, 2)


def other_attention(model: Bert) -> None:
    model.layers[1].attention = nn.MultiheadAttention(32, 4)


def wider_feed_forward(model: Bert) -> None:
    model.layers[0].feed_forward.up = nn.Linear(32, 64)


def no_bias(model: Bert) -> None:
    model.layers[0].attention.out = nn.Linear(32, 32, bias=False)


@pytest.mark.parametrize(
    ("replace", "name"),
    [
        (add_head, "head.weight"),
        (other_attention, "layers.1.attention.in_proj_weight"),
        (wider_feed_forward, "layers.0.feed_forward.up.weight"),
        (no_bias, "layers.0.attention.out.bias"),
    ],
)
def test_a_model_with_a_replaced_part_is_refused_by_name(
    tmp_path: Path, replace: Callable[[Bert], None], name: str
) -> None:
    model = wide()
    replace(model)
    with pytest.raises(CheckpointError, match="a part of this model was replaced") as caught:
        model.save_pretrained(tmp_path / "model")
    assert name in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_a_part_without_weights_may_be_replaced(tmp_path: Path) -> None:
    model = wide()
    model.layers[0].attention.core.probs = nn.Dropout(0.5)
    with pytest.warns(UserWarning, match=r"does not hold these changes.*core\.probs is torch.*Dropout"):
        model.save_pretrained(tmp_path)
    assert_same(Bert.from_pretrained(tmp_path), wide())


class Values(nn.Module):
    """Passes values on."""

    def forward(self, q, k, v, mask=None, bias=None):
        return v


class OwnLayer(EncoderLayer):
    """The page's, after which nothing is as it was."""

    def forward(self, x, mask=None):
        return -super().forward(x, mask)


CHANGES_WITHOUT_WEIGHTS = {
    "attention.core is .*Values": lambda layer: setattr(layer.attention, "core", Values()),
    "attention_norm.eps is 0.5": lambda layer: setattr(layer.attention_norm, "eps", 0.5),
    "attention.head_size is 16": lambda layer: setattr(layer.attention, "head_size", 16),
    "feed_forward.activation.formula is torch.*relu": lambda layer: setattr(
        layer.feed_forward.activation, "formula", torch.relu
    ),
    "feed_forward.activation.formula is .*<lambda>": lambda layer: setattr(
        layer.feed_forward.activation, "formula", lambda x: 2 * x
    ),
    "layers.0.forward is": lambda layer: setattr(layer, "forward", lambda x, mask=None: x),
    "layers.0 is .*OwnLayer": lambda layer: setattr(layer, "__class__", OwnLayer),
}


@pytest.mark.parametrize("named", CHANGES_WITHOUT_WEIGHTS)
def test_what_a_checkpoint_does_not_hold_is_named(named: str, tmp_path: Path) -> None:
    model = wide()
    CHANGES_WITHOUT_WEIGHTS[named](model.layers[0])
    with pytest.warns(UserWarning, match=named):
        model.save_pretrained(tmp_path)


def power(exponent: int, x: Tensor) -> Tensor:
    return x**exponent


@pytest.mark.parametrize(
    "make",
    [
        lambda k: lambda x: x**k,
        lambda k: lambda x, k=k: x**k,
        lambda k: functools.partial(power, k),
        lambda k: functools.partial(lambda x, exponent: x**exponent, exponent=k),
    ],
    ids=["closure", "default", "partial", "keyword"],
)
def test_functions_are_told_apart_by_what_they_hold(make: Callable[[int], Callable[[Tensor], Tensor]]) -> None:
    model = wide()
    found = []
    for formula in (make(2), make(2), make(3)):
        model.layers[0].feed_forward.activation.formula = formula
        found.append(departures(model))
    assert found[0] == found[1] != found[2]


STRANGE = """
import torch
from minibert import Bert, BertConfig
from minibert.checkpoint.structure import departures

def strange(x, names={"a", "b"}):
    return x * len([name for name in {"gelu", "relu", "silu"} if name in {"relu", "tanh", "silu"}])

model = Bert(BertConfig(num_hidden_layers=1))
print(departures(model))
model.layers[0].feed_forward.activation.formula = strange
print(departures(model))
"""


def test_changes_are_told_alike_in_all_processes() -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", STRANGE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert said[0][0] == "{}"
    assert "__main__.strange (" in said[0][1]


def test_a_setting_that_the_config_has_is_saved_without_a_word(tmp_path: Path) -> None:
    model = wide()
    model.config = dataclasses.replace(model.config, hidden_act="relu")
    for layer in model.layers:
        layer.feed_forward.activation = Activation("relu")
    fuse(model).save_pretrained(tmp_path)
    assert_same(Bert.from_pretrained(tmp_path), model)


def test_a_model_with_fewer_layers_is_saved_once_its_config_says_so(tmp_path: Path) -> None:
    model = wide()
    model.layers = model.layers[:1]
    with pytest.raises(CheckpointError, match=r"this model has 1 layers, and its config 2: .*num_hidden_layers=1"):
        model.save_pretrained(tmp_path)
    model.config = dataclasses.replace(model.config, num_hidden_layers=1)
    model.save_pretrained(tmp_path)
    assert_same(Bert.from_pretrained(tmp_path), model)


# --- When writing fails


def disk_is_full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def half_written(tensors: object, path: Path, **_: object) -> None:
    path.write_bytes(b"half")
    raise SafetensorError("I/O error: No space left on device")


FAILURES: dict[str, tuple[object, str, Callable[..., None]]] = {
    "renaming": (os, "replace", disk_is_full),
    "writing the weights": (save, "save_file", disk_is_full),
    "writing half of the weights": (save, "save_file", half_written),
    "writing the configuration": (Path, "write_text", disk_is_full),
    "making a file": (os, "mkdir", disk_is_full),
}


@pytest.mark.parametrize("where", FAILURES)
def test_a_write_that_fails_leaves_the_checkpoint_before_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    wide(1).save_pretrained(tmp_path)
    before = contents(tmp_path)
    other = wide(2, dataclasses.replace(TINY, vocab_size=50))  # half of it beside half of the first would not load
    with monkeypatch.context() as failing:
        failing.setattr(*FAILURES[where])
        with pytest.raises(OSError, match="No space left"):
            other.save_pretrained(tmp_path)
    assert contents(tmp_path) == before
    assert_same(Bert.from_pretrained(tmp_path), wide(1))


@pytest.mark.parametrize("where", FAILURES)
def test_a_first_write_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    model = wide()
    with monkeypatch.context() as failing:
        failing.setattr(*FAILURES[where])
        with pytest.raises(OSError, match="No space left"):
            model.save_pretrained(tmp_path)
    assert contents(tmp_path) == {}


def test_the_error_of_a_full_disk_is_the_systems_own(tmp_path: Path) -> None:
    """A limit on the size of files stands for it. safetensors keeps the system's error as text only."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            wide().save_pretrained(tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "model"))


def test_an_interrupt_leaves_no_file_either(tmp_path: Path) -> None:
    def interrupted() -> None:
        with replacing(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert contents(tmp_path) == {}


def test_a_file_where_the_folder_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("precious")
    with pytest.raises(OSError, match="model"):
        wide().save_pretrained(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "precious"
