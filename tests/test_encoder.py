"""SentenceEncoder: published vectors, what goes in and comes out, and that nothing else is touched."""

import copy
import dataclasses
import json
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers import MINILM, TINY, widen
from huggingface_hub import utils
from tiny_folder import MEAN, TEXTS, write_encoder, write_json
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minibert import Bert, CheckpointError, ConfigError, SentenceEncoder, Tokenizer, quantize_embeddings
from minibert.checkpoint.load import find_device
from minibert.checkpoint.sentence_transformers import SentenceModules
from minibert.model import Activation
from minibert.pooling import Dense, Normalize, Pooling
from minibert.truncation import TooLongError, TruncationReport

D = TINY.hidden_size
LONG = "the dog eats the cat " * 10  # 50 tokens, of which the tiny model takes 38


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}}
    return write_encoder(tmp_path_factory.mktemp("tiny"), ("Pooling", MEAN), config_sentence_transformers=prompts)


@pytest.fixture(scope="module")
def shared(folder):
    """For tests that change nothing of it."""
    return SentenceEncoder.from_pretrained(folder, device="cpu")


@pytest.fixture
def tiny(shared):
    return copy.deepcopy(shared)


@pytest.fixture(scope="module")
def minilm():
    return SentenceEncoder.from_pretrained(MINILM, device="cpu")


def close(found, expected, below=1e-6):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max(initial=0) < below


# --- Published vectors of all-MiniLM-L6-v2

# fastembed, tests/test_text_onnx_embeddings.py @ c48247f (the first five); more digits from qdrant fastembed-go#12.
HELLO_WORLD = [
    -3.44772786e-02,
    3.10232081e-02,
    6.73494861e-03,
    2.61090137e-02,
    -3.93620506e-02,
    -1.60302490e-01,
    6.69240057e-02,
    -6.44144369e-03,
]
# What fastembed asserted until 3312079, by mistake: CLS pooling, of a file whose GELU had been made the tanh form.
HELLO_WORLD_CLS = [0.025913946, 0.0057322374, 0.01147225, 0.037964534, -0.023283843, -0.05493553, 0.014040766]
# Text Embeddings Inference (tanh form too, not normalised), backends/candle/tests/snapshots: test_bert__mini_batch.snap
# @ 19e50a2 and test_bert__mini_batch_pooled.snap @ 7292326. (Its vectors of one text alone are 8e-4 off from these.)
DEEP_LEARNING = [-0.5904484, -0.25218195, 0.14959621, 0.05505526, -0.11826475]
DEEP_LEARNING_CLS = [-0.023653807, -0.5267643, 0.1787919, -0.14631023, -0.0012309253]


def test_the_published_vector(minilm):
    close(minilm.encode("hello world")[:8], HELLO_WORLD)


@pytest.mark.parametrize(
    ("text", "pooling", "normalized", "numbers"),
    [
        ("hello world", "cls", True, HELLO_WORLD_CLS),
        ("What is Deep Learning?", "mean", False, DEEP_LEARNING),
        ("What is Deep Learning?", "cls", False, DEEP_LEARNING_CLS),
    ],
)
def test_published_vectors_that_were_made_with_tanh_gelu(minilm, text, pooling, normalized, numbers):
    """The activation is swapped by assignment. As the checkpoint has it, with erf, other numbers come out."""
    encoder = copy.deepcopy(minilm)
    encoder.pooling, encoder.head = Pooling(pooling), nn.Sequential()
    first = slice(0, len(numbers))
    exact = encoder.encode(text, normalize_embeddings=normalized)
    close(exact[first], numbers, 1e-3)
    for layer in encoder.model.layers:
        layer.feed_forward.activation = Activation("gelu_new")
    found = encoder.encode(text, normalize_embeddings=normalized)
    close(found[first], numbers, 1e-5)
    assert np.abs(exact[first] - numbers).max() > 4e-5


def test_published_similarities(minilm):
    """sentence-transformers, test_pretrained.py @ 3d667c2: computed there in bfloat16, compared to 1 %."""
    query = "Which planet is known as the Red Planet?"
    documents = [
        "Venus is often called Earth's twin because of its similar size and proximity.",
        "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
        "Jupiter, the largest planet in our solar system, has a prominent red spot.",
        "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
    ]
    found = minilm.similarity(minilm.encode(query), minilm.encode(documents))[0]
    assert found.tolist() == pytest.approx([0.46371, 0.81205, 0.72828, 0.75051], rel=0.01)


# --- What goes in


def test_many_texts_give_a_matrix_and_one_gives_a_vector(shared):
    assert shared.encode(TEXTS).shape == (len(TEXTS), D)
    assert shared.encode(TEXTS).dtype == np.float32
    assert shared.encode(TEXTS[0]).shape == (D,)
    close(shared.encode(TEXTS[0]), shared.encode(TEXTS)[0])


def test_no_texts_give_no_vectors(shared):
    for options in ({}, {"precision": "int8"}, {"normalize_embeddings": True}):
        assert shared.encode([], **options).shape == (0, D)
    assert shared.encode([], truncate_dim=5).shape == (0, 5)
    assert shared.encode([], precision="binary").shape == (0, D // 8)
    assert shared.encode([], convert_to_tensor=True).shape == (0, D)
    assert shared.encode([], convert_to_numpy=False) == []
    assert shared.encode([], output_value="token_embeddings") == []


@pytest.mark.parametrize(
    "form", [tuple, iter, np.array, lambda texts: dict.fromkeys(texts).keys(), lambda texts: (text for text in texts)]
)
def test_any_iterable_of_strings_will_do(shared, form):
    assert np.array_equal(shared.encode(form(TEXTS)), shared.encode(TEXTS))


def test_the_order_is_kept_whatever_the_lengths(minilm):
    texts = [f"text {'and so on ' * (i * 7 % 13)}number {i}" for i in range(40)]
    alone = np.stack([minilm.encode(text) for text in texts])
    close(minilm.encode(texts), alone)
    assert np.abs(alone - alone[0]).max(axis=1)[1:].min() > 0.01  # no two so alike that they could be mixed up


@pytest.mark.parametrize("batch_size", [1, 2, 5, 1000])
def test_the_batch_size_does_not_matter(shared, batch_size):
    texts = TEXTS * 3
    close(shared.encode(texts, batch_size=batch_size), shared.encode(texts))


def test_the_empty_string_has_a_vector(shared):
    assert np.isfinite(shared.encode("")).all()


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (None, "text 0 is None"),
        (7, "text 0 is of type int"),
        (b"bytes", "text 0 is of type bytes"),
        (["a", None], "text 1 is None"),
        (["a", "b", 1.5], "text 2 is of type float"),
        ([["a"]], "text 0 is of type list"),
        ((x for x in ("a", b"b")), "text 1 is of type bytes"),
    ],
)
def test_what_is_no_text_is_refused_with_its_index(shared, texts, words):
    with pytest.raises(TypeError, match=words):
        shared.encode(texts)


def test_what_is_no_text_is_refused_with_a_prompt_too(shared):
    with pytest.raises(TypeError, match="text 1 is None"):
        shared.encode(["a", None], prompt="query: ")


def test_half_a_surrogate_pair_is_refused_with_its_index(shared):
    with pytest.raises(ValueError, match="text 1 is not valid Unicode"):
        shared.encode(["a", "\udc00"])


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_an_unknown_keyword_is_refused(shared, method):
    with pytest.raises(TypeError, match="normalise"):
        getattr(shared, method)("a", normalise=True)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"output_value": "pooled"}, "output_value"),
        ({"precision": "int4"}, "precision"),
        ({"batch_size": 0}, "batch_size"),
        ({"truncate_dim": 0}, "truncate_dim"),
        ({"truncation": "yes"}, "truncation"),
        ({"precision": "int8"}, "int8 needs the range"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_keyword(shared, options, word):
    with pytest.raises(ValueError, match=word):
        shared.encode("a", **options)


# --- What comes out


def test_normalized_vectors_have_length_1(shared):
    vectors = shared.encode(TEXTS, normalize_embeddings=True)
    close(np.linalg.norm(vectors, axis=1), np.ones(len(TEXTS)))
    close(vectors, shared.encode(TEXTS) / np.linalg.norm(shared.encode(TEXTS), axis=1, keepdims=True))


def test_truncate_dim_keeps_the_first_dimensions(shared):
    close(shared.encode(TEXTS, truncate_dim=5), shared.encode(TEXTS)[:, :5])
    close(shared.encode(TEXTS, truncate_dim=1000), shared.encode(TEXTS))


def test_normalizing_comes_after_truncating(shared):
    vectors = shared.encode(TEXTS, truncate_dim=5, normalize_embeddings=True)
    close(np.linalg.norm(vectors, axis=1), np.ones(len(TEXTS)))


def test_fewer_bytes_come_last(shared):
    vectors = shared.encode(TEXTS, truncate_dim=16, normalize_embeddings=True)
    assert np.array_equal(
        shared.encode(TEXTS, truncate_dim=16, normalize_embeddings=True, precision="ubinary"),
        np.packbits(vectors > 0, axis=1),
    )


def test_a_call_may_ask_for_more_dimensions_than_the_encoder_keeps(tiny):
    whole = tiny.encode(TEXTS)
    tiny.truncate_dim = 5
    assert tiny.get_sentence_embedding_dimension() == tiny.encode(TEXTS).shape[1] == 5
    close(tiny.encode(TEXTS, truncate_dim=9), whole[:, :9])


def test_one_tensor(shared):
    found = shared.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(found, Tensor)
    close(found, shared.encode(TEXTS))
    assert shared.encode(TEXTS[0], convert_to_tensor=True).shape == (D,)
    ranges = np.tile([[-1.0], [1.0]], D)
    assert shared.encode(TEXTS, convert_to_tensor=True, precision="int8", ranges=ranges).dtype == torch.int8


def test_a_list_of_tensors(shared):
    found = shared.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(found, list)
    close(torch.stack(found), shared.encode(TEXTS))
    assert isinstance(shared.encode(TEXTS[0], convert_to_numpy=False), Tensor)


def test_token_vectors_are_without_padding(shared):
    found = shared.encode(TEXTS, output_value="token_embeddings")
    for text, vectors in zip(TEXTS, found, strict=True):
        batch = shared.tokenize(text)
        assert vectors.shape == (batch["input_ids"].shape[1], D)
        close(vectors, shared.model(**batch).last_hidden_state[0].detach())
    assert shared.encode(TEXTS[0], output_value="token_embeddings").shape == found[0].shape


def test_all_that_was_computed(shared):
    for text, found in zip(TEXTS, shared.encode(TEXTS, output_value=None), strict=True):
        assert set(found) == {"input_ids", "token_type_ids", "attention_mask", "token_embeddings", "sentence_embedding"}
        assert torch.equal(found["input_ids"], shared.tokenize(text)["input_ids"][0])
        close(found["sentence_embedding"], shared.encode(text))
        close(found["token_embeddings"].mean(0), shared.encode(text), 1e-5)


def test_results_can_go_into_training(shared):
    weight = torch.ones(D, requires_grad=True)
    tensors = [
        shared.encode(TEXTS, convert_to_tensor=True),
        shared.encode(TEXTS, convert_to_numpy=False)[0],
        shared.encode(TEXTS[2], output_value="token_embeddings"),
        shared.encode(TEXTS[2], output_value=None)["sentence_embedding"],
    ]
    for tensor in tensors:
        (tensor * weight).square().sum().backward()  # an inference tensor would not let itself be saved for this
    assert weight.grad.abs().min() > 0


def test_an_array_of_ours_is_the_caller_s_own(shared):
    first = shared.encode(TEXTS)
    first += 1
    assert np.abs(shared.encode(TEXTS) - first).min() > 0.5


def test_the_dimension_is_told(shared, minilm):
    assert shared.get_sentence_embedding_dimension() == D
    assert minilm.get_sentence_embedding_dimension() == 384
    several = SentenceModules(after=[Pooling(["cls", "mean"]), Dense(2 * D, 7)])
    encoder = SentenceEncoder(shared.model, shared.tokenizer, several)
    assert encoder.get_sentence_embedding_dimension() == encoder.eval().encode(TEXTS).shape[1] == 7


def test_similarity_goes_by_the_checkpoint_s_measure(tiny):
    a, b = tiny.encode(TEXTS[:3]), tiny.encode(TEXTS[3:])
    tiny.similarity_fn_name = "dot"
    close(tiny.similarity(a, b), a @ b.T, 1e-4)
    close(tiny.similarity_pairwise(a, b), (a * b).sum(1), 1e-4)


# --- Progress


def test_a_bar_is_shown_on_stderr_when_asked_for(shared, capsys, monkeypatch):
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    utils.enable_progress_bars()  # tools/layer_diff.py, under test elsewhere, switches them off for the whole process
    shared.encode(TEXTS, show_progress_bar=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{len(TEXTS)}/{len(TEXTS)}" in err


@pytest.mark.parametrize("options", [{}, {"show_progress_bar": False}])
def test_otherwise_nothing_is_written(shared, capfd, options):
    shared.encode(TEXTS, **options)
    assert capfd.readouterr() == ("", "")


# --- Text that is too long


def test_long_text_is_cut_with_one_warning(shared):
    with pytest.warns(UserWarning, match="longer than 40 tokens: 2; tokens cut off at their ends: 24") as caught:
        vectors = shared.encode([LONG, "the cat", LONG])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert np.array_equal(vectors[0], vectors[2])
    assert shared.truncation_report == TruncationReport(40, {0: 12, 2: 12})


def test_error_refuses_before_anything_is_computed(tiny):
    tiny.model.forward = None  # would fail if it were called
    with pytest.raises(TooLongError, match="text 1, 12 tokens too long"):
        tiny.encode(["the cat", LONG], truncation="error")
    assert tiny.truncation_report.lost == {1: 12}


@pytest.mark.parametrize("mode", ["report", "silent"])
def test_report_and_silent_cut_without_a_word(tiny, mode):
    tiny.encode([LONG], truncation=mode)
    assert tiny.truncation_report == TruncationReport(40, {0: 12})
    tiny.encode(["the cat"])
    assert tiny.truncation_report.lost == {}


def test_the_mode_may_be_chosen_once_for_all_calls(folder):
    encoder = SentenceEncoder.from_pretrained(folder, truncation="error")
    with pytest.raises(TooLongError):
        encoder.encode(LONG)
    encoder.encode(LONG, truncation="silent")
    with pytest.raises(ValueError, match="truncation must be one of"):
        SentenceEncoder.from_pretrained(folder, truncation="maybe")


def test_what_is_cut_is_the_end(shared):
    cut = shared.encode(LONG, truncation="silent")
    close(cut, shared.encode("the dog eats the cat " * 7 + "the dog eats"))


def test_the_prompt_takes_room(shared):
    shared.encode(LONG, truncation="silent", prompt="query: ")
    assert shared.truncation_report.lost == {0: 14}


def test_tokenize_cuts_and_warns_too(shared):
    with pytest.warns(UserWarning, match="longer than 40 tokens: 1"):
        assert shared.tokenize([LONG])["input_ids"].shape == (1, 40)


def test_max_seq_length_can_be_set(tiny):
    tiny.max_seq_length = 5
    tiny.encode("the cat sat on the mat", truncation="silent")
    assert tiny.truncation_report == TruncationReport(5, {0: 3})


def test_max_seq_length_is_never_more_than_the_model_takes(tiny):
    tiny.max_seq_length = 1000
    assert tiny.max_seq_length == 40


@pytest.mark.parametrize("length", [0, -1, "5", 5.0, True, None])
def test_a_max_seq_length_that_is_none_is_refused(tiny, length):
    with pytest.raises(ValueError, match="max_seq_length must be a whole number"):
        tiny.max_seq_length = length
    assert tiny.max_seq_length == 40


# --- Prompts


def test_a_prompt_is_put_in_front(shared):
    expected = shared.encode([f"query: {text}" for text in TEXTS])
    assert np.array_equal(shared.encode(TEXTS, prompt_name="query"), expected)
    assert np.array_equal(shared.encode(TEXTS, prompt="query: "), expected)
    assert np.array_equal(shared.encode(TEXTS, prompt="query: ", prompt_name="passage"), expected)


def test_queries_and_documents_get_their_own_prompts(shared):
    assert np.array_equal(shared.encode_query(TEXTS), shared.encode(TEXTS, prompt="query: "))
    assert np.array_equal(shared.encode_document(TEXTS), shared.encode(TEXTS, prompt="passage: "))
    assert np.array_equal(shared.encode_query(TEXTS, prompt="the "), shared.encode(TEXTS, prompt="the "))
    assert np.array_equal(shared.encode_document(TEXTS, prompt_name="query"), shared.encode_query(TEXTS))


def test_the_default_prompt_can_be_done_without(tiny):
    plain = tiny.encode(TEXTS)
    tiny.default_prompt_name = "query"
    assert np.array_equal(tiny.encode(TEXTS), tiny.encode(TEXTS, prompt="query: "))
    assert np.array_equal(tiny.encode(TEXTS, prompt=""), plain)


def test_queries_without_a_prompt_of_their_own_have_none(tiny):
    tiny.prompts, tiny.default_prompt_name = {"other": "the world "}, "other"
    assert np.array_equal(tiny.encode_query(TEXTS), tiny.encode(TEXTS, prompt=""))
    assert np.array_equal(tiny.encode_document(TEXTS), tiny.encode(TEXTS, prompt=""))


def test_an_unknown_prompt_is_refused_with_the_known_ones(shared):
    with pytest.raises(ValueError, match="no prompt 'title'; it has 'query', 'passage'"):
        shared.encode(TEXTS, prompt_name="title")
    for odd in (3, b"query: ", ["query: "]):
        with pytest.raises(TypeError, match="prompt must be a string, not"):
            shared.encode("a", prompt=odd)
        with pytest.raises(ValueError, match="no prompt"):
            shared.encode("a", prompt_name=odd)


def test_prompts_that_do_not_count_are_left_out_of_the_pooling(tiny):
    tiny.pooling = Pooling("mean", include_prompt=False)
    tokens = tiny.encode("query: the cat", output_value="token_embeddings")  # [CLS] query : the cat [SEP]
    close(tiny.encode("the cat", prompt="query: "), tokens[3:].mean(0), 1e-5)
    close(tiny.encode("query: the cat"), tokens.mean(0), 1e-5)


# --- One encoder, many users; nothing else touched


def test_eight_threads_at_once_give_what_one_gives(minilm):
    jobs = [[f"{i} {'more ' * (i * j % 9)}of {j}" for j in range(6)] for i in range(16)]
    alone = [minilm.encode(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        for found, expected in zip(pool.map(minilm.encode, jobs), alone, strict=True):
            close(found, expected)


def test_threads_at_once_compute_without_dropout_even_in_training(tiny):
    expected = tiny.encode(TEXTS)
    tiny.train()
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: tiny.encode(TEXTS), range(60)):
            close(found, expected)
    assert all(part.training for part in tiny.modules())


def torch_settings():
    return {
        "threads": torch.get_num_threads(),
        "interop": torch.get_num_interop_threads(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "random": torch.get_rng_state().tolist(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "device": torch.get_default_device(),
        "warnings": list(warnings.filters),
        "numpy": np.random.get_state()[1].tolist(),
    }


def test_torch_s_settings_stay_as_they_are(folder, tmp_path):
    before = torch_settings()
    encoder = SentenceEncoder.from_pretrained(folder)
    for options in ({}, {"output_value": None}, {"precision": "ubinary"}, {"convert_to_tensor": True}):
        encoder.encode(TEXTS, **options)
    encoder.similarity(encoder.encode(TEXTS), encoder.encode(TEXTS))
    encoder.save_pretrained(tmp_path)
    assert torch_settings() == before


def test_it_works_under_other_settings_of_torch(shared):
    expected = shared.encode(TEXTS)
    torch.set_default_dtype(torch.float64)
    try:
        found = shared.encode(TEXTS)
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.array_equal(found, expected)
    with torch.no_grad():
        assert np.array_equal(shared.encode(TEXTS), expected)
    with torch.inference_mode():
        assert np.array_equal(shared.encode(TEXTS), expected)


def test_training_mode_is_left_as_it_was_found(tiny):
    expected = tiny.encode(TEXTS)
    tiny.train()
    tiny.model.layers[0].eval()  # a mixture, as when part of a model is frozen
    before = [part.training for part in tiny.modules()]
    assert np.array_equal(tiny.encode(TEXTS), expected)
    assert np.array_equal(tiny.encode(TEXTS), expected)
    assert [part.training for part in tiny.modules()] == before


def test_training_mode_is_set_back_after_an_error(tiny):
    tiny.train()
    tiny.head.append(nn.Linear(1, 1))  # does not fit
    with pytest.raises(RuntimeError):
        tiny.encode(TEXTS)
    assert all(part.training for part in tiny.modules())


def test_no_gradients_are_kept_by_encode_and_all_by_forward(tiny):
    assert not tiny.encode(TEXTS, convert_to_tensor=True).requires_grad
    tiny(**tiny.tokenize(TEXTS)).square().sum().backward()
    without = [name for name, p in tiny.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias of the keys adds the same to every score of a row, which softmax does not see: rounding decides about it.
    assert [name for name in without if not name.endswith("key.bias")] == [
        "model.pooler.dense.weight",
        "model.pooler.dense.bias",
    ]


def test_forward_gives_what_encode_gives(shared):
    vectors = shared(**shared.tokenize(TEXTS))
    close(vectors.detach(), shared.encode(TEXTS))
    batch = shared.tokenize(TEXTS[:1])
    close(shared(batch["input_ids"]).detach(), shared.encode(TEXTS[:1]))


# --- Parts


def test_a_part_replaced_by_assignment_is_the_one_that_runs(tiny):
    before = tiny.encode(TEXTS)
    tiny.model.layers[1].feed_forward = nn.Linear(D, D, bias=False)
    nn.init.zeros_(tiny.model.layers[1].feed_forward.weight)
    after = tiny.encode(TEXTS)
    assert np.abs(after - before).max() > 0.1
    close(after, tiny(**tiny.tokenize(TEXTS)).detach())


def test_hooks_run_too(tiny):
    seen = []
    tiny.model.layers[0].attention.core.probs.register_forward_hook(lambda *call: seen.append(call[2].shape))
    tiny.encode("the cat")
    assert seen == [(1, 4, 4, 4)]


def test_a_head_of_one_s_own_may_have_any_width(tiny):
    tiny.head = nn.Sequential(nn.Linear(D, 5))
    vectors = tiny.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 5)
    close(vectors, tiny(**tiny.tokenize(TEXTS)).detach(), 1e-5)


def test_a_pooling_of_one_s_own_is_used(tiny):
    class Second(nn.Module):
        def forward(self, x, mask, prompt_length=0):
            return x[:, 1]

    tiny.pooling = Second()
    close(tiny.encode("the cat"), tiny.encode("the cat", output_value="token_embeddings")[1])


@pytest.mark.parametrize("modules", [None, SentenceModules(), SentenceModules(max_seq_length=40)])
def test_it_can_be_put_together_from_its_parts(shared, modules):
    encoder = SentenceEncoder(shared.model, shared.tokenizer, modules)
    assert np.array_equal(encoder.encode(TEXTS), shared.encode(TEXTS))


def test_model_and_tokenizer_of_different_checkpoints_are_refused(shared):
    small = Bert(dataclasses.replace(TINY, vocab_size=98))
    with pytest.raises(ConfigError, match="ids up to 98, the model knows 98 tokens"):
        SentenceEncoder(small, shared.tokenizer)


def test_copies_and_pickles_give_the_same_vectors(shared):
    expected = shared.encode(TEXTS, prompt_name="query")
    for again in (copy.deepcopy(shared), pickle.loads(pickle.dumps(shared))):
        assert np.array_equal(again.encode(TEXTS, prompt_name="query"), expected)
        assert again.report == shared.report


def test_a_copy_shares_nothing(shared, tiny):
    before = shared.encode(TEXTS)
    widen(tiny, seed=1)
    assert np.abs(tiny.encode(TEXTS) - before).max() > 0.1
    assert np.array_equal(shared.encode(TEXTS), before)


def test_what_is_saved_loads_to_the_same_vectors(tiny, tmp_path):
    tiny.pooling, tiny.head = Pooling(["cls", "mean"]), nn.Sequential(Dense(2 * D, 9), Normalize())
    tiny.max_seq_length, tiny.truncate_dim, tiny.similarity_fn_name = 17, 8, "euclidean"
    tiny.save_pretrained(tmp_path)
    again = SentenceEncoder.from_pretrained(tmp_path)
    assert np.array_equal(again.encode(TEXTS), tiny.eval().encode(TEXTS))
    for name in ("max_seq_length", "truncate_dim", "similarity_fn_name", "prompts", "default_prompt_name"):
        assert getattr(again, name) == getattr(tiny, name)


def test_parts_that_have_no_published_form_are_not_saved(tiny, tmp_path):
    tiny.model.layers[0].feed_forward = nn.Linear(D, D)
    with pytest.raises(CheckpointError, match=r"layers\.0\.feed_forward"):
        tiny.save_pretrained(tmp_path)
    assert not (tmp_path / "modules.json").exists()


# --- Loading


def test_the_report_says_what_was_used_and_what_was_decided(folder):
    encoder = SentenceEncoder.from_pretrained(folder)
    assert encoder.report.complete
    assert len(encoder.report.used) == len(encoder.model.state_dict())
    assert encoder.report.notes == ()
    other = SentenceEncoder.from_pretrained(folder, pooling=["cls", "max"])
    assert other.report.notes == ("pooling ['cls', 'max'] was asked for in place of the checkpoint's",)
    assert other.pooling.modes == ("cls", "max")


def test_what_comes_after_the_pooling_stays_when_another_is_asked_for():
    encoder = SentenceEncoder.from_pretrained(MINILM, pooling="max", device="cpu")
    assert [type(module) for module in encoder.head] == [Normalize]


def test_it_is_loaded_in_eval_mode(shared):
    assert not any(part.training for part in shared.modules())


@pytest.mark.parametrize("name", ["gpu", "cuda:x", ""])
def test_an_unknown_device_is_refused(folder, name):
    with pytest.raises(ValueError, match="cpu, cuda"):
        SentenceEncoder.from_pretrained(folder, device=name)


@pytest.mark.parametrize("name", ["meta", "hpu", "xla", "lazy", "xpu:77", "", 7.5, torch.device("meta")])
def test_a_device_that_can_not_hold_numbers_here_is_refused(folder, name):
    for load in (SentenceEncoder.from_pretrained, Bert.from_pretrained):
        with pytest.raises(ValueError, match="unknown or can't be used: cpu, cuda") as caught:
            load(folder, device=name)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["reading", "per_token", "prompt_length", "texts", "pairs", "tokens"])
def test_a_keyword_that_only_our_own_code_knows_is_refused_by_its_name(shared, name):
    for call in (shared.encode, shared.encode_query, lambda *given, **more: next(shared.encode_stream(given, **more))):
        with pytest.raises(TypeError, match=f"SentenceEncoder.encode got an unexpected keyword argument: {name}"):
            call("a", **{name: "cpu"})


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="this machine has no"):
        find_device(name)
    assert find_device(None) == torch.device("cpu")


def test_a_gpu_is_taken_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device(None) == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device(None) == torch.device("cuda")


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "float16"])
def test_half_precision_gives_float32_vectors_that_are_near(folder, shared, dtype):
    encoder = SentenceEncoder.from_pretrained(folder, dtype=dtype, device="cpu", fast=False)
    assert encoder.model.embeddings.token.weight.dtype in (torch.bfloat16, torch.float16)
    found, expected = encoder.encode(TEXTS), shared.encode(TEXTS)
    assert found.dtype == np.float32
    assert (shared.similarity_pairwise(found, expected) > 0.999).all()


def test_pooling_is_computed_in_float32_however_the_bert_is(folder):
    """Averages in half precision lose a digit of the three that there are."""
    encoder = SentenceEncoder.from_pretrained(folder, dtype="bfloat16", device="cpu", fast=False)
    tokens = encoder.model(**encoder.tokenize(TEXTS[0])).last_hidden_state[0]
    assert tokens.dtype == torch.bfloat16
    close(encoder.encode(TEXTS[0]), tokens.detach().float().mean(0))


def test_double_precision_is_double_throughout(tmp_path, minilm):
    write_encoder(tmp_path, ("Pooling", MEAN), ("Normalize", {}))
    encoder = SentenceEncoder.from_pretrained(tmp_path, dtype="float64", device="cpu")
    found = encoder.encode(TEXTS)
    assert found.dtype == np.float64
    close(np.linalg.norm(found, axis=1), np.ones(len(TEXTS)), 1e-12)
    close(found, SentenceEncoder.from_pretrained(tmp_path, device="cpu").encode(TEXTS), 1e-5)


def test_another_dtype_is_refused(folder):
    with pytest.raises(ValueError, match="dtype must be one of"):
        SentenceEncoder.from_pretrained(folder, dtype="int4")


def test_a_checkpoint_that_pads_on_the_left_gives_the_same_vectors_in_any_batch(tmp_path):
    """BERT counts positions from the left, so padding there would shift them."""
    write_encoder(tmp_path, ("Pooling", MEAN))
    expected = SentenceEncoder.from_pretrained(tmp_path).encode(TEXTS)
    write_json(tmp_path, "tokenizer_config.json", {"do_lower_case": True, "padding_side": "left"})
    encoder = SentenceEncoder.from_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).padding_side == "left"
    close(encoder.encode(TEXTS), expected)
    close(np.stack([encoder.encode(text) for text in TEXTS]), expected)


def test_a_stream_is_encoded_window_by_window_and_read_no_further_than_needed(shared):
    read = []

    def stream():
        for text in TEXTS * 3:
            read.append(text)
            yield text

    parts = shared.encode_stream(stream(), window=4, normalize_embeddings=True)
    first = next(parts)
    assert len(first) == 4
    assert len(read) <= 5
    rest = list(parts)
    assert all(len(part) == 4 for part in rest[:-1])
    close(np.concatenate([first, *rest]), shared.encode(TEXTS * 3, normalize_embeddings=True))
    assert list(shared.encode_stream([])) == []


def test_a_stream_of_letters_or_of_windows_of_nothing_is_refused(shared):
    with pytest.raises(TypeError, match="a stream is of many texts, this is one"):
        next(shared.encode_stream("letters"))
    with pytest.raises(ValueError, match="window must be a whole number, at least 1, not 0"):
        next(shared.encode_stream(TEXTS, window=0))


@pytest.mark.parametrize("form", [{}, {"convert_to_tensor": True}, {"convert_to_numpy": False}])
@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_a_stream_has_the_same_ranges_in_every_window(shared, precision, form):
    texts = [f"{a} {b}" for a in TEXTS for b in [*TEXTS, "and the cat"]][:41]
    first = shared.encode(texts[:10])
    ranges = np.stack([first.min(0), first.max(0)])
    expected = shared.encode(texts, precision=precision, ranges=ranges)
    with pytest.warns(UserWarning, match="these ranges are of 10 vectors only"):
        parts = list(shared.encode_stream(texts, window=10, precision=precision, **form))
    assert [len(part) for part in parts] == [10, 10, 10, 10, 1]
    assert {type(part) for part in parts} == {type(shared.encode(texts, **form))}
    codes = np.concatenate([np.stack([np.asarray(code) for code in part]) for part in parts]).astype(int)
    assert np.abs(codes - expected.astype(int)).max() <= 1  # a vector's last bits depend on its batch
    given = np.concatenate(list(shared.encode_stream(texts, window=7, precision=precision, ranges=ranges)))
    assert np.abs(given.astype(int) - expected.astype(int)).max() <= 1


def test_a_wrong_option_of_a_stream_is_refused_before_its_first_window(shared):
    def stream():
        raise AssertionError("a text was taken")
        yield

    with pytest.raises(ValueError, match="precision must be one of"):
        next(shared.encode_stream(stream(), precision="int4"))
    with pytest.raises(ValueError, match="ranges are for precision='int8' and 'uint8', not 'float32'"):
        next(shared.encode_stream(stream(), ranges=np.zeros((2, D))))


def test_a_folder_states_the_limit_where_the_tokenizer_has_none(tmp_path):
    """transformers truncates at that number, and without it not at all."""
    encoder = SentenceEncoder.from_pretrained(device="cpu")
    for limit, expected in ((None, 256), (128, 128)):
        encoder.tokenizer.max_length = limit
        encoder.save_pretrained(tmp_path)
        stated = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
        assert stated["model_max_length"] == expected


def test_no_texts_give_vectors_of_a_width_of_ones_own(folder):
    encoder = SentenceEncoder.from_pretrained(folder)
    encoder.head = nn.Sequential(nn.Linear(32, 7), Normalize())
    assert encoder.encode(["a"]).shape == (1, 7)
    assert encoder.encode([]).shape == (0, 7)
    assert encoder.get_sentence_embedding_dimension() == 7


def test_a_mask_for_each_pair_of_positions_is_not_pooled_by(folder):
    encoder = SentenceEncoder.from_pretrained(folder)
    batch = encoder.tokenize(["a cat"])
    S = batch["input_ids"].shape[1]
    with pytest.raises(ValueError, match=r"a pooling needs a mask \(B, S\)"):
        encoder(batch["input_ids"], torch.ones(1, S, S, dtype=torch.bool))


def test_a_revision_is_that_of_the_weights_parts_and_settings(folder):
    def revision(change=lambda encoder: None):
        encoder = SentenceEncoder.from_pretrained(folder)
        change(encoder)
        return encoder.model_card_data.base_model_revision

    changes = [
        lambda encoder: encoder.model.embeddings.token.weight.data.mul_(0.5),
        lambda encoder: setattr(encoder.model.layers[0].attention_norm, "eps", 0.5),
        lambda encoder: setattr(encoder, "pooling", Pooling("max")),
    ]
    assert revision() == revision()
    assert len({revision(), *map(revision, changes)}) == 4


class Flat(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        first = args[0] * 0.1 if function is torch.softmax else args[0] if args else None
        return function(*([first, *args[1:]] if args else []), **(kwargs or {}))


def test_a_mode_that_changes_torchs_functions_is_heeded(folder):
    encoder = SentenceEncoder.from_pretrained(folder)
    with Flat(), torch.no_grad():
        expected = encoder(**encoder.tokenize(["a cat"]))
        assert np.abs(encoder.encode(["a cat"]) - expected.numpy()).max() < 1e-6
        assert "Flat may change torch's functions" in encoder.explain()
    assert np.abs(encoder.encode(["a cat"]) - expected.numpy()).max() > 1e-4
    torch.set_default_device("cpu")  # is a mode, too
    try:
        assert "fast" in encoder.explain()
    finally:
        torch.set_default_device(None)


def test_the_usual_prompts_are_empty_where_there_are_none(tiny):
    tiny.prompts = {}
    assert np.array_equal(tiny.encode(TEXTS, prompt_name="query"), tiny.encode(TEXTS))
    assert np.array_equal(tiny.encode(TEXTS, prompt_name="document"), tiny.encode(TEXTS))


def test_a_prompt_that_fills_the_model_leaves_its_end_to_the_pooling(tiny):
    tiny.pooling, tiny.truncation = Pooling("mean", include_prompt=False), "silent"
    assert np.abs(tiny.encode("a cat", prompt="the " * 100)).max() > 0


def test_bits_of_a_bfloat16_tensor_are_those_of_its_numbers():
    vectors = torch.randn(5, 16, requires_grad=True)
    expected = quantize_embeddings(vectors.detach().numpy(), "binary")
    assert np.array_equal(quantize_embeddings(vectors, "binary"), expected)
    assert np.array_equal(quantize_embeddings(vectors.bfloat16(), "binary"), expected)


def test_bytes_come_as_tensors_where_no_arrays_are_asked_for(folder):
    encoder = SentenceEncoder.from_pretrained(folder)
    found = encoder.encode(TEXTS, precision="binary", convert_to_numpy=False)
    assert all(isinstance(vector, Tensor) and vector.dtype == torch.int8 for vector in found)
    assert np.array_equal(torch.stack(found).numpy(), encoder.encode(TEXTS, precision="binary"))


def test_saving_takes_the_keywords_of_sentence_transformers(folder, tmp_path):
    encoder = SentenceEncoder.from_pretrained(folder)
    encoder.save(tmp_path / "x", create_model_card=False)
    assert np.array_equal(SentenceEncoder.from_pretrained(tmp_path / "x").encode("a cat"), encoder.encode("a cat"))
    with pytest.raises(ValueError, match="safetensors only"):
        encoder.save(tmp_path / "y", safe_serialization=False)
