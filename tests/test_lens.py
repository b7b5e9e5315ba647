"""Fill-mask and the logit lens, without the reference: properties that hold for any weights."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import TINY, random_batch, widen
from tiny_folder import VOCABULARY, write_vocabulary

from minibert import BertForMaskedLM, BertForPreTraining, Tokenizer
from minibert.research.lens import Guess, fill_mask, logit_lens, words_by_layer

BATCH = random_batch(TINY, (9, 5, 1))


@pytest.fixture(params=[BertForMaskedLM, BertForPreTraining])
def model(request):
    return widen(request.param(TINY)).double().eval()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return Tokenizer.from_pretrained(write_vocabulary(folder, config={"do_lower_case": True}))


def test_each_mask_gets_its_guesses(model, tokenizer):
    text = "the [MASK] sat on the [MASK]."
    batch = tokenizer(text, return_tensors="pt")
    probabilities = model(**batch)[0][0].softmax(-1).detach()
    places = [i for i, piece in enumerate(tokenizer.convert_ids_to_tokens(batch["input_ids"][0])) if piece == "[MASK]"]
    found = fill_mask(model, tokenizer, text, top_k=4)
    assert len(found) == len(places) == 2
    for guesses, place in zip(found, places, strict=True):
        assert [guess.score for guess in guesses] == sorted((guess.score for guess in guesses), reverse=True)
        assert [guess.token for guess in guesses] == probabilities[place].argsort(descending=True)[:4].tolist()
        for guess in guesses:
            assert guess == Guess(
                VOCABULARY[guess.token], pytest.approx(float(probabilities[place, guess.token])), guess.token
            )


def test_the_probabilities_of_all_tokens_sum_to_1(model, tokenizer):
    (guesses,) = fill_mask(model, tokenizer, "[MASK]", top_k=99)
    assert sum(guess.score for guess in guesses) == pytest.approx(1)
    assert {guess.token_str for guess in guesses} == set(VOCABULARY)


def test_the_lens_of_two_threads_is_each_its_own(model):
    batches = [random_batch(TINY, (9, 5, 1), seed=seed) for seed in (1, 2)]
    expected = [logit_lens(model, **batch) for batch in batches]
    meet = threading.Barrier(2, timeout=20)
    model.bert.layers[0].register_forward_hook(lambda *_: meet.wait() < 0 or None)  # both have put on their hooks
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda batch: logit_lens(model, **batch), batches))
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_dropout_is_off_while_guessing_and_comes_back(model, tokenizer):
    expected = fill_mask(model, tokenizer, "the [MASK]")
    by_layer = words_by_layer(model, tokenizer, "the [MASK]")
    model.train()
    assert fill_mask(model, tokenizer, "the [MASK]") == expected
    assert words_by_layer(model, tokenizer, "the [MASK]") == by_layer
    assert all(part.training for part in model.modules())


def test_a_text_without_a_mask_has_nothing_to_fill_in(model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"nothing to fill in: 'the cat' has no \[MASK\]"):
        fill_mask(model, tokenizer, "the cat")
    without = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the"]
    write_vocabulary(tmp_path, without, {"mask_token": "[BLANK]"})
    with pytest.raises(ValueError, match=r"nothing to fill in: 'the \[MASK\]' has no \[BLANK\]"):
        fill_mask(model, Tokenizer.from_pretrained(tmp_path), "the [MASK]")


def test_another_mask_token(model, tmp_path):
    pieces = ["<mask>" if piece == "[MASK]" else piece for piece in VOCABULARY]
    write_vocabulary(tmp_path / "one", pieces, {"mask_token": "<mask>"})
    one = Tokenizer.from_pretrained(tmp_path / "one")
    one.save_pretrained(tmp_path / "two")
    for tokenizer in (one, Tokenizer.from_pretrained(tmp_path / "two")):
        assert tokenizer.mask_id == VOCABULARY.index("[MASK]")
        assert len(fill_mask(model, tokenizer, "the <mask> sat")) == 1


@pytest.mark.parametrize("top_k", [0, 100, -1])
def test_top_k_out_of_range(model, tokenizer, top_k):
    for ask in (fill_mask, words_by_layer):
        with pytest.raises(ValueError, match=f"top_k must be from 1 to 99, not {top_k}"):
            ask(model, tokenizer, "the [MASK]", top_k=top_k)


def test_a_text_that_is_too_long_is_refused(model, tokenizer):
    for ask in (fill_mask, words_by_layer):
        with pytest.raises(ValueError, match="input_ids must be"):
            ask(model, tokenizer, "[MASK] " * 50)


def test_the_lens_begins_with_the_embeddings_and_ends_with_the_model(model):
    lens = logit_lens(model, **BATCH)
    assert lens.shape == (TINY.num_hidden_layers + 1, 3, 9, 99)
    assert torch.equal(lens[-1], model(**BATCH)[0])
    states = model.bert.embeddings(BATCH["input_ids"], BATCH["token_type_ids"])
    assert torch.equal(lens[0], model.to_vocabulary(states))
    assert (lens[1] - lens[0]).abs().min() > 0
    assert (lens[2] - lens[1]).abs().min() > 0


def test_the_lens_takes_its_arguments_in_berts_order(model):
    assert torch.equal(logit_lens(model, *BATCH.values()), logit_lens(model, **BATCH))
    ids = BATCH["input_ids"][:1]
    assert torch.equal(logit_lens(model, ids)[-1], model(ids)[0])


def test_gradients_flow_through_the_lens(model):
    logit_lens(model, **BATCH)[1].sum().backward()
    assert model.bert.layers[0].attention.query.weight.grad.abs().sum() > 0
    assert (
        model.bert.layers[1].attention.query.weight.grad is None
        or not model.bert.layers[1].attention.query.weight.grad.any()
    )


def test_the_lens_sees_parts_that_were_replaced_and_those_used_twice(model):
    class Twice(torch.nn.Module):
        def forward(self, x, mask=None):
            return 2 * x

    model.bert.layers[0] = Twice()
    lens = logit_lens(model, **BATCH)
    x = model.bert.embeddings(BATCH["input_ids"], BATCH["token_type_ids"])
    assert torch.equal(lens[1], model.to_vocabulary(2 * x))
    model.bert.layers[1] = model.bert.layers[0]
    assert torch.equal(logit_lens(model, **BATCH)[2], model.to_vocabulary(4 * x))


def test_the_lens_leaves_no_hook_behind(model):
    with pytest.raises(ValueError, match="input_ids must be"):
        logit_lens(model, torch.zeros(1, 50, dtype=torch.int64))
    logit_lens(model, **BATCH)
    assert not any(part._forward_hooks for part in model.modules())


def test_words_by_layer_are_the_lens_in_words(model, tokenizer):
    text = "the cat sat"
    lens = logit_lens(model, **tokenizer(text, return_tensors="pt"))
    words = words_by_layer(model, tokenizer, text, top_k=2)
    assert [len(layer) for layer in words] == [5, 5, 5]
    for layer, logits in zip(words, lens[:, 0], strict=True):
        scores, tokens = logits.softmax(-1).topk(2)
        for position, score, token in zip(layer, scores.tolist(), tokens.tolist(), strict=True):
            assert [guess.token for guess in position] == token
            assert [guess.score for guess in position] == pytest.approx(score)
            assert [guess.token_str for guess in position] == [VOCABULARY[i] for i in token]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_probabilities_are_float32_at_least(tokenizer, dtype):
    model = widen(BertForMaskedLM(TINY)).to(dtype).eval()
    (guesses,) = fill_mask(model, tokenizer, "[MASK]", top_k=99)
    assert sum(guess.score for guess in guesses) == pytest.approx(1, abs=1e-5)
