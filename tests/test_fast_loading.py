"""Packing at loading is as exact and as watchful as at the first call, and weights are in memory once."""

import dataclasses
import platform
import subprocess
import sys
import warnings
from array import array
from mmap import PAGESIZE
from pathlib import Path

import pytest
import torch
from fast_helpers import fast_layers
from helpers import MINILM, TINY
from tiny_folder import MEAN, TEXTS, write_cross_encoder, write_encoder
from torch import nn

from minibert import Bert, CrossEncoder, SentenceEncoder, arithmetic, portable, text_model
from minibert.checkpoint.tensors import CheckpointError
from minibert.fast import stack
from minibert.fast.changes import TrackedParameter

SENTENCES = ["A man is eating food.", "Someone has a meal.", "one"]
DTYPES = ["float32", "bfloat16", "int8"]
MEASURE = arithmetic.times_float32.__wrapped__


@pytest.fixture(autouse=True)
def _any_processor(monkeypatch):
    monkeypatch.setattr(arithmetic, "times_float32", lambda _: 0.5)


@pytest.fixture
def no_packing(monkeypatch):
    """From the moment that it is called, nothing may be packed any more."""

    def forbid():
        def refuse(*_):
            pytest.fail("weights were packed again")

        monkeypatch.setattr(stack, "pack", refuse)

    return forbid


@pytest.fixture
def folder(tmp_path):
    return write_encoder(tmp_path, ("Pooling", MEAN))


def lazily(monkeypatch, **options):
    """The encoder as it would be if its weights were packed at the first call."""
    with monkeypatch.context() as patch:
        patch.setattr(text_model, "pack_at_loading", lambda *_, **__: None)
        return SentenceEncoder.from_pretrained(MINILM, **options)


@pytest.mark.parametrize("release", [0, 128 * 2**20], ids=["mapped anew at every layer", "mapped anew once"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_loading_packs_what_the_first_call_would(dtype, release, monkeypatch, no_packing):
    expected = lazily(monkeypatch, dtype=dtype).encode(SENTENCES)
    monkeypatch.setattr(portable, "RELEASE", release)
    encoder = SentenceEncoder.from_pretrained(MINILM, dtype=dtype)
    no_packing()
    assert (encoder.encode(SENTENCES) == expected).all()


@pytest.mark.parametrize("dtype", [*DTYPES, "float64"])
def test_the_default_device_does_not_count(dtype):
    expected = SentenceEncoder.from_pretrained(MINILM, dtype=dtype, device="cpu").encode(SENTENCES)
    with torch.device("meta"):
        found = SentenceEncoder.from_pretrained(MINILM, dtype=dtype, device="cpu").encode(SENTENCES)
    assert (found == expected).all()


def test_the_weights_are_those_of_the_file():
    page, encoder = Bert.from_pretrained(MINILM), SentenceEncoder.from_pretrained(MINILM)
    for (name, theirs), ours in zip(page.named_parameters(), encoder.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
        assert ours.requires_grad
        assert ours.is_leaf


def resident(model):
    """Which part of its layers' matrices is in this process's memory; each page has eight bytes here."""
    pages, present = 0, 0
    with Path("/proc/self/pagemap").open("rb") as table:
        for value in model.layers.parameters():
            if value.ndim > 1:
                begin, end = value.data_ptr() // PAGESIZE, (value.data_ptr() + value.nbytes) // PAGESIZE
                table.seek(8 * begin)
                pages += end - begin
                present += sum(entry >> 63 for entry in array("Q", table.read(8 * (end - begin))))
    return present / pages


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_weights_take_no_memory_beside_their_copy(dtype, monkeypatch):
    late, encoder = lazily(monkeypatch, dtype=dtype), SentenceEncoder.from_pretrained(MINILM, dtype=dtype)
    assert resident(late.model) < 0.1  # nothing is read at loading
    for each in (late, encoder):
        each.encode(SENTENCES)
    assert resident(late.model) > 0.9
    assert resident(encoder.model) < 0.1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_that_changes_is_noticed(dtype):
    encoder = SentenceEncoder.from_pretrained(MINILM, dtype=dtype)
    page = SentenceEncoder.from_pretrained(MINILM, fast=False)
    for each in (encoder, page):
        with torch.no_grad():
            each.model.layers[3].feed_forward.down.weight.mul_(-0.5)
    assert abs(encoder.encode(SENTENCES) - page.encode(SENTENCES)).max() < {"float32": 1e-6}.get(dtype, 2e-2)


def test_moving_to_where_it_is_packs_nothing_again(no_packing):
    encoder = SentenceEncoder.from_pretrained(MINILM)
    no_packing()
    encoder.to("cpu").float().eval().encode(SENTENCES)


def test_what_is_not_mapped_is_packed_at_the_first_call(tmp_path, no_packing):
    SentenceEncoder.from_pretrained(MINILM).save_pretrained(tmp_path)
    Bert.from_pretrained(MINILM).half().save_pretrained(tmp_path)  # becomes float32 in memory
    no_packing()
    encoder = SentenceEncoder.from_pretrained(tmp_path)
    assert encoder.report.stored_dtype == "float16"
    with pytest.raises(pytest.fail.Exception, match="packed again"):
        encoder.encode(SENTENCES)


def test_the_page_alone_packs_nothing(no_packing):
    no_packing()
    encoder = SentenceEncoder.from_pretrained(MINILM, fast=False)
    encoder.encode(SENTENCES)
    assert encoder.explain() == "all  page  fast=False was asked for"


def test_nothing_is_packed_again_without_need(no_packing):
    """By calls of any kind, or a mode; and after a change, or a hook that has gone, only that layer."""
    encoder = SentenceEncoder.from_pretrained(MINILM)
    encoder.encode(SENTENCES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack, "pack", lambda *_: pytest.fail("weights were packed again"))
        encoder.encode(SENTENCES[0])
        encoder.encode(SENTENCES, batch_invariant=True)
        encoder.encode(SENTENCES, output_value="token_embeddings")
        encoder.encode(SENTENCES, fast=False)
        encoder.explain()
        encoder.train().encode(SENTENCES)
        encoder.eval().encode(SENTENCES)
        handle = encoder.pooling.register_forward_hook(lambda *_: None)
        encoder.encode(SENTENCES)
        handle.remove()
        encoder.encode(SENTENCES, normalize_embeddings=True)
        handle = encoder.model.layers[2].register_forward_hook(lambda *_: None)
        encoder.encode(SENTENCES)
        handle.remove()
    packed, pack = [], stack.pack
    with torch.no_grad():
        encoder.model.layers[3].attention.out.weight.mul_(1.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack, "pack", lambda *layers: packed.extend(layers[1:]) or pack(*layers))
        encoder.encode(SENTENCES)
    touched = (part for layer in encoder.model.layers[2:4] for part in layer.modules())
    assert set(packed) == {part for part in touched if isinstance(part, nn.Linear)}


@pytest.mark.parametrize("how", ["loaded", "put together"])
def test_a_decision_is_kept_from_call_to_call(how):
    encoder = SentenceEncoder.from_pretrained(MINILM)
    if how == "put together":
        encoder = SentenceEncoder(encoder.model, encoder.tokenizer)
        assert not any(part.training for part in encoder.modules())  # as the model that was given
    encoder.encode(SENTENCES)
    decision = encoder._decision
    for options in ({}, {"fast": False}, {"output_value": None}, {"batch_size": 1}, {"prompt": "query: "}):
        encoder.encode(SENTENCES, **options)
        assert encoder._decision is decision


@pytest.mark.parametrize("other", [{"num_hidden_layers": 1}, {"intermediate_size": 38}], ids=str)
def test_files_that_change_meanwhile_are_one_clear_error(folder, other, monkeypatch):
    pack_at_loading = text_model.pack_at_loading

    def meanwhile(*arguments, **options):
        Bert(dataclasses.replace(TINY, **other)).save_pretrained(folder)
        pack_at_loading(*arguments, **options)

    monkeypatch.setattr(text_model, "pack_at_loading", meanwhile)
    with pytest.raises(CheckpointError, match=r"safetensors was changed while the model was being loaded"):
        SentenceEncoder.from_pretrained(folder)


def test_a_cross_encoder_is_packed_at_loading_too(tmp_path, no_packing):
    folder, pair = write_cross_encoder(tmp_path), ("the cat sat", "on the mat")
    page = CrossEncoder.from_pretrained(folder, fast=False)
    encoder = CrossEncoder.from_pretrained(folder)
    no_packing()
    assert abs(encoder.predict(pair) - page.predict(pair)) < 1e-5


# --- as dtype


@pytest.mark.parametrize("name", ["bfloat16", "int8", torch.bfloat16])
def test_by_dtype_the_weights_stay_float32(folder, name):
    encoder = SentenceEncoder.from_pretrained(folder, dtype=name, device="cpu")
    exact = SentenceEncoder.from_pretrained(folder, device="cpu")
    assert {value.dtype for value in encoder.parameters()} == {torch.float32}
    apart = abs(encoder.encode(TEXTS) - exact.encode(TEXTS)).max()
    assert 1e-4 < apart < 0.5
    short = str(name).removeprefix("torch.")
    assert f"the linear layers compute in {short}" in encoder.report.notes
    assert f"(products in {short})" in encoder.explain()
    assert abs(encoder.encode(TEXTS, fast=False) - exact.encode(TEXTS)).max() < 1e-5
    encoder.fast = False
    assert abs(encoder.encode(TEXTS) - exact.encode(TEXTS)).max() < 1e-5


@pytest.mark.parametrize("options", [{"fast": False}, {"device": "meta"}], ids=str)
def test_int8_elsewhere_is_refused(folder, options, monkeypatch):
    monkeypatch.setattr("minibert.encoder.find_device", lambda name: torch.device(name or "cpu"))  # meta for a GPU
    with pytest.raises(ValueError, match="int8 needs the fast stack on the CPU"):
        SentenceEncoder.from_pretrained(folder, dtype="int8", **options)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "float16", torch.float16], ids=str)
def test_a_slow_processor_is_reported_with_what_was_measured(folder, monkeypatch, dtype):
    monkeypatch.setattr(arithmetic, "times_float32", lambda _: 2.345)
    with pytest.warns(UserWarning, match=r"(int8|float16) makes products 2.3 times as slow as float32 on this proc"):
        SentenceEncoder.from_pretrained(folder, dtype=dtype, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SentenceEncoder.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_measurement_measures(dtype):
    assert 0.01 < MEASURE(dtype) < 100


def test_loading_in_inference_mode_gives_weights_like_any(folder):
    with torch.inference_mode():
        encoder = SentenceEncoder.from_pretrained(folder, dtype="bfloat16", device="cpu")
        assert not any(value.is_inference() for value in encoder.parameters())
        with fast_layers(encoder) as calls:
            encoder.encode(TEXTS, fast=True)
    assert len(calls) == 2
    assert type(encoder.model.layers[0].attention.query.weight) is TrackedParameter


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_memory_that_was_freed_is_used_again():
    """In a process of its own, counted in pages that the system had to give."""
    program = """
import resource, torch
from minibert.fast.prepare import keep_freed_memory
torch.set_num_threads(1)
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(2**18) + 1  # a megabyte, twice
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = pages()
keep_freed_memory()
pages()
print(before, pages())
"""
    run = [sys.executable, "-c", program]
    found = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True).stdout
    before, after = map(int, found.split())
    assert after < before / 10
