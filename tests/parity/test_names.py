"""The name table against transformers' own names, and saved folders against its loader."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from helpers import TINY, random_batch, widen

from minibert import Bert, BertConfig
from minibert.checkpoint.names import published_name


@pytest.mark.parametrize("config", [BertConfig(), TINY], ids=["base", "tiny"])
@pytest.mark.parametrize("pooler", [True, False], ids=["pooler", "no pooler"])
def test_published_names_and_shapes_are_those_of_transformers(config: BertConfig, pooler: bool) -> None:
    with torch.device("meta"):
        ours = Bert(config, pooler=pooler).state_dict()
        theirs = transformers.BertModel(
            transformers.BertConfig(**config.to_dict()), add_pooling_layer=pooler
        ).state_dict()
    assert {published_name(name): t.shape for name, t in ours.items()} == {name: t.shape for name, t in theirs.items()}


def test_transformers_loads_what_is_saved_with_nothing_left_over(tmp_path: Path) -> None:
    model = widen(Bert(TINY)).eval()
    model.save_pretrained(tmp_path)
    theirs, info = transformers.BertModel.from_pretrained(tmp_path, output_loading_info=True, local_files_only=True)
    assert not any(info.values())
    batch = random_batch(TINY, (9, 5))
    with torch.no_grad():
        torch.testing.assert_close(
            model(**batch).last_hidden_state[0], theirs.eval()(**batch).last_hidden_state[0], atol=1e-5, rtol=1e-5
        )


def test_what_transformers_saves_is_loaded_with_nothing_left_over(tmp_path: Path) -> None:
    theirs = widen(transformers.BertModel(transformers.BertConfig(**TINY.to_dict())))
    theirs.save_pretrained(tmp_path)
    model = Bert.from_pretrained(tmp_path)
    assert model.report.known_harmless == ()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[published_name(name)]), name
