"""The masked-LM objective against the loss that transformers computes for the same hidden words."""

import numpy as np
import pytest
import torch
from helpers import TINY
from parity.pair import EXACT
from parity.test_heads import make_pair
from tiny_folder import TEXTS, write_vocabulary

from minibert import Tokenizer
from minibert.checkpoint.names import published_name
from minibert.training.masked import MaskedLMEvaluator, MaskedLMTask, mask_words
from minibert.training.masking import cut_into_blocks

ROWS = np.array([3, 0, 2])


@pytest.fixture
def both(tmp_path):
    """The task, and their model with the same weights."""
    ours, theirs = make_pair("BertForMaskedLM")
    tokenizer = Tokenizer.from_pretrained(write_vocabulary(tmp_path, config={"do_lower_case": True}))
    blocks = cut_into_blocks(tokenizer, TEXTS, TINY.max_position_embeddings, packed=False)
    return MaskedLMTask(ours, tokenizer, blocks, share=0.4).eval(), theirs


def hidden(task, seed):
    """What the task hides after the seed was set."""
    torch.manual_seed(seed)
    random = np.random.default_rng(int(torch.randint(2**62, ())))
    return mask_words(task.tokenizer, task.masking, task.blocks, ROWS, [random] * len(ROWS))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_and_its_gradients(both, seed):
    task, theirs = both
    batch, labels = hidden(task, seed)
    reference = theirs(**batch, labels=labels).loss
    reference.backward()
    torch.manual_seed(seed)
    loss = task.loss(ROWS)
    loss.backward()
    assert abs(loss.item() - reference.item()) < EXACT
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in task.model.named_parameters():
        assert (parameter.grad - gradients[published_name(name)]).abs().max() < EXACT, name


def test_the_evaluation_is_minus_their_loss_over_all_blocks(both):
    task, theirs = both
    evaluate = MaskedLMEvaluator(task.tokenizer, task.blocks, share=0.4, seed=5)
    rows = np.arange(len(task.lengths))
    random = [np.random.default_rng([5, int(row)]) for row in rows]
    batch, labels = mask_words(task.tokenizer, task.masking, task.blocks, rows, random)
    output = theirs(**batch, labels=labels)
    scores = evaluate(task.model)
    told = labels >= 0
    assert abs(scores["log_likelihood"] + output.loss.item()) < EXACT
    assert abs(scores["perplexity"] / output.loss.exp().item() - 1) < EXACT
    assert scores["accuracy"] == (output.logits.argmax(-1) == labels)[told].double().mean()
