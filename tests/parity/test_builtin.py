"""The built-in model in the reference libraries: the same folder, the same vectors."""

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from minibert import SentenceEncoder
from minibert.checkpoint import builtin

TEXTS = [
    "A man is eating food.",
    "Someone has a meal.",
    "Zyzzyvas are weevils, aren't they?",
    "",
    "long " * 300,
    "naïve café №5 日本",
]


def vectors():
    return SentenceEncoder.from_pretrained(device="cpu", truncation="silent").encode(TEXTS)


def test_sentence_transformers_gives_the_same_vectors():
    theirs = SentenceTransformer(str(builtin.FOLDER), device="cpu")
    assert theirs[1].get_config_dict()["pooling_mode"] == "cls"
    np.testing.assert_allclose(vectors(), theirs.encode(TEXTS), atol=1e-5)


def test_transformers_gives_the_same_vectors():
    folder = str(builtin.FOLDER)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, add_pooling_layer=False)
    assert model.dtype == torch.float32
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")  # at the limit that the folder states
    with torch.no_grad():
        first = model(**batch).last_hidden_state[:, 0]
    np.testing.assert_allclose(vectors(), torch.nn.functional.normalize(first, dim=-1).numpy(), atol=1e-5)
