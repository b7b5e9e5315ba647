"""Pickles and copies of an encoder: small where its weights are a checkpoint's, whole where they were changed."""

import copy
import io
import pickle
import shutil

import numpy as np
import pytest
import torch
from helpers import TINY, widen
from tiny_folder import MEAN, TEXTS, write_encoder
from torch import nn

from minibert import Bert, SentenceEncoder
from minibert.checkpoint.tensors import CheckpointError
from minibert.portable import StoredWeights, Whole


@pytest.fixture
def folder(tmp_path):
    return write_encoder(tmp_path / "model", ("Pooling", MEAN))


def load(folder, **options):
    return SentenceEncoder.from_pretrained(folder, device="cpu", truncation="silent", **options)


def weight_of(encoder):
    return encoder.model.layers[0].feed_forward.up.weight


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"dtype": "float64"}, {"fast": False}], ids=str)
def test_unchanged_weights_are_left_out_and_found_again(folder, options):
    encoder = load(folder, **options)
    dumped = pickle.dumps(encoder)
    parts = pickle.loads(dumped), copy.deepcopy(encoder), pickle.loads(pickle.dumps(pickle.loads(dumped)))
    assert weight_of(encoder).detach().numpy().tobytes()[:64] not in dumped
    for other in parts:
        assert np.array_equal(other.encode(TEXTS), encoder.encode(TEXTS))
        assert other.training is False
        assert weight_of(other).requires_grad == weight_of(encoder).requires_grad
        assert weight_of(other).data_ptr() != weight_of(encoder).data_ptr()


def test_a_change_of_a_copy_is_its_own(folder):
    encoder = load(folder)
    before, other = encoder.encode(TEXTS), copy.deepcopy(encoder)
    with torch.no_grad():
        weight_of(other).mul_(2)
    assert np.array_equal(encoder.encode(TEXTS), before)
    changed = other.encode(TEXTS)
    assert not np.allclose(changed, before)
    for third in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        assert np.array_equal(third.encode(TEXTS), changed)
        assert torch.equal(weight_of(third), weight_of(other))


def change_by_numpy(encoder):
    weight_of(encoder).detach().numpy()[:] *= 2  # which torch does not count


def change_a_part(encoder):
    encoder.model.layers[0].feed_forward.up = nn.Linear(32, 37)


def add_a_weight(encoder):
    encoder.model.register_parameter("own", nn.Parameter(torch.ones(3)))


def share_a_layer(encoder):
    encoder.model.layers[1] = encoder.model.layers[0]


def freeze(encoder):
    encoder.requires_grad_(requires_grad=False)


@pytest.mark.parametrize("change", [change_by_numpy, change_a_part, add_a_weight, share_a_layer, freeze])
def test_a_changed_model_comes_back_as_it_was(folder, change):
    encoder = load(folder)
    change(encoder)
    other = pickle.loads(pickle.dumps(encoder))
    assert np.array_equal(other.encode(TEXTS, fast=False), encoder.encode(TEXTS, fast=False))
    state, found = encoder.state_dict(), other.state_dict()
    assert list(state) == list(found)
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in encoder.parameters()]
    shared = [model.layers[0] is model.layers[1] for model in (encoder.model, other.model)]
    assert shared[0] == shared[1]


def test_the_same_file_elsewhere_in_time_is_the_same(folder):
    encoder = load(folder)
    dumped, before = pickle.dumps(encoder), encoder.encode(TEXTS)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes())  # another time, the same bytes: as on another machine
    assert np.array_equal(pickle.loads(dumped).encode(TEXTS), before)


def test_other_weights_at_the_place_are_refused(folder, tmp_path):
    dumped = pickle.dumps(load(folder))
    widen(Bert(TINY), seed=1).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: has changed since the encoder was pickled"):
        pickle.loads(dumped)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: a pickled encoder needs .* by its name"):
        pickle.loads(dumped)


def test_without_its_files_an_encoder_pickles_whole(folder):
    encoder = load(folder)
    before = encoder.encode(TEXTS)
    shutil.rmtree(folder)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert np.array_equal(other.encode(TEXTS), before)


def test_a_whole_pickle_needs_no_files(folder):
    encoder = load(folder)
    dumped, before = pickle.dumps(Whole(encoder)), encoder.encode(TEXTS)
    shutil.rmtree(folder)
    other = pickle.loads(dumped)
    assert isinstance(other, SentenceEncoder)
    assert np.array_equal(other.encode(TEXTS), before)


def test_a_pickle_of_the_built_in_model_is_small():
    encoder = SentenceEncoder.from_pretrained()
    dumped = pickle.dumps(encoder)
    assert len(dumped) < 500_000  # its weights take 14 MB
    assert StoredWeights.__name__.encode() in dumped


def test_what_a_pickle_leaves_out_is_no_tensor_that_others_would_read(folder):
    """`datasets` turns each tensor in a pickle into a numpy array, which those on "meta" are not."""

    class Reading(pickle.Pickler):
        def reducer_override(self, value):
            return (torch.from_numpy, (value.detach().numpy(),)) if isinstance(value, torch.Tensor) else NotImplemented

    encoder, file = load(folder), io.BytesIO()
    encoder.encode(TEXTS)
    Reading(file).dump(encoder)
    assert np.array_equal(pickle.loads(file.getvalue()).encode(TEXTS), encoder.encode(TEXTS))


def test_a_decision_stays_in_its_process():
    """Dask pickles a module's attributes one by one."""
    encoder = SentenceEncoder.from_pretrained(device="cpu")
    encoder.encode(TEXTS)
    assert encoder._decision is not None
    assert pickle.loads(pickle.dumps(encoder._decision)) is None
