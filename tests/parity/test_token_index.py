"""The nearest tokens of all-MiniLM-L6-v2 are those that transformers' states and head outputs give by brute force."""

import pytest
import torch
from helpers import MINILM
from tokenizers import Tokenizer
from torch.nn.functional import normalize
from transformers import BertModel

from minibert import SentenceEncoder
from minibert.research.corpus import TokenIndex

LINES = [
    "A man in a red shirt is riding a bike.",
    "He sat on the bank of the river.",
    "She got money from the bank.",
    "Two dogs run through the grass, and a child watches them.",
    "The boats on the river are moored to its banks.",
    "Embeddings of words are vectors.",
]


@pytest.fixture(scope="module")
def theirs():
    """Of every token of the lines: all hidden states, and what each layer's heads give to the output projection."""
    model, tokenizer = BertModel.from_pretrained(MINILM), Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    tokenizer.no_padding()
    states, outputs = [], []
    heads = []
    for layer in model.encoder.layer:
        layer.attention.self.register_forward_hook(lambda _, __, output: heads.append(output[0][0]))
    with torch.no_grad():
        for line in LINES:
            heads.clear()
            ids = torch.tensor([tokenizer.encode(line).ids])
            states.append(torch.stack(model(ids, output_hidden_states=True).hidden_states)[:, 0])
            outputs.append(torch.stack(heads).unflatten(-1, (12, 32)))
    return torch.cat(states, dim=1), torch.cat(outputs, dim=1)  # (7, N, D), (6, N, H, K)


@pytest.mark.parametrize(("layer", "heads"), [(0, None), (3, None), (5, None), (2, [8]), (4, [1, 6, 11])], ids=str)
def test_the_nearest_tokens_are_those_of_transformers(theirs, layer, heads):
    states, outputs = theirs
    vectors = normalize(states[layer + 1] if heads is None else outputs[layer, :, heads].flatten(1), dim=-1)
    expected = (vectors @ vectors.T).topk(8)
    encoder = SentenceEncoder.from_pretrained(MINILM, device="cpu")
    index = TokenIndex.build(encoder, LINES, layer=layer, heads=heads)
    found = index.search(index.vectors, 8)
    places = [(line, at) for line in range(len(LINES)) for at in range(len(index.tokens(line)))]
    assert len(places) == len(vectors)
    for matches, scores, numbers in zip(found, expected.values, expected.indices, strict=True):
        assert [match.score for match in matches] == pytest.approx(scores.tolist(), abs=1e-5)
        for match, score, number in zip(matches, scores, numbers, strict=True):
            if (scores - score).abs().lt(2e-5).sum() == 1:  # those of one score may come in any order
                assert match[:2] == places[number]
