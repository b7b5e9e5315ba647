"""A warning names the line that called the package, however deep inside it was found."""

import warnings

import numpy as np
import pytest
import torch
from helpers import TINY, widen
from tiny_folder import MEAN, write_cross_encoder, write_encoder, write_vocabulary

from minibert import Bert, CrossEncoder, MultiVectorEncoder, SentenceEncoder, Tokenizer, quantize_embeddings
from minibert.checkpoint.multi_vector import LateModules
from minibert.pooling import Normalize
from minibert.research.corpus import TokenIndex
from minibert.training import Examples, SentenceTask, TeacherVectors

LONG = "the dog eats the cat " * 10
VECTORS = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    encoder = SentenceEncoder.from_pretrained(write_encoder(folder / "dense", ("Pooling", MEAN)), device="cpu")
    cross = CrossEncoder.from_pretrained(write_cross_encoder(folder / "cross"), device="cpu")
    tokenizer = Tokenizer.from_pretrained(write_vocabulary(folder / "words", config={"do_lower_case": True}))
    modules = LateModules(after=[Normalize()], document_length=20)
    late = MultiVectorEncoder(widen(Bert(TINY)).eval(), tokenizer, modules, truncation="warn")
    return {"encoder": encoder, "cross": cross, "late": late, "tokenizer": encoder.tokenizer}


CALLS = {
    "encode": lambda m: m["encoder"].encode(LONG),
    "encode, their keywords": lambda m: m["encoder"].encode(sentences=[LONG], device="cpu"),
    "encode_query": lambda m: m["encoder"].encode_query(LONG),
    "encode_stream": lambda m: list(m["encoder"].encode_stream([LONG])),
    "tokenize": lambda m: m["encoder"].tokenize([LONG]),
    "the tokenizer": lambda m: m["tokenizer"](LONG, truncation=True, max_length=8),
    "predict": lambda m: m["cross"].predict((LONG, LONG)),
    "rank": lambda m: m["cross"].rank(LONG, [LONG]),
    "a token index": lambda m: TokenIndex.build(m["encoder"], [LONG], layer=1),
    "a training": lambda m: SentenceTask(m["encoder"], TeacherVectors(), Examples([[LONG]], torch.ones(1, 32))),
    "late interaction": lambda m: m["late"].encode_document(LONG),
    "few vectors": lambda m: quantize_embeddings(VECTORS, "int8"),
    "few texts": lambda m: m["encoder"].encode(["the cat", "the dog"], precision="int8"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_it_is_the_callers_line(models, call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(models)
    assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, call.__code__.co_firstlineno)]
