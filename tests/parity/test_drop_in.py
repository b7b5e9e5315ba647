"""One script of the calls that sentence-transformers' users type, run with it and with minibert: the same results."""

import importlib
from functools import partial

import numpy as np
import pyarrow
import pytest
import torch
from helpers import MINILM, TINY, widen
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tiny_folder import TEXTS, write_vocabulary
from transformers import BertConfig, BertModel

from minibert import SentenceEncoder

TEXT, LONG = TEXTS[0], [*TEXTS, "the Dog eats", "a man", "food on the mat", "the cat sat on the mat"] * 3
PROMPTS = {"query": "the dog: ", "document": "food: ", "other": "a cat "}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of sentence-transformers with prompts and wide random weights."""
    bert = tmp_path_factory.mktemp("bert")
    widen(BertModel(BertConfig(**TINY.to_dict()))).save_pretrained(bert)
    write_vocabulary(bert, config={"do_lower_case": False, "tokenizer_class": "BertTokenizer"})
    modules = [Transformer(str(bert)), Pooling(TINY.hidden_size, "cls"), Normalize()]
    model = SentenceTransformer(modules=modules, device="cpu", prompts=PROMPTS)
    path = tmp_path_factory.mktemp("model")
    model.save(str(path), create_model_card=False)
    return path


class Both:
    """The model and the functions of one of the two libraries."""

    def __init__(self, model_class, package, folder):
        self.load = partial(model_class, device="cpu")
        self.folder, self.model = str(folder), self.load(str(folder))
        self.util = importlib.import_module(f"{package}.util")
        self.vectors = self.model.encode(LONG)


@pytest.fixture(scope="module")
def theirs(folder):
    return Both(SentenceTransformer, "sentence_transformers", folder)


@pytest.fixture(scope="module")
def ours(folder):
    return Both(SentenceEncoder, "minibert", folder)


def inside(of):
    with of.model.truncate_sentence_embeddings(5):
        return of.model.encode(LONG)


def pooled(of):
    pool = of.model.start_multi_process_pool(["cpu", "cpu"])
    try:
        one = of.model.encode(LONG, pool=pool, chunk_size=5, normalize_embeddings=True)
        return [
            one,
            of.model.encode_multi_process(LONG, pool),
            of.model.encode(LONG, pool=pool, convert_to_tensor=True),
        ]
    finally:
        of.model.stop_multi_process_pool(pool)


def changed(of, **options):
    return of.load(of.folder, **options).encode(LONG)


def prompted(of):
    return of.model(of.model.preprocess(LONG, prompt="a cat "))


CALLS = {
    "encode": lambda of: of.model.encode(LONG),
    "one text": lambda of: of.model.encode(TEXT),
    "no texts": lambda of: len(of.model.encode([])),
    "a tuple of texts": lambda of: of.model.encode(tuple(LONG)),
    "numpy strings": lambda of: of.model.encode(np.array(LONG)),
    "numpy objects": lambda of: of.model.encode(np.array(LONG, dtype=object)),
    "by keyword": lambda of: of.model.encode(sentences=LONG),
    "by the new keyword": lambda of: of.model.encode(inputs=LONG),
    "prompt name by position": lambda of: of.model.encode(LONG, "query"),
    "prompt by position": lambda of: of.model.encode(LONG, None, "a cat "),
    "batch size by position": lambda of: of.model.encode(LONG, None, None, 4, False),
    "prompt_name": lambda of: of.model.encode(LONG, prompt_name="other"),
    "encode_query": lambda of: of.model.encode_query(LONG),
    "encode_query, another prompt": lambda of: of.model.encode_query(LONG, "other"),
    "encode_document": lambda of: of.model.encode_document(inputs=LONG),
    "convert_to_tensor": lambda of: of.model.encode(LONG, convert_to_tensor=True, device="cpu"),
    "a list of tensors": lambda of: of.model.encode(LONG, convert_to_numpy=False),
    "normalized": lambda of: of.model.encode(LONG, normalize_embeddings=True, truncate_dim=7),
    "token_embeddings": lambda of: of.model.encode(LONG, output_value="token_embeddings"),
    "everything": lambda of: of.model.encode(TEXT, output_value=None)["sentence_embedding"],
    "ubinary": lambda of: of.model.encode(LONG, precision="ubinary"),
    "truncate_sentence_embeddings": inside,
    "pools": pooled,
    "a list of devices": lambda of: of.model.encode(LONG, device=["cpu", "cpu"]),
    "truncate_dim": lambda of: changed(of, truncate_dim=6),
    "prompts": lambda of: changed(of, prompts={"x": "the dog "}, default_prompt_name="x"),
    "model_kwargs": lambda of: changed(of, model_kwargs={"torch_dtype": "float32", "attn_implementation": "eager"}),
    "similarity_fn_name": lambda of: of.load(of.folder, similarity_fn_name="dot").similarity(of.vectors, of.vectors),
    "remote code": lambda of: changed(of, trust_remote_code=True, cache_folder=None, revision=None, token=None),
    "by model_name_or_path": lambda of: of.load(model_name_or_path=of.folder).encode(LONG),
    "features": lambda of: list(of.model(of.model.preprocess(LONG)).values())[:3],
    "vectors of features": lambda of: of.model(of.model.preprocess(LONG))["sentence_embedding"].detach(),
    "states of features": lambda of: of.model.forward(of.model.preprocess(LONG))["token_embeddings"].detach(),
    "features with a prompt": lambda of: prompted(of)["sentence_embedding"].detach(),
    "modules": lambda of: len(of.model),
    "similarity": lambda of: of.model.similarity(of.vectors, of.vectors[:3]),
    "similarity_pairwise": lambda of: of.model.similarity_pairwise(of.vectors, of.vectors[::-1].copy()),
    "sizes": lambda of: [of.model.get_max_seq_length(), of.model.max_seq_length, of.model.get_embedding_dimension()],
    "get_sentence_embedding_dimension": lambda of: of.model.get_sentence_embedding_dimension(),
    "cos_sim": lambda of: of.util.cos_sim(of.vectors, of.vectors[0]),
    "dot_score": lambda of: of.util.dot_score(of.vectors, list(of.vectors)),
    "euclidean_sim": lambda of: of.util.euclidean_sim(of.vectors[:9], of.vectors[:9]),  # of more, theirs loses digits
    "manhattan_sim": lambda of: of.util.manhattan_sim(of.vectors, of.vectors),
    "pairwise_cos_sim": lambda of: of.util.pairwise_cos_sim(of.vectors, of.vectors[::-1].copy()),
    "pairwise_dot_score": lambda of: of.util.pairwise_dot_score(of.vectors, of.vectors),
    "pairwise_euclidean_sim": lambda of: of.util.pairwise_euclidean_sim(of.vectors, of.vectors[::-1].copy()),
    "pairwise_manhattan_sim": lambda of: of.util.pairwise_manhattan_sim(of.vectors, of.vectors[::-1].copy()),
    "pairwise_angle_sim": lambda of: of.util.pairwise_angle_sim(of.vectors, of.vectors[::-1].copy()),
    "pairwise_angle_sim, odd": lambda of: of.util.pairwise_angle_sim(of.vectors[:, :7], of.vectors[::-1, :7].copy()),
    "SimilarityFunction": lambda of: changed(of, similarity_fn_name=of.util.SimilarityFunction.DOT_PRODUCT),
    "to_similarity_fn": lambda of: of.util.SimilarityFunction.to_similarity_fn("dot")(of.vectors, of.vectors),
    "to_similarity_pairwise_fn": lambda of: of.util.SimilarityFunction.to_similarity_pairwise_fn("manhattan")(
        of.vectors, of.vectors[::-1].copy()
    ),
    "batch_to_device": lambda of: of.util.batch_to_device({"x": torch.ones(2), "n": 3}, "cpu")["x"],
    "normalize_embeddings": lambda of: of.util.normalize_embeddings(torch.from_numpy(of.vectors) * 3),
    "truncate_embeddings": lambda of: of.util.truncate_embeddings(of.vectors, 4),
    "quantize, calibrated": lambda of: of.util.quantize_embeddings(
        of.vectors, precision="int8", calibration_embeddings=np.tile(of.vectors * 1.1, (10, 1))
    ),
    "quantize tensors": lambda of: of.util.quantize_embeddings(torch.from_numpy(of.vectors), precision="binary"),
    "semantic_search": lambda of: [
        [hit["score"] for hit in hits] for hits in of.util.semantic_search(of.vectors[:4], of.vectors, top_k=3)
    ],
    "paraphrase_mining": lambda of: [pair[0] for pair in of.util.paraphrase_mining(of.model, TEXTS)],
    "community_detection": lambda of: sorted(
        map(sorted, of.util.community_detection(of.vectors, threshold=0.99, min_community_size=2))
    ),
}


def assert_alike(mine, reference):
    """Both are of one kind, and of one dtype, shape and device; numbers differ by 1e-5 at most."""
    assert type(mine) is type(reference)
    if isinstance(mine, list):
        assert len(mine) == len(reference)
        for pair in zip(mine, reference, strict=True):
            assert_alike(*pair)
        return
    if isinstance(mine, (torch.Tensor, np.ndarray)):
        assert (mine.shape, mine.dtype) == (reference.shape, reference.dtype)
    difference = np.abs(np.asarray(mine, dtype=float) - np.asarray(reference, dtype=float)).max(initial=0)
    assert difference < 1e-5 * max(1, np.abs(np.asarray(reference, dtype=float)).max(initial=0))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.filterwarnings("default")
def test_a_call_gives_what_it_gives_there(call, ours, theirs):
    assert_alike(call(ours), call(theirs))


def test_arrow_arrays_are_texts(ours):
    for texts in (pyarrow.array(LONG), pyarrow.chunked_array([LONG[:3], LONG[3:]])):
        assert np.array_equal(ours.model.encode(texts), ours.vectors)
    with pytest.raises(TypeError, match="text 1 is None"):
        ours.model.encode(pyarrow.array(["a", None]))


def test_real_weights_in_a_pool_of_two():
    encoder, reference = SentenceEncoder(str(MINILM), device="cpu"), SentenceTransformer(str(MINILM), device="cpu")
    texts = [f"{text}, number {i}" for i in range(20) for text in LONG]
    assert_alike(encoder.encode(texts, device=["cpu", "cpu"]), reference.encode(texts))
