"""What is laid out at loading: as exact and as watchful as at the first call, and in memory once."""

import dataclasses
import sys
from array import array
from mmap import PAGESIZE
from pathlib import Path

import pytest
import torch
from helpers import MINILM, TINY
from tiny_folder import write_cross_encoder, write_encoder

from minibert import Bert, CrossEncoder, SentenceEncoder
from minibert.checkpoint.tensors import CheckpointError
from minibert.fast import loading
from minibert.fast.stack import Product

TEXTS = ["A man is eating food.", "Someone has a meal.", "one"]
DTYPES = ["float32", "bfloat16", "int8"]


@pytest.fixture
def no_layouts(monkeypatch):
    """From the moment that it is called, nothing may be laid out any more."""

    def forbid():
        def refuse(*_):
            pytest.fail("weights were laid out again")

        monkeypatch.setattr(Product, "_lay_out", refuse)

    return forbid


def lazily(monkeypatch, **options):
    """The encoder as it would be if its weights were laid out at the first call."""
    with monkeypatch.context() as patch:
        patch.setattr(loading, "lay_out", lambda *_: None)
        return SentenceEncoder.from_pretrained(MINILM, **options)


@pytest.mark.parametrize("at_once", [0, 128 * 2**20], ids=["mapped anew at every part", "mapped anew once"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_loading_lays_out_what_the_first_call_would(dtype, at_once, monkeypatch, no_layouts):
    expected = lazily(monkeypatch, dtype=dtype).encode(TEXTS)
    monkeypatch.setattr(loading, "AT_ONCE", at_once)
    encoder = SentenceEncoder.from_pretrained(MINILM, dtype=dtype)
    no_layouts()
    assert (encoder.encode(TEXTS) == expected).all()


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
def test_weights_that_were_laid_out_take_no_memory_beside_their_copy(dtype, monkeypatch):
    late, encoder = lazily(monkeypatch, dtype=dtype), SentenceEncoder.from_pretrained(MINILM, dtype=dtype)
    assert resident(late.model) < 0.1  # nothing is read at loading
    for each in (late, encoder):
        each.encode(TEXTS)
    assert resident(late.model) > 0.9
    assert resident(encoder.model) < 0.1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_that_changes_is_noticed(dtype):
    encoder = SentenceEncoder.from_pretrained(MINILM, dtype=dtype)
    page = SentenceEncoder.from_pretrained(MINILM, prepared=False)
    for each in (encoder, page):
        with torch.no_grad():
            each.model.layers[3].feed_forward.down.weight.mul_(-0.5)
    assert abs(encoder.encode(TEXTS) - page.encode(TEXTS)).max() < {"float32": 1e-6}.get(dtype, 2e-2)


def test_moving_to_where_it_is_lays_nothing_out_again(no_layouts):
    encoder = SentenceEncoder.from_pretrained(MINILM)
    no_layouts()
    encoder.to("cpu").float().eval().encode(TEXTS)


def test_what_is_not_mapped_is_laid_out_at_the_first_call(tmp_path, no_layouts):
    SentenceEncoder.from_pretrained(MINILM).save_pretrained(tmp_path)
    Bert.from_pretrained(MINILM).half().save_pretrained(tmp_path)  # becomes float32 in memory
    no_layouts()
    encoder = SentenceEncoder.from_pretrained(tmp_path)
    assert encoder.report.stored_dtype == "float16"
    with pytest.raises(pytest.fail.Exception, match="laid out"):
        encoder.encode(TEXTS)


@pytest.mark.parametrize("other", [{"num_hidden_layers": 1}, {"intermediate_size": 38}], ids=str)
def test_files_that_change_meanwhile_are_one_clear_error(tmp_path, other, monkeypatch):
    folder = write_encoder(tmp_path)
    prepare = loading.prepare

    def meanwhile(*arguments):
        prepare(*arguments)
        Bert(dataclasses.replace(TINY, **other)).save_pretrained(folder)

    monkeypatch.setattr(loading, "prepare", meanwhile)
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.\d.*was changed while the model was being loaded"):
        SentenceEncoder.from_pretrained(folder)


def test_a_cross_encoder_is_laid_out_at_loading_too(tmp_path):
    folder, pair = write_cross_encoder(tmp_path), ("the cat sat", "on the mat")
    page = CrossEncoder.from_pretrained(folder, prepared=False)
    encoder = CrossEncoder.from_pretrained(folder)
    parts = [part for layer in encoder.model.bert.layers for part in (layer.attention, layer.feed_forward)]
    packed = [product.packed for part in parts for product in part.products]
    assert abs(encoder.predict(pair) - page.predict(pair)) < 1e-5
    assert all(product.packed is packed.pop(0) for part in parts for product in part.products)
