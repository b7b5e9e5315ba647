"""Two common research tools work on the page as it is: captum attributes to it, nnsight traces it.

They are optional, and without them these tests are skipped. `pip install -e ".[test,research]"` installs them.
"""

import pytest
import torch
from helpers import MINILM
from torch.nn.functional import normalize

from minibert import Bert, SentenceEncoder, Tokenizer
from minibert.research import capture
from minibert.research.attribute import attribute

TEXT, OTHER = "A man is eating food.", "Someone has a meal."


def test_captums_integrated_gradients_are_ours():
    captum = pytest.importorskip("captum.attr")
    encoder = SentenceEncoder.from_pretrained(MINILM, device="cpu")
    ours = attribute(encoder, TEXT, OTHER)
    ids = encoder.tokenize([TEXT])["input_ids"]
    baseline = ids.clone()
    baseline[0, 1:-1] = encoder.tokenizer.pad_id
    target = normalize(encoder(**encoder.tokenize([OTHER])), dim=-1)[0].detach()
    theirs, missing = captum.LayerIntegratedGradients(
        lambda ids: normalize(encoder(ids), dim=-1) @ target, encoder.model.embeddings.token
    ).attribute(ids, baseline, n_steps=64, method="gausslegendre", return_convergence_delta=True)
    torch.testing.assert_close(ours.scores, theirs.sum(-1)[0], rtol=0, atol=1e-6)
    assert ours.error == pytest.approx(abs(missing.item()), abs=1e-6)


@torch.no_grad()
def test_nnsight_reads_and_changes_the_pages_parts():
    nnsight = pytest.importorskip("nnsight")
    model, tokenizer = Bert.from_pretrained(MINILM), Tokenizer.from_pretrained(MINILM)
    ids = tokenizer([TEXT], return_tensors="pt")["input_ids"]
    with capture(model, "layers.2.attention.core.probs", "layers.3") as values:
        whole = model(ids).last_hidden_state
    traced = nnsight.NNsight(model)
    with traced.trace(ids):
        probs = traced.layers[2].attention.core.probs.output.save()
        x = traced.layers[3].output.save()
    assert torch.equal(probs, values["layers.2.attention.core.probs"])
    assert torch.equal(x, values["layers.3"])
    with traced.trace(ids):
        traced.layers[3].output[:] = 0
        changed = traced.output.save()
    assert (changed.last_hidden_state - whole).abs().max() > 0.1
