"""Input that was hardly meant is refused, and what torch can do to the page works."""

import re

import numpy as np
import pytest
import torch
from tiny_folder import write_cross_encoder

from minibert import Bert, CrossEncoder, SentenceEncoder, similarity, util
from minibert.research import ablate_heads, mask_heads
from minibert.retrieval.sparse_vectors import similarity as sparse_similarity
from minibert.training import InBatchNegatives


class Frame:
    """As a pandas DataFrame iterates: over the names of its columns."""

    columns = ("text",)

    def __iter__(self):
        return iter(self.columns)


def no_list(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("a\nb\n", encoding="utf-8")
    return [{"text": "a"}, {"a", "b"}, Frame(), path.open(encoding="utf-8")]


def test_mappings_tables_and_files_are_no_lists_of_texts(tmp_path):
    encoder, cross = SentenceEncoder.from_pretrained(), CrossEncoder(write_cross_encoder(tmp_path / "cross", 1))
    for what in no_list(tmp_path):
        for call in (encoder.encode, encoder.tokenize, cross.predict, lambda x: cross.rank("q", x)):
            with pytest.raises(TypeError, match="list of texts"):
                call(what)
        if hasattr(what, "close"):
            what.close()


def test_a_stream_may_be_the_lines_of_a_file_but_not_the_keys_of_a_table(tmp_path):
    encoder = SentenceEncoder.from_pretrained()
    *tables, file = no_list(tmp_path)
    for table in tables:
        with pytest.raises(TypeError, match="list of texts"):
            next(encoder.encode_stream(table))
    with file:
        assert [len(vectors) for vectors in encoder.encode_stream(file, window=1)] == [1, 1]


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2", np.float64(2)], ids=repr)
def test_what_counts_is_a_whole_number(wrong, tmp_path):
    encoder, cross = SentenceEncoder.from_pretrained(), CrossEncoder(write_cross_encoder(tmp_path, 1))
    for name, call in (
        ("batch_size", lambda: encoder.encode("a", batch_size=wrong)),
        ("truncate_dim", lambda: encoder.encode("a", truncate_dim=wrong)),
        ("window", lambda: next(encoder.encode_stream(["a"], window=wrong))),
        ("top_k", lambda: cross.rank("a", ["b"], top_k=wrong)),
        ("max_seq_length", lambda: setattr(encoder, "max_seq_length", wrong)),
        ("truncate_dim", lambda: setattr(encoder, "truncate_dim", wrong)),
        ("truncate_dim", lambda: util.truncate_embeddings(np.ones((2, 3)), wrong)),
    ):
        with pytest.raises(ValueError, match=f"{name} must be a whole number, at least 1, not "):
            call()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("prompts", ["a"], 'prompts must map names to texts, as {"query": "query: "}, not [\'a\']'),
        ("prompts", {"query": 3}, "prompts must map names to texts"),
        ("prompts", {3: "query"}, "prompts must map names to texts"),
        ("prompts", "query", "prompts must map names to texts"),
        (
            "similarity_fn_name",
            "cosin",
            "similarity_fn_name must be one of cosine, dot, euclidean, manhattan, not 'cosin'",
        ),
        ("similarity_fn_name", ["dot"], "similarity_fn_name must be one of cosine"),
        ("truncate_dim", -3, "truncate_dim must be a whole number, at least 1, not -3"),
    ],
)
def test_a_setting_is_checked_at_loading_and_as_it_is_set(name, value, said):
    encoder = SentenceEncoder.from_pretrained()
    before = getattr(encoder, name)
    for change in (lambda: setattr(encoder, name, value), lambda: SentenceEncoder("minibert-tiny", **{name: value})):
        with pytest.raises((TypeError, ValueError), match=re.escape(said)) as error:
            change()
        assert str(error.value).count(name) == 1
    assert getattr(encoder, name) == before


def test_a_setting_may_be_a_member_of_an_enumeration_and_a_prompt_none():
    encoder = SentenceEncoder.from_pretrained(prompts={"query": None})
    assert encoder.prompts == {"query": ""}
    encoder.similarity_fn_name = util.SimilarityFunction.DOT
    assert encoder.similarity_fn_name == "dot"
    assert util.SimilarityFunction.possible_values() == ["cosine", "dot", "euclidean", "manhattan"]


def test_a_prompt_that_was_changed_in_place_is_refused_in_the_call():
    encoder = SentenceEncoder.from_pretrained(prompts={"query": "q: "})
    encoder.prompts["query"] = 3
    for call in (encoder.encode_query, lambda text: encoder.encode(text, prompt_name="query")):
        with pytest.raises(TypeError, match="prompt must be a string, not int"):
            call("a")


def test_a_limit_without_room_for_text_is_refused_by_its_own_name():
    encoder = SentenceEncoder.from_pretrained()
    with pytest.raises(ValueError, match="max_seq_length must be at least 3, to leave room for text, not 2"):
        encoder.max_seq_length = 2
    encoder.max_seq_length = 3
    assert encoder.encode("a").shape == (384,)


def test_keywords_of_the_model_are_a_dict():
    with pytest.raises(TypeError, match=r"model_kwargs must be a dict, as .*, not 3"):
        SentenceEncoder("minibert-tiny", model_kwargs=3)


def test_a_dict_of_features_is_unpacked_or_its_vectors_are_added(tmp_path):
    encoder, cross = SentenceEncoder.from_pretrained(), CrossEncoder(write_cross_encoder(tmp_path, 1))
    batch = encoder.tokenize(["a cat", "the dog sleeps"])
    found = encoder(batch)
    assert [*found] == [*batch, "token_embeddings", "sentence_embedding"]
    assert found is not batch
    assert torch.equal(found["sentence_embedding"], encoder(**batch))
    assert found["sentence_embedding"].requires_grad
    with pytest.raises(TypeError, match="a dict of features holds the mask and the token types"):
        encoder(batch, batch["attention_mask"])
    for model in (encoder.model, cross, cross.model):
        with pytest.raises(TypeError, match=r"input_ids must be a tensor, not dict: of a dict, model\(\*\*batch\)"):
            model(batch)


def test_a_prompts_tokens_are_counted_where_the_pooling_leaves_them_out():
    encoder = SentenceEncoder.from_pretrained(pooling="mean")
    assert "prompt_length" not in encoder.preprocess(["a"], prompt="the cat ")
    encoder.set_pooling_include_prompt(False)
    batch = encoder.preprocess(["a", "a dog"], prompt="the cat ")
    assert batch["prompt_length"] == 3
    expected = encoder.encode(["a", "a dog"], prompt="the cat ")
    np.testing.assert_allclose(encoder(batch)["sentence_embedding"].detach(), expected, atol=1e-6)


def test_its_modules_are_counted():
    encoder = SentenceEncoder.from_pretrained()
    assert [encoder[i] for i in range(len(encoder))] == list(encoder)
    assert (encoder._first_module(), encoder._last_module()) == (encoder[0], encoder[len(encoder) - 1])


def test_an_array_without_a_dimension_is_no_list_and_a_string_of_numpy_is_a_text():
    encoder = SentenceEncoder.from_pretrained()
    for what in (np.array("abc"), torch.tensor(3)):
        with pytest.raises(TypeError, match=r"a list of texts, not .* of no dimension"):
            encoder.encode(what)
    assert encoder.encode(np.array(["abc"])[0]).shape == (384,)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_here_is_one_clear_error():
    encoder = SentenceEncoder.from_pretrained(device="cpu")
    for move in (
        lambda: encoder.to("cuda"),
        lambda: encoder.to(device="cuda:1"),
        encoder.cuda,
        lambda: encoder.cuda(0),
    ):
        with pytest.raises(ValueError, match=r"device 'cuda.*': this machine has no cuda"):
            move()
    assert encoder.to("cpu", torch.float64).to(torch.float32).to(torch.device("cpu")) is encoder


def test_functions_on_vectors_name_what_is_wrong():
    encoder, vectors = SentenceEncoder.from_pretrained(), np.eye(3, dtype=np.float32)
    for call in (
        lambda: util.semantic_search(vectors, vectors, score_function="cos"),
        lambda: util.paraphrase_mining_embeddings(vectors, score_function="cos"),
        lambda: util.paraphrase_mining(encoder, ["a", "b"], score_function="cos"),
    ):
        with pytest.raises(
            TypeError, match=r"score_function must be a function, as minibert\.util\.cos_sim, not 'cos'"
        ):
            call()
    for first, second in ((["a", "b"], encoder), (encoder, "abc"), ("abc", ["a"])):
        with pytest.raises(TypeError, match="needs a model and a list of texts, in this order, not "):
            util.paraphrase_mining(first, second)


def test_mining_names_a_threshold_that_is_none_and_takes_one_vector():
    vectors = np.eye(3, dtype=np.float32)
    for wrong in ("x", None, float("nan")):
        with pytest.raises(ValueError, match="threshold must be a number, not "):
            util.community_detection(vectors, threshold=wrong)
    assert util.community_detection(vectors[0], min_community_size=1) == [[0]]
    assert util.paraphrase_mining_embeddings(vectors[0]) == []
    assert util.semantic_search(vectors[0], vectors[0], corpus_chunk_size=1) == [[{"corpus_id": 0, "score": 1.0}]]


def test_a_search_in_two_dtypes_is_in_the_wider_one():
    vectors = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32) * 1e4
    queries = vectors[:3].astype(np.float16)
    for own, corpus in ((queries, vectors), (queries.astype(np.float32), vectors.astype(np.float64))):
        scores = util.dot_score(own, corpus)
        hits = util.semantic_search(own, corpus, score_function=util.dot_score, top_k=5)
        assert [[hit["corpus_id"] for hit in row] for row in hits] == scores.topk(5).indices.tolist()
        assert [[hit["score"] for hit in row] for row in hits] == scores.topk(5).values.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_distances_of_16_bits_are_those_of_the_same_numbers_in_32(dtype):
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    for score in (util.euclidean_sim, util.manhattan_sim):
        assert torch.equal(score(x, x[:2]), score(x.float(), x[:2].float()))


def test_a_measure_may_be_a_member_of_the_enumeration_and_vectors_are_real():
    x = np.eye(3, dtype=np.float32)
    for measure in util.SimilarityFunction:
        sparse = torch.from_numpy(x).to_sparse()
        for compare, own in ((similarity, x), (util.similarity_pairwise, x), (sparse_similarity, sparse)):
            assert torch.equal(compare(own, own, measure), compare(own, own, measure.value))
        assert InBatchNegatives(similarity=measure).similarity == measure.value
    with pytest.raises(ValueError, match="similarity must be one of cosine, dot, euclidean, manhattan, not 'cos'"):
        similarity(x, x, "cos")
    with pytest.raises(ValueError, match="these vectors are complex"):
        similarity(x.astype(complex), x)


def test_a_prompts_name_must_be_known_beside_a_prompt_too():
    encoder = SentenceEncoder.from_pretrained()
    encoder.prompts = {"query": "query: "}
    np.testing.assert_array_equal(
        encoder.encode("a", prompt="so: ", prompt_name="query"), encoder.encode("a", prompt="so: ")
    )
    with pytest.raises(ValueError, match="the model has no prompt 'question'; it has 'query'"):
        encoder.encode("a", prompt="so: ", prompt_name="question")


def test_a_misspelt_measure_is_no_attribute_that_nothing_reads():
    encoder = SentenceEncoder.from_pretrained()
    with pytest.raises(AttributeError, match="similarity_fn of a SentenceEncoder can't be set: set similarity_fn_name"):
        encoder.similarity_fn = "dot"


def test_an_activation_must_keep_the_rows(tmp_path):
    cross = CrossEncoder(write_cross_encoder(tmp_path, 1))
    for wrong in (lambda x: x[:1], lambda x: x.sum(), lambda x: x.tolist()):
        with pytest.raises(ValueError, match="activation_fn must keep a row for each pair"):
            cross.predict([("a", "b"), ("c", "d")], activation_fn=wrong)


def test_heads_in_another_form_are_named():
    encoder = SentenceEncoder.from_pretrained()
    with (
        pytest.raises(TypeError, match=r"heads are given by layer, as \{3: \[0, 5\]\}, not as list"),
        ablate_heads(encoder, [0]),
    ):
        pass
    with pytest.raises(TypeError, match=r"the mask must be numbers \(L, H\), not NoneType"), mask_heads(encoder, None):
        pass


def test_a_count_may_be_a_number_of_numpy():
    encoder = SentenceEncoder.from_pretrained()
    assert encoder.encode(["a", "b"], batch_size=np.int64(1), truncate_dim=np.int32(4)).shape == (2, 4)


def test_fewer_bytes_are_for_sentence_vectors_only():
    encoder = SentenceEncoder.from_pretrained()
    for output in ("token_embeddings", None):
        with pytest.raises(ValueError, match="precision='ubinary' is for sentence vectors"):
            encoder.encode("a", output_value=output, precision="ubinary")


def test_a_length_may_be_a_number_of_numpy():
    encoder = SentenceEncoder.from_pretrained()
    encoder.max_seq_length = np.int64(16)
    assert encoder.max_seq_length == 16
    for wrong in (np.float64(16), True, 0, np.int64(-1)):
        with pytest.raises(ValueError, match="max_seq_length"):
            encoder.max_seq_length = wrong


def test_scores_that_are_not_numbers_come_last(tmp_path):
    cross = CrossEncoder(write_cross_encoder(tmp_path, 1))
    texts = ["one two", "three", "four five six", "two"]
    scores = cross.predict([("one", text) for text in texts])
    cross.activation_fn = lambda x: torch.where((torch.sigmoid(x) - float(scores[2])).abs() < 1e-6, torch.nan, x)
    ranked = [row["corpus_id"] for row in cross.rank("one", texts)]
    assert ranked == [i for i in np.argsort(-scores, kind="stable").tolist() if i != 2] + [2]


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_what_is_no_number_in_one_text_stays_in_it(number, dtype):
    encoder = SentenceEncoder.from_pretrained(dtype=dtype)
    for word in ("winter", "[PAD]"):
        with torch.no_grad():
            encoder.model.embeddings.token.weight[encoder.tokenizer.get_vocab()[word]] = number
    texts = [" ".join(["the dog is red now", "and it is new"][: 1 + i % 2]) for i in range(16)]
    plain = SentenceEncoder.from_pretrained(dtype=dtype).encode(texts)
    texts[7] = "the winter is red now"
    vectors = encoder.encode(texts)
    assert np.flatnonzero(~np.isfinite(vectors).all(1)).tolist() == [7]
    alone = np.stack([encoder.encode(" ".join(["red"] * length)) for length in range(1, 40)])
    assert np.isfinite(alone).all()
    rest = [i for i in range(16) if i != 7]
    assert np.abs(vectors[rest] - plain[rest]).max() < {"float32": 1e-6, "bfloat16": 2e-3, "int8": 2e-2}[dtype]


def test_gradients_of_each_text_by_vmap():
    model = Bert.from_pretrained("minibert-tiny")
    values = {name: value.detach() for name, value in model.named_parameters()}
    ids = torch.randint(5, 1000, (3, 6), generator=torch.Generator().manual_seed(0))

    def loss(values, row):
        return torch.func.functional_call(model, values, (row.unsqueeze(0),)).last_hidden_state[0, 0].square().sum()

    name = "layers.0.feed_forward.up.weight"
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(values, ids)[name]
    loop = torch.stack([torch.func.grad(loss)(values, row)[name] for row in ids])
    assert torch.allclose(each, loop, atol=1e-4 * float(loop.abs().max()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_page_can_be_exported():
    model = Bert.from_pretrained("minibert-tiny")
    ids = torch.randint(5, 1000, (2, 12), generator=torch.Generator().manual_seed(0))
    given = ids, torch.ones_like(ids), torch.zeros_like(ids)
    with torch.no_grad():
        program = torch.export.export(model, given, strict=False)
        assert torch.allclose(program.module()(*given)[0], model(*given)[0], atol=1e-5)
