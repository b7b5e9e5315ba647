"""Relative positions equal transformers 4.57.6, the last with them: see tools/make_relative_fixture.py."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minibert import Bert

FOLDER = Path(__file__).parent / "fixtures" / "relative"
both_types = pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])


def load(kind):
    """The model, what it is called with, and what transformers computed."""
    expected = load_file(FOLDER / kind / "expected.safetensors")
    batch = {name: expected.pop(name) for name in ("input_ids", "attention_mask", "token_type_ids")}
    return Bert.from_pretrained(FOLDER / kind, dtype="float64"), batch, expected


@both_types
def test_the_numbers_are_those_of_transformers_4(kind):
    model, batch, expected = load(kind)
    output = model(**batch)
    real = batch["attention_mask"].bool()
    assert not real.all()
    assert (output.last_hidden_state - expected["last_hidden_state"])[real].abs().amax().item() < 1e-10
    assert (output.pooler_output - expected["pooler_output"]).abs().amax().item() < 1e-10


def test_the_two_types_give_other_numbers():
    """So that neither could pass for the other above."""
    model, batch, expected = load("relative_key_query")
    for layer in model.layers:
        layer.attention.relative.with_key = False
    assert (model(**batch).pooler_output - expected["pooler_output"]).abs().amax().item() > 1e-3


@both_types
def test_the_sign_of_the_distance_matters(kind):
    model, batch, expected = load(kind)
    with torch.no_grad():
        for layer in model.layers:
            table = layer.attention.relative.distance.weight
            table.copy_(table.flip(0))
    assert (model(**batch).pooler_output - expected["pooler_output"]).abs().amax().item() > 1e-3


@both_types
def test_the_absolute_table_in_the_file_is_left_there(kind):
    """transformers 4 saves one, though nothing looks at it."""
    model, _, _ = load(kind)
    assert model.report.known_harmless == ("embeddings.position_embeddings.weight",)
    assert model.embeddings.position is None


@both_types
def test_what_is_saved_again_gives_the_same_numbers(kind, tmp_path):
    model, batch, _ = load(kind)
    model.save_pretrained(tmp_path)
    again = Bert.from_pretrained(tmp_path, dtype="float64")
    assert torch.equal(again(**batch).last_hidden_state, model(**batch).last_hidden_state)


@both_types
def test_too_long_a_text_is_refused(kind):
    model, _, _ = load(kind)
    longest = model.config.max_position_embeddings
    assert model(torch.ones(1, longest, dtype=torch.long)).last_hidden_state.isfinite().all()
    with pytest.raises(ValueError, match=f"1 to {longest} tokens"):
        model(torch.ones(1, longest + 1, dtype=torch.long))
