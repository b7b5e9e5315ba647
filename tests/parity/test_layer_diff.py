"""tools/layer_diff.py: a table with a row per layer, and status 1 where two models differ."""

import layer_diff
import pytest
import torch
from helpers import MINILM
from parity.pair import make_pair

from minibert import Bert

TEXT = "The bank of the river."


def rows(printed):
    """Name -> verdict."""
    return {line.split()[0]: line.split()[-1] for line in printed.splitlines() if line.endswith(("OK", "DIFF"))}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_it_says_that_the_published_model_is_the_same(capsys, dtype):
    assert layer_diff.main([str(MINILM), TEXT, "--dtype", dtype]) == 0
    found = rows(capsys.readouterr().out)
    assert list(found) == ["embeddings", *(f"layers.{i}" for i in range(6)), "pooler"]
    assert set(found.values()) == {"OK"}


def test_it_names_the_layer_that_differs(capsys, monkeypatch):
    spoiled = Bert.from_pretrained(MINILM, dtype="float64")
    with torch.no_grad():
        spoiled.layers[3].feed_forward_norm.bias[0] += 1e-6
    monkeypatch.setattr(Bert, "from_pretrained", lambda *_, **__: spoiled)
    assert layer_diff.main([str(MINILM), TEXT]) == 1
    found = rows(capsys.readouterr().out)
    assert [name for name, verdict in found.items() if verdict == "OK"] == [
        *("embeddings", "layers.0", "layers.1", "layers.2")
    ]


def test_a_nan_is_a_difference():
    ours, theirs = make_pair()
    with torch.no_grad():
        ours.layers[1].attention.out.bias[0] = torch.nan
    found = layer_diff.differences(ours, theirs, {"input_ids": torch.tensor([[1, 2, 3]])})
    assert found["layers.0"] < 1e-10
    assert not found["layers.1"] < 1e-10


def test_another_shape_or_type_is_no_match():
    for other in (torch.zeros(1, 3), torch.zeros(2, 3).double()):
        with pytest.raises(ValueError, match="is not"):
            layer_diff.largest_difference(torch.zeros(2, 3), other)


def test_without_arguments_it_says_how_to_use_it(capsys):
    with pytest.raises(SystemExit):
        layer_diff.main([])
    assert "usage: " in capsys.readouterr().err
