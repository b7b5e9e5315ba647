"""Machine code equals the page, for every set of instructions; and what can't be used is said and not used."""

import copy
import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from fast_helpers import ORDER, STATES, packed, padded, random_tokens, stack_of
from helpers import MINILM, TINY, widen
from tiny_folder import MEAN, TEXTS, write_cross_encoder, write_encoder
from torch import nn

from minibert import Bert, CrossEncoder, SentenceEncoder
from minibert.cli import main
from minibert.compiled import build, find
from minibert.compiled.build import FEATURES, FOLDER, LIBRARY, MANIFEST, CompileError, processor_features
from minibert.compiled.layer import CompiledLayer, Library, layer_maker
from minibert.fast.decide import decide
from minibert.fast.stack import Stack

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

HERE = processor_features()
# Vectors of 4, 8 and 16 numbers, and 16 without instructions for bfloat16 and int8; those that this processor has.
SETS = {
    "none": [],
    "avx2": ["avx2", "fma"],
    "avx512": [x for x in FEATURES if x[-4:] not in ("vnni", "bf16")],
    "all": HERE,
}
SETS = {name: chosen for name, chosen in SETS.items() if set(chosen) <= set(HERE)}
FLAGS, QUICK = build.FLAGS, ["-O1" if flag == "-O3" else flag for flag in build.FLAGS]
LENGTHS = [(1,), (2,), (17,), (40,), (9, 5, 1), (40, 24, 24), (5, 0, 0, 3), (12,) * 9 + (33,)]


SPEED = {name: [2.0, 1.5] for name in find.TOLERANCES}
MEASURE = find.measure


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    """A library for a set of instructions, compiled once, as for users."""
    made = {}

    def get(name="all"):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(build, "FLAGS", FLAGS)
                build.build(folder, SETS[name])
            made[name] = Library(folder / LIBRARY, name)
        return made[name]

    return get


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Where a test compiles whole models, the compiler takes less time, and nothing depends on what is faster today."""
    monkeypatch.setattr(build, "FLAGS", QUICK)
    monkeypatch.setattr(find, "measure", lambda *_: SPEED)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """A folder with machine code, and the cache that says who compiled it."""
    folder, cache = tmp_path_factory.mktemp("compiled"), tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setattr(build, "FLAGS", QUICK)
        patch.setattr(find, "measure", lambda *_: SPEED)
        encoder = SentenceEncoder.from_pretrained(write_encoder(folder / "plain", ("Pooling", MEAN)), device="cpu")
        encoder.compile(folder / "model")
    return folder / "model", cache


@pytest.fixture
def folder(compiled, tmp_path, monkeypatch):
    """A copy of it that a test may spoil."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(compiled[1]))
    return shutil.copytree(compiled[0], tmp_path / "copy")


def load(folder, **options):
    return SentenceEncoder.from_pretrained(folder, device="cpu", **options)


def each(encoder, texts, **options):
    return np.stack([encoder.encode(text, **options) for text in texts])


def computed_by(encoder):
    return [line.split()[1] for line in encoder.explain().splitlines() if line.startswith("layers.")]


def compiled_stack(bert, library, arithmetic):
    decision = decide(bert, bert, [], arithmetic, None, layer_maker(library, arithmetic))
    assert {layer.by for layer in decision.stack.layers} == {"compiled"}
    return decision.stack


# --- Numbers


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("instructions", SETS)
def test_the_code_equals_the_page_and_the_stack(libraries, instructions, dtype, lengths):
    bert = widen(Bert(TINY)).eval()
    stack, tokens = compiled_stack(bert, libraries(instructions), dtype), random_tokens(lengths, seed=1)
    batch = padded(tokens)
    real = batch["attention_mask"]
    with torch.inference_mode():
        found = stack(packed(tokens))
        expected = bert(**batch).last_hidden_state
        order = stack_of(bert, dtype)(packed(tokens))
        first = stack(packed(tokens), first_only=True)[:, 0]
    assert (found - expected)[real].abs().max() < STATES[dtype]
    assert (found - order)[real].abs().max() < ORDER[dtype]
    some = tokens.lengths > 0
    assert (first - found[:, 0])[some].abs().max() < ORDER[dtype]
    assert first.isfinite().all()


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("sizes", [(12, 2, 20), (24, 6, 33), (68, 2, 1), (128, 2, 300)], ids=str)
def test_any_width_and_activation(libraries, instructions, hidden_act, sizes):
    hidden, heads, intermediate = sizes
    config = dataclasses.replace(
        TINY, hidden_size=hidden, num_attention_heads=heads, intermediate_size=intermediate, hidden_act=hidden_act
    )
    bert, tokens = widen(Bert(config)).eval(), random_tokens((33, 7, 7), config)
    with torch.inference_mode():
        found = compiled_stack(bert, libraries(instructions), "float32")(packed(tokens))
        expected = bert(**padded(tokens)).last_hidden_state
    assert (found - expected)[padded(tokens)["attention_mask"]].abs().max() < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_threads_share_the_work_and_change_no_number(libraries, dtype):
    bert = widen(Bert(TINY)).eval()
    stack, before = compiled_stack(bert, libraries(), dtype), torch.get_num_threads()
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        with torch.inference_mode():
            results.append(stack(packed(random_tokens((40, 3) + (17,) * 8))))
    torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_of_one_text_stays_its_own(libraries, dtype, value):
    bert = widen(Bert(TINY)).eval()
    bert.embeddings.token.weight.data[7] = value
    tokens = random_tokens((9, 5, 9, 20))
    tokens.ids[tokens.ids == 7] = 8
    with torch.inference_mode():
        right = compiled_stack(bert, libraries(), dtype)(packed(tokens))
        tokens.ids[10] = 7  # in the second text
        found = compiled_stack(bert, libraries(), dtype)(packed(tokens))
    assert not found[1, 0].isfinite().any()
    rest = [0, 2, 3]
    assert torch.equal(found[rest], right[rest])


def test_weights_that_lie_otherwise_in_memory_are_compiled(libraries):
    bert, tokens = widen(Bert(TINY)).eval(), random_tokens((9, 5))
    with torch.inference_mode():
        expected = bert(**padded(tokens)).last_hidden_state
    for linear in [part for part in bert.layers.modules() if type(part) is nn.Linear]:
        linear.weight = nn.Parameter(linear.weight.detach().T.contiguous().T)
    with torch.inference_mode():
        found = compiled_stack(bert, libraries(), "float32")(packed(tokens))
    assert (found - expected)[padded(tokens)["attention_mask"]].abs().max() < 1e-4


def test_weights_that_are_no_numbers_are_not_lost_in_int8(libraries):
    bert = widen(Bert(TINY)).eval()
    bert.layers[0].feed_forward.up.weight.data[3, 3] = torch.nan
    with torch.inference_mode():
        assert not compiled_stack(bert, libraries(), "int8")(packed(random_tokens((4,)))).isfinite().any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_real_weights_give_the_vectors_of_the_stack(folder, dtype):
    for part in [path for path in MINILM.iterdir() if path.name != "compiled"]:
        target = folder / part.name
        shutil.copytree(part, target, dirs_exist_ok=True) if part.is_dir() else shutil.copy(part, target)
    texts = ["A man is eating food.", "Someone has a meal.", "and so on " * 60, "", "A longer sentence, with a comma."]
    fast, slow = (load(folder, dtype=dtype, compiled=wanted) for wanted in (None, False))
    assert (computed_by(fast), computed_by(slow)) == (["compiled"] * 6, ["fast"] * 6)
    expected = load(MINILM).encode(texts)
    limit = {"float32": 1e-6, "bfloat16": 3e-3, "int8": 3e-2}[dtype]
    assert np.abs(fast.encode(texts) - expected).max() < limit
    assert np.abs(each(fast, texts) - expected).max() < limit
    together = fast.encode(texts, batch_invariant=True)
    assert np.array_equal(together, each(fast, texts, batch_invariant=True))


# --- What it is made for, and what it is not


@pytest.mark.parametrize("change", ["float64", "silu", "odd heads", "strided norm", "norm without bias"])
def test_the_stack_computes_what_the_code_lacks(libraries, change):
    sizes = {"silu": {"hidden_act": "silu"}, "odd heads": {"hidden_size": 10, "num_attention_heads": 2}}.get(change, {})
    bert = widen(Bert(dataclasses.replace(TINY, **sizes))).eval()
    if change == "float64":
        bert.double()
    if change == "strided norm":
        norm = bert.layers[0].attention_norm
        norm.weight = nn.Parameter(torch.randn(2 * len(norm.weight))[::2])
    if change == "norm without bias":
        assert layer_maker(libraries(), "float32")(bert.layers[0]).by == "compiled"
        bert.layers[0].attention_norm.bias = None
        assert layer_maker(libraries(), "float32")(bert.layers[0]).by == "fast"
        return
    tokens = random_tokens((9, 5))
    decision = decide(bert, bert, [], "float32", None, layer_maker(libraries(), "float32"))
    assert decision.stack.layers[0].by == "fast"
    with torch.inference_mode():
        found = decision.stack(packed(tokens))
    expected = bert(**padded(tokens)).last_hidden_state
    assert (found - expected)[padded(tokens)["attention_mask"]].abs().max() < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.attention.query.weight.data.mul_(2),
        lambda layer: layer.attention_norm.weight.data.mul_(2),
        lambda layer: setattr(layer.feed_forward_norm, "bias", nn.Parameter(torch.ones(TINY.hidden_size))),
        lambda layer: setattr(layer, "feed_forward_norm", nn.Identity()),
        lambda layer: layer.attention.register_forward_hook(lambda *_: None),
        lambda layer: setattr(layer.attention_norm, "eps", 0.5),
    ],
)
def test_a_model_that_was_changed_gives_its_own_vectors(folder, change):
    encoder = load(folder)
    before = encoder.encode(TEXTS)
    change(encoder.model.layers[0])
    expected = encoder.encode(TEXTS, fast=False)
    assert np.abs(encoder.encode(TEXTS) - expected).max() < 1e-5
    assert np.abs(encoder.encode(TEXTS[0]) - expected[0]).max() < 1e-5
    assert computed_by(encoder)[-1] == "compiled"
    assert np.isfinite(before).all()


def test_training_and_gradients_are_the_pages(folder):
    encoder = load(folder)
    encoder.encode(TEXTS)
    encoder.train()
    batch = encoder.tokenize(TEXTS[:2])
    encoder(**batch).sum().backward()
    with torch.no_grad():
        for weight in encoder.parameters():
            weight -= 0.01 * weight.grad if weight.grad is not None else 0
    encoder.eval()
    assert np.abs(encoder.encode(TEXTS) - encoder.encode(TEXTS, fast=False)).max() < 1e-5


def test_an_encoder_is_copied_pickled_and_compiled_in_place(folder, tmp_path):
    encoder = load(folder)
    expected = encoder.encode(TEXTS)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert computed_by(other) == ["compiled"] * TINY.num_hidden_layers
        assert np.array_equal(other.encode(TEXTS), expected)
    dumped = pickle.dumps(encoder)
    shutil.rmtree(folder / FOLDER)
    assert computed_by(pickle.loads(dumped)) == ["fast"] * TINY.num_hidden_layers
    encoder.compile(tmp_path / "again")
    assert np.array_equal(encoder.encode(TEXTS), expected)
    encoder.compile(tmp_path / "again")  # over itself
    assert np.array_equal(load(tmp_path / "again").encode(TEXTS), expected)


def test_a_cross_encoder_too(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    encoder = CrossEncoder.from_pretrained(write_cross_encoder(tmp_path / "plain"), device="cpu")
    pairs = [("the cat", "the dog"), ("hello", "world")]
    expected = encoder.predict(pairs)
    encoder.compile(tmp_path / "model")
    loaded = CrossEncoder.from_pretrained(tmp_path / "model", device="cpu")
    assert computed_by(encoder) == computed_by(loaded) == ["compiled"] * TINY.num_hidden_layers
    assert np.abs(loaded.predict(pairs) - expected).max() < 1e-5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_computes(folder):
    encoder = load(folder)
    expected = encoder.encode(TEXTS[0])
    child = os.fork()
    if not child:
        same = np.abs(encoder.encode(TEXTS[0]) - expected).max() < 1e-6 and len(encoder.encode(TEXTS * 9)) == 54
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_the_folder_is_a_checkpoint_as_any_other(folder):
    plain = load(folder, compiled=False)
    assert computed_by(plain) == ["fast"] * TINY.num_hidden_layers
    assert "compiled" not in plain.explain()
    assert load(folder, fast=False).explain().splitlines()[0].startswith("all")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert np.abs(theirs - load(folder).encode(TEXTS)).max() < 1e-5


# --- What can't be used


def test_code_from_elsewhere_runs_only_where_it_was_asked_for(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loads = []
    monkeypatch.setattr(Library, "_code", property(lambda self: loads.append(self)))
    encoder = load(folder)
    assert computed_by(encoder) == ["fast"] * TINY.num_hidden_layers
    assert "not compiled by this user on this machine" in encoder.explain()
    assert loads == []
    monkeypatch.undo()
    assert computed_by(load(folder, compiled=True)) == ["compiled"] * TINY.num_hidden_layers


def spoil(**facts):
    def change(folder):
        path = folder / "compiled" / MANIFEST
        path.write_text(json.dumps({**json.loads(path.read_text()), **facts}), encoding="utf-8")

    return change


def cut(file):
    def change(folder):
        path = folder / "compiled" / file
        content = path.read_bytes()
        path.unlink()  # this process may have loaded it: a file of that content is to be another one
        path.write_bytes(content[: len(content) // 2])

    return change


FAULTS = {
    "another system": (spoil(machine="Plan9 mips"), "compiled for Plan9 mips"),
    "another processor": (spoil(features=["avx2", "avx1024"]), "a processor with avx1024"),
    "features of another kind": (spoil(features={"a": 1}), "compile it again"),
    "another version": (spoil(sources="0"), "another version of minibert"),
    "half a library": (cut(LIBRARY), "is not the file that was compiled"),
    "another digest": (spoil(sha256="0"), "is not the file that was compiled"),
    "no library": (lambda folder: (folder / "compiled" / LIBRARY).unlink(), "can't be read"),
    "half a manifest": (cut(MANIFEST), "not a JSON file"),
    "slower": (spoil(speed={"float32": [1.5, 0.5]}), "slower than the stack in float32"),
    **{
        f"speed {speed!r}": (spoil(speed=speed), "does not say how fast it is")
        for speed in (None, True, "x", [], {"float32": 5}, {"float32": ["a", 1]}, {"float32": [None]}, {"float32": []})
    },
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cant_be_used_is_said_and_the_stack_computes(folder, name):
    expected = load(folder).encode(TEXTS)
    change, message = FAULTS[name]
    change(folder)
    encoder = load(folder)
    assert computed_by(encoder) == ["fast"] * TINY.num_hidden_layers
    assert message in encoder.explain()
    assert np.abs(encoder.encode(TEXTS) - expected).max() < 1e-5
    with pytest.raises(CompileError, match=f"copy/compiled: .*{message}"):
        load(folder, compiled=True)


def test_a_library_that_cant_be_loaded_is_not_used(folder):
    (folder / "compiled" / LIBRARY).unlink()
    (folder / "compiled" / LIBRARY).write_bytes(b"no library")
    digest = build.hashlib.sha256(b"no library").hexdigest()
    spoil(sha256=digest)(folder)
    build.record(digest).touch()
    assert "can't be loaded" in load(folder).explain()


def test_a_library_without_our_function_is_not_used(folder):
    path = folder / "compiled" / LIBRARY
    path.unlink()
    (folder / "empty.c").write_text("int nothing;")
    subprocess.run(["gcc", "-shared", "-fPIC", str(folder / "empty.c"), "-o", str(path)], check=True)
    spoil(sha256=build.hashlib.sha256(path.read_bytes()).hexdigest())(folder)
    with pytest.raises(CompileError, match="is not a library of minibert"):
        load(folder, compiled=True)


@pytest.mark.parametrize("other", ["another", "none", "not a library"])
def test_what_was_pickled_runs_only_the_file_that_it_knew(folder, other, monkeypatch):
    monkeypatch.chdir(folder.parent)
    encoder = load("copy")  # a relative path
    expected, pickled = encoder.encode(TEXTS), pickle.dumps(encoder)
    monkeypatch.chdir("/")
    assert computed_by(pickle.loads(pickled)) == ["compiled"] * TINY.num_hidden_layers
    path = folder / "compiled" / LIBRARY
    content = path.read_bytes()
    path.unlink()
    if other != "none":
        path.write_bytes(content + b"\0" if other == "another" else b"text")
    loaded = pickle.loads(pickled)
    assert computed_by(loaded) == ["fast"] * TINY.num_hidden_layers
    assert np.abs(loaded.encode(TEXTS) - expected).max() < 1e-5


@pytest.mark.parametrize("cache", ["relative", "~/.cache"])
def test_a_cache_that_is_another_one_in_each_place_vouches_for_nothing(folder, tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    digest = json.loads((folder / "compiled" / MANIFEST).read_text())["sha256"]
    mark = tmp_path / cache / "minibert" / "compiled" / digest
    mark.parent.mkdir(parents=True)
    mark.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    assert "not compiled by this user" in load(folder).explain()


def test_a_cache_that_cant_be_written_is_said(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    encoder = load(folder, compiled=False)
    with pytest.warns(UserWarning, match="not noted as compiled by you .*: load it with compiled=True"):
        encoder.compile(tmp_path / "new")
    assert computed_by(encoder) == ["compiled"] * TINY.num_hidden_layers
    assert computed_by(load(tmp_path / "new", compiled=True)) == ["compiled"] * TINY.num_hidden_layers


@pytest.mark.parametrize("sizes", [{"hidden_act": "silu"}, {"hidden_size": 20, "num_attention_heads": 4}])
def test_a_model_of_which_the_code_has_nothing_is_refused(libraries, sizes):
    with pytest.raises(CompileError, match=r"the code has no layers with a (silu|gelu) and heads of (16|8|5)"):
        MEASURE(libraries(), dataclasses.replace(TINY, **sizes))


def test_a_library_that_computes_other_numbers_is_not_used(folder, monkeypatch):
    monkeypatch.setattr(find, "difference", lambda *_: 0.25)
    assert "its numbers in float32 differ from the page's by 2e-01" in load(folder).explain()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"fast": False}, "compiled=True: compiled code needs"), ({}, "has no compiled code: minibert compile ")],
)
def test_asked_for_in_vain(tmp_path, options, message):
    folder = write_encoder(tmp_path, ("Pooling", MEAN))
    with pytest.raises(ValueError, match=message):
        load(folder, compiled=True, **options)


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ("no-such-compiler", "there is no compiler 'no-such-compiler': install"),
        ("false", r"false failed \(1\): without a message"),
        ("g++ -DROWS=", r"g\+\+ failed \(1\): .*error"),
        ("'", "the variable CXX is not a command"),
        ("true", "true ended without an error, and wrote no library"),
    ],
)
def test_a_compiler_that_is_not_there_or_fails_writes_nothing(folder, monkeypatch, tmp_path, compiler, message):
    monkeypatch.setattr(build, "processor_features", list)
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(CompileError, match=message):
        load(folder, compiled=False).compile(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    assert main(["compile", str(folder), "-o", str(tmp_path / "new")]) == 1


def test_a_compiler_that_makes_a_wrong_library_is_noticed(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(find, "difference", lambda *_: 1.0)
    with pytest.raises(CompileError, match="made a wrong library: its numbers in float32 differ from the page's by 1e"):
        load(folder, compiled=False).compile(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_is_measured_is_a_ratio_for_each_arithmetic(libraries):
    speed = MEASURE(libraries(), TINY)
    assert speed.keys() == find.TOLERANCES.keys()
    assert all(len(ratios) == 2 and min(ratios) > 0 for ratios in speed.values())


def test_a_difference_is_found_by_the_check(libraries, monkeypatch):
    library = libraries()
    assert all(find._wrong(library, arithmetic) == "" for arithmetic in find.TOLERANCES)
    compute = Library.compute

    def wrong(self, layer, x, y, *arguments, **options):
        compute(self, layer, x, y, *arguments, **options)
        y[0, 0] += 0.3

    monkeypatch.setattr(Library, "compute", wrong)
    assert all("differ" in find._wrong(library, arithmetic) for arithmetic in find.TOLERANCES)


def test_a_folder_that_cant_be_written(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        load(folder).compile(tmp_path / "file" / "below")


def test_the_shell_says_what_was_compiled(folder, tmp_path, capsys):
    assert main(["compile", str(folder), "-o", str(tmp_path / "new")]) == 0
    out = capsys.readouterr().out
    assert "compiled by g++" in out
    assert f'SentenceEncoder.from_pretrained("{tmp_path / "new"}", device="cpu")' in out
    assert main(["embed", "--model", str(tmp_path / "new"), "--compiled", "the cat"]) == 0


def test_the_shell_keeps_the_classifier_of_a_cross_encoder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain = write_cross_encoder(tmp_path / "plain")
    for old, new in (("plain", "with modules"), ("with modules", "new")):  # `save_pretrained` writes a modules.json
        assert main(["compile", str(tmp_path / old), "-o", str(tmp_path / new)]) == 0
        assert "use it: CrossEncoder.from_pretrained" in capsys.readouterr().out
    old, new = (CrossEncoder.from_pretrained(path, device="cpu") for path in (plain, tmp_path / "new"))
    assert abs(new.predict([("the cat", "the dog")]) - old.predict([("the cat", "the dog")])).max() < 1e-5


def test_loading_needs_no_compiler(folder):
    code = (
        f"from minibert import SentenceEncoder as S; print(S.from_pretrained({str(folder)!r}, device='cpu').explain())"
    )
    environment = {**os.environ, "PATH": "", "CXX": "none"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.count("compiled") == TINY.num_hidden_layers, done.stderr


def test_memory_that_cant_be_had_is_an_error(libraries, monkeypatch):
    bert = widen(Bert(TINY)).eval()
    layer = CompiledLayer(libraries(), "float32", bert.layers[0])
    monkeypatch.setattr(Library, "_code", property(lambda self: type("", (), {"minibert_layer": lambda *_: 0})))
    monkeypatch.setattr(Library, "panel", 8)
    with pytest.raises(MemoryError), torch.inference_mode():
        Stack(bert, None, [layer, layer])(packed(random_tokens((4,))))
