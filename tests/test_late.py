"""MultiVectorEncoder without references: bad input, no input, blocks, and what training sees."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from helpers import TINY, widen
from tiny_folder import TEXTS, VOCABULARY, write_encoder, write_json, write_vocabulary

from minibert import Bert, HierarchicalTokenPooling, MultiVectorEncoder, SentenceEncoder, Tokenizer, TokenVectors
from minibert.checkpoint.colbert import LateModules, QueryExpansion
from minibert.checkpoint.tensors import CheckpointError
from minibert.config import ConfigError
from minibert.pooling import Dense, Normalize
from minibert.retrieval import late
from minibert.retrieval.late import maxsim, maxsim_pairwise
from minibert.training import Examples, LateDistillation, LateInBatchNegatives, LateMarginMSE, LateTask, Settings, train


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.from_pretrained(write_vocabulary(tmp_path_factory.mktemp("v"), config={"do_lower_case": True}))


@pytest.fixture
def make(tokenizer):
    def build(**settings):
        dense = widen(Dense(TINY.hidden_size, 8, bias=False, activation="Identity"))
        modules = LateModules(after=[dense, Normalize()], **settings)
        return MultiVectorEncoder(widen(Bert(TINY)).eval(), tokenizer, modules, truncation="silent")

    return build


@pytest.fixture
def encoder(make):
    return make(query_expansion=QueryExpansion(12), skiplist_words=list(".,:!?"), document_length=20)


def plain(queries, documents):
    return torch.stack([torch.stack([(q @ d.T).amax(1).sum() for d in documents]) for q in queries])


def vectors(*sizes, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 5, generator=random) for size in sizes]


def test_blocks_give_the_plain_formula(monkeypatch):
    queries, documents = vectors(3, 1, 9), vectors(4, 7, 1, 30, 2, 2, seed=1)
    for block, tokens in ((1, 1), (7, 4), (50, 1000), (2**20, 1024)):
        monkeypatch.setattr(late, "BLOCK", block)
        monkeypatch.setattr(late, "QUERY_TOKENS", tokens)
        for form in (documents, TokenVectors.of(documents), [x.numpy() for x in documents]):
            assert torch.allclose(maxsim(queries, form), plain(queries, documents), atol=1e-5)
    pairs = maxsim_pairwise(queries, documents[:3])
    assert torch.allclose(pairs, plain(queries, documents[:3]).diagonal(), atol=1e-5)
    mean = maxsim(queries, documents, mean=True) * torch.tensor([[3.0], [1.0], [9.0]])
    assert torch.allclose(mean, plain(queries, documents), atol=1e-5)


def test_nothing_to_score():
    some = vectors(3, 2)
    assert maxsim([], some).shape == (0, 2)
    assert maxsim(some, []).shape == (2, 0)
    assert maxsim(some, TokenVectors.of([])).shape == (2, 0)
    assert maxsim_pairwise([], []).shape == (0,)
    assert maxsim(some, vectors(0, 4))[:, 0].tolist() == [late.EMPTY] * 2
    assert maxsim(vectors(0), some).tolist() == [[0.0, 0.0]]
    assert maxsim(some[0].double(), some).dtype == torch.float64
    assert maxsim(some[0].half(), some[1].half()).dtype == torch.float32


def test_scoring_refuses_what_are_no_vectors():
    for odd in ([torch.zeros(3)], torch.zeros(3), [torch.zeros(2, 5), torch.zeros(2, 6)]):
        with pytest.raises(ValueError, match="expected each text's vectors"):
            maxsim(odd, vectors(2))
    with pytest.raises(ValueError, match="different widths: 5 and 6"):
        maxsim(vectors(2), torch.zeros(2, 6))
    with pytest.raises(ValueError, match="as many queries as documents, not 1 and 2"):
        maxsim_pairwise(vectors(2), vectors(2, 2))


def test_memory_is_bounded_by_the_blocks(monkeypatch):
    monkeypatch.setattr(late, "BLOCK", 2**14)
    seen = []
    true = late._highest
    monkeypatch.setattr(late, "_highest", lambda x, lengths: seen.append(x.numel()) or true(x, lengths))
    documents = TokenVectors(torch.randn(50_000, 4), np.arange(0, 50_001, 50))
    tracemalloc.start()
    scores = maxsim(torch.randn(32, 4), documents)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert scores.shape == (1, 1000)
    assert max(seen) <= 2**14
    assert len(seen) > 90


def test_packed_vectors_are_a_sequence():
    some = vectors(3, 0, 2, 4)
    packed = TokenVectors.of(some)
    assert len(packed) == 4
    assert TokenVectors.of(packed) is packed
    assert all(torch.equal(x, y) for x, y in zip(packed, some, strict=True))
    assert torch.equal(packed[-1], some[-1])
    assert packed[1:3].vectors.data_ptr() == packed.vectors[3:].data_ptr()  # no copy
    assert [len(x) for x in packed[::2]] == [3, 2]
    assert len(packed[3:1]) == 0
    with pytest.raises(IndexError):
        packed[4]


def test_a_query_is_filled_up_and_a_document_is_not(encoder):
    queries, documents = encoder.encode_query(TEXTS), encoder.encode_document(TEXTS)
    assert {len(x) for x in queries} == {12}
    lengths = [len(ids) for ids in encoder.tokenizer(TEXTS)["input_ids"]]
    skipped = [sum(text.count(mark) for mark in ".,:!?") for text in TEXTS]
    assert [len(x) for x in documents] == [a - b for a, b in zip(lengths, skipped, strict=True)]
    assert all(torch.allclose(x.norm(dim=-1), torch.ones(len(x))) for x in (*queries, *documents))


@pytest.mark.parametrize("attend", [False, True])
def test_the_stack_gives_the_pages_numbers(make, attend):
    encoder = make(query_expansion=QueryExpansion(12, attend=attend))
    texts = [*TEXTS, "the cat"] * 5
    for mine, page in zip(encoder.encode_query(texts), encoder.encode_query(texts, fast=False), strict=True):
        assert torch.allclose(mine, page, atol=1e-5)
    batch = encoder.tokenize(texts, "query")
    assert bool(batch["attention_mask"].all()) is attend
    page = encoder(**batch)
    assert torch.allclose(torch.stack(encoder.encode_query(texts)), page, atol=1e-5)
    assert page.requires_grad


def test_nothing_and_empty_texts(encoder):
    assert encoder.encode_query([]) == encoder.encode_document([]) == []
    assert encoder.encode_query("").shape == (12, 8)
    assert encoder.encode_document("").shape == (2, 8)  # [CLS] and [SEP]
    assert encoder.encode_document(".,!").shape == (2, 8)
    assert encoder.encode_document([".,!"], convert_to_numpy=True)[0].shape == (2, 8)
    everything = [*encoder.skiplist_words, "[CLS]", "[SEP]"]
    encoder.skiplist_words = everything
    assert encoder.encode_document(".,!").shape == (0, 8)
    assert encoder.rank("the cat", [".,!", "the cat"])[-1] == {"corpus_id": 0, "score": late.EMPTY}


def test_rank(encoder):
    ranked = encoder.rank("the cat", TEXTS, top_k=2, return_documents=True)
    scores = encoder.similarity(encoder.encode_query("the cat"), encoder.encode_document(TEXTS))[0]
    assert [row["corpus_id"] for row in ranked] == scores.argsort(descending=True)[:2].tolist()
    assert ranked[0]["text"] == TEXTS[ranked[0]["corpus_id"]]
    packed = TokenVectors.of(encoder.encode_document(TEXTS))
    for documents in (packed, list(packed)):
        assert [row["corpus_id"] for row in encoder.rank("the cat", documents, top_k=2)] == [
            row["corpus_id"] for row in ranked
        ]
    assert encoder.rank("the cat", []) == []
    assert len(encoder.rank("the cat", ["the cat"])) == 1
    with pytest.raises(TypeError, match="a list of texts, not one text"):
        encoder.rank("the cat", "the dog")


def test_a_score_is_attributed_to_pairs_of_tokens(encoder):
    found = encoder.match("who is", "the cat sat.")
    assert found.query == ["[CLS]", "who", "is", "[SEP]", *["[MASK]"] * 8]
    assert found.document == ["[CLS]", "the", "cat", "sat", "[SEP]"]
    assert found.similarities.shape == (12, 5)
    score = encoder.similarity(encoder.encode_query("who is"), encoder.encode_document("the cat sat."))
    assert found.score == pytest.approx(score.item(), rel=1e-5)
    assert found.document[found.best[1]] in str(found)


def test_options_are_refused_by_name(encoder):
    for options, kind, said in (
        ({"convert_to_tensor": True}, TypeError, "convert_to_tensor"),
        ({"device": "cpu"}, TypeError, "device"),
        ({"truncate_dim": 3}, TypeError, "truncate_dim"),
        ({"task": "passage"}, ValueError, "task must be query, document or None, not 'passage'"),
    ):
        with pytest.raises(kind, match=said):
            encoder.encode(TEXTS, **options)
    for options in ({"pool_factor": 0.5}, {"num_protected_tokens": -1}, {"tasks": ["passage"]}):
        with pytest.raises(ValueError, match=next(iter(options))):
            HierarchicalTokenPooling(**options)


def test_parts_that_do_not_fit(make, tokenizer):
    for settings, said in (
        ({"query_expansion": QueryExpansion(12, token="[NONE]")}, "no token '\\[NONE\\]'"),
        ({"query_expansion": QueryExpansion(41)}, "the model's positions, 40"),
        ({"query_expansion": QueryExpansion(12), "query_length": 9}, "above query_length 9"),
        ({"similarity_fn_name": "cosine"}, "must be one of maxsim, meanmaxsim, not 'cosine'"),
    ):
        with pytest.raises(ConfigError, match=said):
            make(**settings)
    for options in ({"length": 0}, {"length": 3, "strategy": "most"}, {"length": 3, "attend": "no"}):
        with pytest.raises(ConfigError, match="query_expansion"):
            QueryExpansion(**options)
    with pytest.raises(ConfigError, match="in_features of a Dense"):
        MultiVectorEncoder(Bert(TINY), tokenizer, LateModules(after=[Dense(3, 4)]))


def test_folders(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    again = MultiVectorEncoder(tmp_path, device="cpu")
    assert torch.equal(again.encode_query(TEXTS[0]), encoder.encode_query(TEXTS[0]))
    with pytest.raises(ConfigError, match="is for MultiVectorEncoder, not for SentenceEncoder"):
        SentenceEncoder.from_pretrained(tmp_path)
    file = tmp_path / "sentence_bert_config.json"
    values = json.loads(file.read_text())
    for change, said in (
        ({"pad_to": 8}, "does not know the setting pad_to"),
        ({"query_length": "many"}, "query_length must be a whole number"),
        ({"query_expansion": {"length": 8}}, "query_expansion must have length and strategy"),
        ({"query_expansion": {"length": 8, "strategy": "most"}}, "strategy must be fixed or min"),
        ({"module_output_name": "x"}, "module_output_name 'x' is not a late-interaction model's"),
    ):
        file.write_text(json.dumps(values | change))
        with pytest.raises(ConfigError, match=said):
            MultiVectorEncoder.from_pretrained(tmp_path)
    file.write_text(json.dumps(values))
    write_json(tmp_path, "2_Normalize/config.json", {"module_input_name": "sentence_embedding"})
    with pytest.raises(ConfigError, match="only 'token_embeddings'"):
        MultiVectorEncoder.from_pretrained(tmp_path)


def test_folders_of_other_kinds(tmp_path):
    with pytest.raises(ConfigError, match="is for SentenceEncoder, not for MultiVectorEncoder"):
        MultiVectorEncoder.from_pretrained(write_encoder(tmp_path / "a", ("Pooling", {"pooling_mode_cls_token": True})))
    with pytest.raises(CheckpointError, match=r"neither modules\.json nor a projection"):
        MultiVectorEncoder.from_pretrained(write_encoder(tmp_path / "b"))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, r"no marker '\[unused0\]' \(query_token_id\)"),
        ({"query_token_id": "cat", "doc_token_id": "[D]"}, r"no marker '\[D\]' \(doc_token_id\)"),
        ({"similarity": "l2"}, "similarity 'l2' is not supported, only 'cosine'"),
        ({"interaction": "flipr"}, "interaction 'flipr'"),
        ({"dim": 128}, "dim is 128, and linear.weight gives 8 numbers"),
    ],
)
def test_stanfords_form_is_read_with_care(tmp_path, metadata, said):
    from safetensors.torch import load_file, save_file

    write_encoder(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {"linear.weight": torch.randn(8, TINY.hidden_size)}, file)
    write_json(tmp_path, "artifact.metadata", metadata)
    with pytest.raises(ConfigError, match=said):
        MultiVectorEncoder.from_pretrained(tmp_path)


QUERIES, FIRST, SECOND = (["the cat", "who is", "hello world", "a man"], TEXTS[:4], TEXTS[2:])


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
def test_training(make, chunk_size):
    options = {"epochs": 4, "batch_size": 4, "learning_rate": 1e-2}
    for objective, labels in (
        (LateInBatchNegatives(), None),
        (LateDistillation(), torch.randn(4, 2)),
        (LateMarginMSE(), torch.randn(4, 2)),
        (LateMarginMSE(mean=True), torch.randn(4)),
    ):
        encoder = make(query_expansion=QueryExpansion(12), skiplist_words=["."])
        task = LateTask(encoder, objective, Examples([QUERIES, FIRST, SECOND], labels), chunk_size=chunk_size)
        records = train(task, Settings(**options))
        assert np.isfinite([record["loss"] for record in records]).all()
        assert records[0]["loss"] != records[-1]["loss"]


def test_training_refuses_data_by_name(make):
    examples = Examples([QUERIES, FIRST, SECOND], torch.randn(4, 3))
    with pytest.raises(ValueError, match="a score per document, 2, not 3"):
        LateTask(make(), LateDistillation(), examples)
    with pytest.raises(ValueError, match="1 margins or 2 scores per row, not 3"):
        LateTask(make(), LateMarginMSE(), examples)
    with pytest.raises(ValueError, match="student_temperature must be above 0"):
        LateDistillation(0)
    encoder = make(token_pooling=HierarchicalTokenPooling(2))
    with pytest.raises(ValueError, match=r"set encoder\.token_pooling"):
        LateTask(encoder, LateInBatchNegatives(), Examples([QUERIES, FIRST]))


def test_the_vocabulary_has_no_markers_by_chance():
    assert not {"[unused0]", "[D]"} & {*VOCABULARY}


def test_a_setting_is_refused_as_it_is_set_wrong():
    encoder = MultiVectorEncoder(Bert.from_pretrained("minibert-tiny"), Tokenizer.from_pretrained("minibert-tiny"))
    with pytest.raises(ValueError, match="similarity_fn_name must be one of maxsim, meanmaxsim, not 'meanmaxsin'"):
        encoder.similarity_fn_name = "meanmaxsin"
    for name in ("query_length", "document_length"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number, at least 1, not 0"):
            setattr(encoder, name, 0)


@pytest.mark.parametrize("query", [["the cat", "the dog"], [], None, 5])
def test_rank_takes_one_query(query):
    encoder = MultiVectorEncoder(Bert.from_pretrained("minibert-tiny"), Tokenizer.from_pretrained("minibert-tiny"))
    with pytest.raises(TypeError, match="the query one text"):
        encoder.rank(query, ["the cat"])


@pytest.mark.parametrize("texts", [["the cat"], None, 5, [None]])
def test_texts_in_the_place_of_vectors_are_refused(texts):
    with pytest.raises(ValueError, match="expected each text's vectors"):
        maxsim([torch.ones(2, 4)], texts)


def test_settings_of_another_kind_are_refused():
    parts = Bert.from_pretrained("minibert-tiny"), Tokenizer.from_pretrained("minibert-tiny")
    encoder = MultiVectorEncoder(*parts)
    with pytest.raises(TypeError, match="token_pooling must be a HierarchicalTokenPooling, not int"):
        encoder.encode_document(["the cat"], token_pooling=2)
    encoder.token_pooling = 2
    with pytest.raises(TypeError, match="token_pooling must be a HierarchicalTokenPooling, not int"):
        encoder.encode_document(["the cat"])
    for length in (0, -1, "x"):
        with pytest.raises(ValueError, match="document_length"):
            MultiVectorEncoder(*parts, LateModules(document_length=length))


def test_no_attribute_is_set_in_vain(encoder):
    with pytest.raises(AttributeError, match="max_length of a MultiVectorEncoder can't be set: set max_seq_length"):
        encoder.max_length = 9
    with pytest.raises(TypeError, match=r"tokenizer must be a Tokenizer of minibert, .* not int"):
        encoder.tokenizer = 1
