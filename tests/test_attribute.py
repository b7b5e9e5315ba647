"""Scores that add up, against formulas by hand, brute force and full Jacobians, for every pooling."""

import numpy as np
import pytest
import torch
from helpers import MINILM, TINY, widen
from tiny_folder import write_vocabulary
from torch import nn
from torch.nn.functional import cosine_similarity, normalize

from minibert import Bert, SentenceEncoder, Tokenizer
from minibert.checkpoint.sentence_transformers import SentenceModules
from minibert.fused import fuse
from minibert.model import Encoder
from minibert.pooling import POOLINGS, Dense, Normalize, Pooling
from minibert.research import patch
from minibert.research.attribute import BASELINES, METHODS, attention_rollout, attribute, attribute_pair, rollout

A, B = "the cat sat on the mat.", "who is the man?"
REAL = [
    ("A man is eating food.", "Someone has a meal."),
    ("The central bank raised interest rates.", "Higher interest rates slow inflation."),
    ("A cat is asleep on the windowsill.", "The sky is blue."),
    ("How do I sort a list in Python?", "Use sorted(), or the list's own method sort()."),
]
every_pooling = pytest.mark.parametrize("pooling", POOLINGS)
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return Tokenizer.from_pretrained(write_vocabulary(folder, config={"do_lower_case": True}))


@pytest.fixture
def encoder(tokenizer):
    return tiny(tokenizer)


def tiny(tokenizer, pooling="mean", **settings):
    """Return an encoder with a non-linear head, in float64, with every parameter wide."""
    head = widen(Dense(TINY.hidden_size, 7), seed=1)
    modules = SentenceModules(after=[Pooling(pooling), head, Normalize()], **settings)
    return SentenceEncoder(widen(Bert(TINY)), tokenizer, modules).double().eval()


def batch_of(encoder, text):
    batch = encoder.tokenize([text])
    return batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]


def unit(encoder, ids, mask, types):
    return normalize(encoder(ids, mask, types), dim=-1)[0]


def baseline_words(encoder, text, number):
    """Return the text's word vectors and the baseline's, from the embedding table itself."""
    ids = batch_of(encoder, text)[0]
    table = encoder.model.embeddings.token.weight.detach()
    start = torch.zeros_like(table[ids]) if number is None else table[torch.full_like(ids, number)]
    start[:, [0, -1]] = table[ids][:, [0, -1]]  # [CLS] and [SEP]
    return table[ids], start


def hooks_on(model):
    return [name for name, part in model.named_modules() if part._forward_hooks or part._forward_pre_hooks]


# Completeness.


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("pooling", [*(mode for mode in POOLINGS if mode != "max"), ["cls", "mean"]])
def test_integrated_gradients_are_complete_in_float64(tokenizer, pooling, baseline):
    modules = SentenceModules(after=[Pooling(pooling)])
    encoder = SentenceEncoder(widen(Bert(TINY)), tokenizer, modules).double().eval()
    found = attribute(encoder, A, B, steps=400, baseline=baseline)
    assert found.error < 1e-8
    assert found.scores.abs().max() > 1e-3
    assert found.value == pytest.approx(float(cosine_similarity(*torch.from_numpy(encoder.encode([A, B])), dim=0)))


def test_max_pooling_is_complete_with_more_steps(tokenizer):
    encoder = tiny(tokenizer, "max")
    assert attribute(encoder, A, B, steps=4000).error < 1e-3


@every_pooling
def test_on_real_pairs_in_float32(pooling):
    encoder = SentenceEncoder.from_pretrained(MINILM, device="cpu", pooling=pooling)
    steps = 512 if pooling == "max" else 64
    for one, other in REAL if steps == 64 else REAL[:1]:
        for first, second in ((one, other), (other, one)):
            found = attribute(encoder, first, second, steps=steps)
            assert found.error < (1e-3 if pooling == "max" else 1e-4)
            assert found.value == pytest.approx(float(encoder.similarity(*encoder.encode([first, second]))), abs=1e-5)


def test_the_matrix_of_a_real_pair_is_complete():
    encoder = SentenceEncoder.from_pretrained(MINILM, device="cpu")
    found = attribute_pair(encoder, *REAL[0])
    assert max(found.error, found.first.error, found.second.error) < 1e-4
    row, column = divmod(int(found.matrix.argmax()), len(found.second.tokens))
    assert (found.first.tokens[row], found.second.tokens[column]) == ("eating", "meal")


def test_fewer_steps_show_a_larger_error(encoder):
    assert attribute(encoder, A, B, steps=2).error > 100 * attribute(encoder, A, B, steps=64).error


# The same numbers by other methods.


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_x_input"])
@pytest.mark.parametrize(("baseline", "number"), [("pad", 0), ("mask", 4), ("zero", None)])
def test_a_linear_model_by_hand(tokenizer, method, baseline, number):
    """For the mean of word, position and type, each word's score is its part of the product with a fixed direction."""
    encoder = SentenceEncoder(widen(Bert(TINY)), tokenizer).double().eval()
    encoder.model.layers, encoder.model.embeddings.norm = Encoder(), nn.Identity()
    direction = torch.randn(TINY.hidden_size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = attribute(encoder, A, lambda vector: vector @ direction, method, steps=1, baseline=baseline)
    words, start = baseline_words(encoder, A, number)
    by_hand = (words - start)[0] @ direction / len(found.tokens)
    torch.testing.assert_close(found.scores, by_hand, rtol=0, atol=1e-12)
    assert found.error < 1e-12
    assert found.tokens == ["[CLS]", "the", "cat", "sat", "on", "the", "mat", ".", "[SEP]"]


@every_pooling
@torch.no_grad()
def test_leave_one_out_is_brute_force(tokenizer, pooling):
    encoder = tiny(tokenizer, pooling)
    found = attribute(encoder, A, B, "leave_one_out")
    ids, mask, types = batch_of(encoder, A)
    target = unit(encoder, *batch_of(encoder, B))
    whole = unit(encoder, ids, mask, types) @ target
    for place in range(ids.shape[1]):
        without = mask.clone()
        without[0, place] = 0
        lost = whole - unit(encoder, ids, without, types) @ target
        expected = 0 if place in (0, ids.shape[1] - 1) else lost.item()
        assert found.scores[place].item() == pytest.approx(expected, abs=1e-12)
    nothing = torch.zeros_like(mask)
    nothing[0, [0, -1]] = 1
    assert found.baseline == pytest.approx(float(unit(encoder, ids, nothing, types) @ target), abs=1e-12)


def test_a_left_out_token_does_not_matter(encoder):
    """Whatever token is left out at a position, the value without it is the same."""
    scores = [attribute(encoder, text, B, "leave_one_out") for text in ("the cat sat.", "the dog sat.")]
    left = [found.value - found.scores[2].item() for found in scores]
    assert left[0] == pytest.approx(left[1], abs=1e-12)
    assert abs(scores[0].value - scores[1].value) > 1e-3


@every_method
@every_pooling
def test_the_pair_has_the_scores_of_both_texts(tokenizer, pooling, method):
    encoder = tiny(tokenizer, pooling)
    pair = attribute_pair(encoder, A, B, method, steps=5)
    for mine, alone in ((pair.first, attribute(encoder, A, B, method, steps=5)),
                        (pair.second, attribute(encoder, B, A, method, steps=5))):  # fmt: skip
        torch.testing.assert_close(mine.scores, alone.scores, rtol=0, atol=1e-12)
        assert (mine.tokens, mine.method) == (alone.tokens, method)
        assert (mine.value, mine.baseline) == pytest.approx((alone.value, alone.baseline), abs=1e-12)


@every_pooling
def test_the_matrix_equals_that_of_full_jacobians(tokenizer, pooling):
    encoder, steps = tiny(tokenizer, pooling), 3
    found = attribute_pair(encoder, A, B, steps=steps)
    points, weights = np.polynomial.legendre.leggauss(steps)
    shares = []
    for text in (A, B):
        ids, mask, types = batch_of(encoder, text)
        words, start = baseline_words(encoder, text, 0)

        def vector(x, batch=(ids, mask, types)):
            with patch(encoder, "embeddings.token", x):
                return unit(encoder, *batch)

        jacobian = sum(
            weight / 2 * torch.autograd.functional.jacobian(vector, start + (point + 1) / 2 * (words - start))
            for point, weight in zip(points, weights, strict=True)
        )  # (D, 1, S, D)
        shares.append(torch.einsum("ksd,sd->sk", jacobian[:, 0], (words - start)[0]))
    torch.testing.assert_close(found.matrix, shares[0] @ shares[1].T, rtol=0, atol=1e-10)


@torch.no_grad()
def test_the_parts_of_a_pair_add_up(encoder):
    found = attribute_pair(encoder, A, B, steps=64)
    ids = {text: batch_of(encoder, text) for text in (A, B)}
    a, b = (unit(encoder, *ids[text]) for text in (A, B))
    bare = []
    for text in (A, B):
        with patch(encoder, "embeddings.token", baseline_words(encoder, text, 0)[1]):
            bare.append(unit(encoder, *ids[text]))
    assert found.value - found.rest == pytest.approx(float((a - bare[0]) @ (b - bare[1])), abs=1e-12)
    assert found.matrix.sum().item() == pytest.approx(float((a - bare[0]) @ (b - bare[1])), abs=2 * found.error + 1e-12)
    assert 0 < found.error < 1e-2


def test_the_value_of_any_function(encoder):
    found = attribute(encoder, A, lambda vector: vector[3] ** 2, steps=400)
    assert found.value == pytest.approx(encoder.encode(A)[3] ** 2)
    assert found.error < 1e-8
    plain = attribute(encoder, A, lambda vector: float(vector.numpy()[3]), "leave_one_out")  # without torch
    by_torch = attribute(encoder, A, lambda vector: vector[3], "leave_one_out")
    torch.testing.assert_close(plain.scores, by_torch.scores)


def test_a_text_longer_than_one_forward_holds(encoder, monkeypatch):
    whole = {method: attribute_pair(encoder, A, B, method, steps=3) for method in METHODS}
    scores = {method: attribute(encoder, A, B, method, steps=3).scores for method in METHODS}
    monkeypatch.setattr("minibert.research.perturb.TOKENS_AT_ONCE", 20)
    for method in METHODS:
        torch.testing.assert_close(attribute_pair(encoder, A, B, method, steps=3).matrix, whole[method].matrix)
        torch.testing.assert_close(attribute(encoder, A, B, method, steps=3).scores, scores[method])


# As encode has it.


def test_prompts_and_cut_vectors_as_in_encode(tokenizer):
    encoder = tiny(tokenizer, prompts={"query": "the query: "}, default_prompt_name="query", truncate_dim=4)
    vectors = torch.from_numpy(encoder.encode([A, B]))
    found = attribute(encoder, A, B, steps=2)
    assert found.value == pytest.approx(float(cosine_similarity(*vectors, dim=0)), abs=1e-12)
    assert found.tokens[1:4] == ["the", "query", ":"]
    assert attribute(encoder, A, B, steps=2, prompt="").tokens[1:3] == ["the", "cat"]
    assert attribute(encoder, A, lambda vector: vector.sum(), steps=2).value == pytest.approx(float(vectors[0].sum()))


def test_a_prompt_that_is_not_pooled(tokenizer):
    encoder = tiny(tokenizer, prompts={"query": "the query: "}, default_prompt_name="query")
    encoder.pooling = Pooling("mean", include_prompt=False)
    found = attribute(encoder, A, lambda vector: vector[0], "leave_one_out")
    assert found.value == pytest.approx(encoder.encode(A)[0], abs=1e-12)
    assert rollout(encoder, A).scores.sum().item() == pytest.approx(1)


@every_method
def test_with_fused_parts_or_without_and_in_any_gradient_mode(tokenizer, method):
    page, fused = tiny(tokenizer).float(), tiny(tokenizer).float()
    fuse(fused.model)
    expected = attribute_pair(page, A, B, method, steps=3)
    one_sided = attribute(page, A, B, method, steps=3)
    for outside in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
        with outside:
            torch.testing.assert_close(
                attribute_pair(fused, A, B, method, steps=3).matrix, expected.matrix, rtol=0, atol=1e-4
            )
            torch.testing.assert_close(
                attribute(fused, A, B, method, steps=3).scores, one_sided.scores, rtol=0, atol=1e-4
            )


@every_method
def test_nothing_is_left_behind(encoder, method):
    encoder.train()
    attribute_pair(encoder, A, B, method, steps=2)
    attribute(encoder, A, B, method, steps=2)
    rollout(encoder, A)
    assert not hooks_on(encoder)
    assert all(part.training for part in encoder.modules())
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_dropout_is_off(encoder):
    assert encoder.model.config.hidden_dropout_prob > 0
    expected = attribute_pair(encoder, A, B, steps=2)
    encoder.train()
    torch.testing.assert_close(attribute_pair(encoder, A, B, steps=2).matrix, expected.matrix)


# Rollout.


@pytest.mark.parametrize("fused", [False, True])
def test_rollout_against_numpy(tokenizer, fused):
    encoder = tiny(tokenizer, "cls")
    if fused:
        fuse(encoder.model)
    probs = []
    hooks = [
        layer.attention.core.probs.register_forward_hook(lambda _part, _args, output: probs.append(output[0].numpy()))
        for layer in encoder.model.layers
    ]
    with torch.no_grad():
        encoder(*batch_of(encoder, A))
    for hook in hooks:
        hook.remove()
    expected = np.eye(len(probs[0][0]))
    for layer in probs:
        weights = layer.mean(0) + np.eye(len(expected))
        expected = weights / weights.sum(-1, keepdims=True) @ expected
    found = rollout(encoder, A)
    np.testing.assert_allclose(found.matrix, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.scores, expected[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.matrix.sum(-1), 1, rtol=0, atol=1e-12)


@every_pooling
def test_rollout_is_pooled_as_the_encoder_pools(tokenizer, pooling):
    found = rollout(tiny(tokenizer, pooling), A)
    assert found.scores.shape == (len(found.tokens),)
    pooled = POOLINGS[pooling](found.matrix[None], torch.ones(1, len(found.tokens), dtype=torch.bool))[0]
    torch.testing.assert_close(found.scores, pooled / pooled.sum())


def test_rollout_of_heads_that_attend_to_themselves_or_all_to_one():
    eye = torch.eye(3).expand(2, 3, 3)
    assert torch.equal(attention_rollout([eye, eye]), torch.eye(3))
    first = torch.zeros(2, 3, 3)
    first[..., 0] = 1
    torch.testing.assert_close(attention_rollout([first])[1], torch.tensor([0.5, 0.5, 0]))


# Errors.


def test_a_text_without_words(encoder):
    for text in ("", "  "):
        with pytest.raises(ValueError, match=r"nothing to attribute to: '.*' has no tokens besides \[CLS\] \[SEP\]"):
            attribute(encoder, text, B)
        with pytest.raises(ValueError, match="nothing to attribute to"):
            attribute_pair(encoder, A, text)
        with pytest.raises(ValueError, match="nothing to attribute to"):
            rollout(encoder, text)
    with pytest.raises(TypeError):
        attribute(encoder, 3, B)


def test_unknown_arguments(encoder):
    for ask in (attribute, attribute_pair):
        with pytest.raises(ValueError, match=r"method must be one of integrated_gradients, .*, not 'magic'"):
            ask(encoder, A, B, "magic")
        with pytest.raises(ValueError, match="baseline must be one of pad, mask, zero, not 'noise'"):
            ask(encoder, A, B, baseline="noise")
        with pytest.raises(ValueError, match="steps must be a whole number, at least 1, not 0"):
            ask(encoder, A, B, steps=0)


@every_method
def test_a_function_must_return_a_single_number(encoder, method):
    with pytest.raises(ValueError, match=r"one number for a vector, not a tensor \(7,\)"):
        attribute(encoder, A, lambda vector: 2 * vector, method, steps=2)


@pytest.mark.parametrize("function", [lambda vector: vector.detach()[0], lambda _: 1.0])
def test_a_function_without_a_gradient(encoder, function):
    for method in METHODS[:2]:
        with pytest.raises(ValueError, match="does not depend on the vector"):
            attribute(encoder, A, function, method, steps=2)
    attribute(encoder, A, function, "leave_one_out")


def test_a_vocabulary_without_a_mask(tmp_path):
    write_vocabulary(tmp_path, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the"])
    encoder = SentenceEncoder(widen(Bert(TINY)), Tokenizer.from_pretrained(tmp_path)).eval()
    with pytest.raises(ValueError, match="no token for the baseline 'mask'"):
        attribute(encoder, "the", lambda vector: vector[0], baseline="mask")


def test_custom_embeddings(encoder):
    class Embeddings(nn.Module):
        def forward(self, ids, types):
            return torch.zeros(*ids.shape, TINY.hidden_size, dtype=torch.float64)

    encoder.model.embeddings = Embeddings()
    with pytest.raises(ValueError, match=r"no value is called 'embeddings\.token'"):
        attribute(encoder, A, B)


def test_rollout_needs_probs_of_every_layer(encoder):
    encoder.model.layers[1].attention.core = nn.Identity()
    with pytest.raises(ValueError, match=r"no value is called 'layers.1.attention.core.probs'"):
        rollout(encoder, A)


# Tables.


def test_tables(encoder):
    lines = str(attribute(encoder, A, B)).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["token", "[CLS]", "the"]
    assert lines[1].split()[1] == "0.0000"
    assert lines[-1].startswith("integrated_gradients: ")
    assert "completeness error " in lines[-1]
    found = attribute_pair(encoder, A, B, "leave_one_out")
    lines = str(found).splitlines()
    assert lines[0].split() == [*found.second.tokens, "(no", "words)"]
    assert [line.split()[0] for line in lines[1:-2]] == found.first.tokens
    assert lines[-1].startswith("leave_one_out: ")
    cells = torch.tensor(
        [[float(cell) for cell in line.split()[-len(found.second.tokens) - 1 :]] for line in lines[1:-1]]
    )
    torch.testing.assert_close(cells[:-1].sum(1), found.first.scores.float(), rtol=0, atol=0.01)  # rounded cells
    torch.testing.assert_close(cells[:, :-1].sum(0), found.second.scores.float(), rtol=0, atol=0.01)
    assert str(rollout(encoder, A)).splitlines()[0].split() == ["token", "rollout"]
