"""Heads cut out: as transformers' BERT with 0 in the columns that read them; transformers 5 can't load what was cut."""

import copy

import pytest
import torch
from helpers import TINY, random_batch
from parity.pair import assert_same, make_pair
from transformers import BertModel

from minibert.research import prune_heads

HEADS = {0: [2], 1: [3, 0]}


def test_pruned_equals_transformers_with_columns_of_zeros():
    pair, batch = make_pair(), random_batch(TINY, (9, 5, 1))
    prune_heads(pair.ours, HEADS)
    theirs = copy.deepcopy(pair.theirs)
    for layer, heads in HEADS.items():
        for head in heads:
            theirs.encoder.layer[layer].attention.output.dense.weight.data[:, 8 * head : 8 * head + 8] = 0
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        mine, reference = pair.ours(**batch), theirs(**batch)
        assert_same(mine.last_hidden_state[real], reference.last_hidden_state[real])
        assert_same(mine.pooler_output, reference.pooler_output)


def test_transformers_5_refuses_a_pruned_folder(tmp_path):
    """As the docs say. Should it ever load one, it must be to the same numbers."""
    ours = make_pair().ours.float()
    prune_heads(ours, HEADS)
    ours.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="mismatch"):
        BertModel.from_pretrained(tmp_path)
