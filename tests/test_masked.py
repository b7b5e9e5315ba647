"""Masked-LM training: which words are hidden, how a text becomes blocks, and that a model learns from them."""

import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import TINY, widen
from tiny_folder import MEAN, VOCABULARY, write_encoder, write_vocabulary

from minibert import Bert, BertForMaskedLM, CheckpointError, ConfigError, SentenceEncoder, Tokenizer
from minibert.research.lens import fill_mask
from minibert.training import ResumeError, Settings, train
from minibert.training import masked as masked_module
from minibert.training.masked import MaskedLMEvaluator, MaskedLMTask, mask_words, masked_lm
from minibert.training.masking import IGNORED, WholeWordMasking, cut_into_blocks, read_lines


def id_of(piece):
    return VOCABULARY.index(piece)


MASK, UNK = id_of("[MASK]"), id_of("[UNK]")
LINES = ["the cat sat on the mat.", "hello world", "a man eats strange food, the dog eats the mattress!"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = write_vocabulary(tmp_path_factory.mktemp("vocabulary"), config={"do_lower_case": True})
    return Tokenizer.from_pretrained(folder)


def ids_of(pieces):
    return np.array([id_of(piece) for piece in pieces.split()], dtype=np.int32)


def masked(tokenizer, ids, times, share=0.15):
    """Seen ids and labels, (times, S) each, of that many draws."""
    masking = WholeWordMasking(tokenizer, share)
    random = np.random.default_rng(0)
    return [np.stack(part) for part in zip(*(masking(ids, random) for _ in range(times)), strict=True)]


# --- Which words


LONG = ids_of("[CLS] " + "the cat s ##a ##t on the m ##a ##t . " * 10 + "[SEP]")


def test_the_share_of_tokens_is_15_percent_of_those_that_are_not_special(tokenizer):
    _, labels = masked(tokenizer, LONG, 200)
    counts = (labels != IGNORED).sum(1)
    assert counts.max() == 16  # 15 % of 110 are 16.5, and round(16.5) is 16
    assert counts.mean() > 15.8  # at the end there may be no word that is short enough


def test_every_word_has_the_same_chance(tokenizer):
    _, labels = masked(tokenizer, ids_of("[CLS] " + "the cat sat on the mat . who is hello " * 2 + "[SEP]"), 4000)
    rates = (labels != IGNORED).mean(0)[1:-1]
    assert np.abs(rates - 0.15).max() < 0.025  # five standard deviations


def test_80_percent_are_hidden_10_are_another_token_10_stay(tokenizer):
    seen, labels = masked(tokenizer, LONG, 500)
    chosen = labels != IGNORED
    hidden, same = seen[chosen] == MASK, seen[chosen] == labels[chosen]
    assert chosen.sum() > 7500
    assert abs(hidden.mean() - 0.8) < 0.02
    assert abs(same.mean() - 0.1) < 0.02  # of which 1 in 94 was drawn as its own substitute
    assert abs((~hidden & ~same).mean() - 0.1) < 0.02


def test_labels_are_the_tokens_that_were_there_and_the_rest_is_left_alone(tokenizer):
    seen, labels = masked(tokenizer, LONG, 50)
    chosen = labels != IGNORED
    assert (labels == np.where(chosen, LONG, IGNORED)).all()
    assert (seen == LONG)[~chosen].all()


def test_another_token_is_any_but_a_special_one(tokenizer):
    seen, _ = masked(tokenizer, LONG, 3000, share=0.5)
    others = set(seen[(seen != LONG) & (seen != MASK)].tolist())
    assert others == set(range(5, len(VOCABULARY)))


def test_the_pieces_of_a_word_are_chosen_together(tokenizer):
    _, labels = masked(tokenizer, LONG, 200)
    words = WholeWordMasking(tokenizer).words(LONG)
    assert words[:9].tolist() == [-1, 0, 1, 2, 2, 2, 3, 4, 5]
    for word in range(words.max() + 1):
        chosen = labels[:, words == word] != IGNORED
        assert (chosen.all(1) == chosen.any(1)).all()
    assert (labels[:, words == 2] != IGNORED).any()


def test_special_tokens_are_never_chosen(tokenizer):
    ids = ids_of("[CLS] the [UNK] cat [SEP] hello [MASK] ##s [SEP] [PAD] [PAD]")
    seen, labels = masked(tokenizer, ids, 300, share=1.0)
    special = ids < 5
    assert (labels[:, special] == IGNORED).all()
    assert (seen[:, special] == ids[special]).all()
    assert (labels[:, ~special] != IGNORED).all()


def test_a_text_of_one_long_word_is_still_a_lesson(tokenizer):
    _, labels = masked(tokenizer, ids_of("[CLS] m ##a ##t ##t ##r ##e ##s ##s [SEP]"), 3)
    assert (labels[:, 1:-1] != IGNORED).all()


def test_pieces_whose_word_was_cut_off_are_a_word(tokenizer):
    assert WholeWordMasking(tokenizer).words(ids_of("[CLS] ##s ##s the [SEP]")).tolist() == [-1, 0, 0, 1, -1]


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_a_share_that_is_none(tokenizer, share):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        WholeWordMasking(tokenizer, share)


def test_a_vocabulary_without_a_mask_token(tmp_path):
    pieces = [piece for piece in VOCABULARY if piece != "[MASK]"]
    tokenizer = Tokenizer.from_pretrained(write_vocabulary(tmp_path, pieces, config={"do_lower_case": True}))
    with pytest.raises(ValueError, match=r"no mask token '\[MASK\]'"):
        WholeWordMasking(tokenizer)


# --- A text becomes blocks


def pieces(tokenizer, blocks):
    ids = np.split(blocks.ids, blocks.starts[1:-1])
    return [" ".join(tokenizer.convert_ids_to_tokens(part)) for part in ids]


def test_whole_lines_are_packed_as_long_as_they_fit(tokenizer):
    blocks = cut_into_blocks(tokenizer, ["the cat", "hello", "who is on the mat ?", "world"], length=7)
    assert pieces(tokenizer, blocks) == [
        "[CLS] the cat hello [SEP]",
        "[CLS] who is on the mat [SEP]",
        "[CLS] ? world [SEP]",
    ]


def test_or_each_line_is_a_block(tokenizer):
    blocks = cut_into_blocks(tokenizer, ["the cat", "hello", "who is on the mat"], length=6, packed=False)
    assert pieces(tokenizer, blocks) == [
        "[CLS] the cat [SEP]",
        "[CLS] hello [SEP]",
        "[CLS] who is on the [SEP]",
        "[CLS] mat [SEP]",
    ]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("length", [3, 4, 9, 40])
def test_every_token_is_in_one_block(tokenizer, length, packed):
    blocks = cut_into_blocks(tokenizer, LINES, length, packed=packed)
    assert blocks.lengths.max() <= length
    within = blocks.ids[~np.isin(blocks.ids, [id_of("[CLS]"), id_of("[SEP]")])]
    whole = tokenizer.encode(LINES).ids
    assert within.tolist() == whole[~np.isin(whole, [id_of("[CLS]"), id_of("[SEP]")])].tolist()


def test_lines_without_a_word_are_left_out(tokenizer):
    blocks = cut_into_blocks(tokenizer, ["", "漢字", "hello"], length=9, packed=False)
    assert pieces(tokenizer, blocks) == ["[CLS] hello [SEP]"]


def test_a_text_without_any_word(tokenizer):
    with pytest.raises(ValueError, match="none of the 2 lines has a word of the vocabulary"):
        cut_into_blocks(tokenizer, ["漢字", "жук"], length=9)


def test_a_block_without_room(tokenizer):
    with pytest.raises(ValueError, match="at least 3 tokens"):
        cut_into_blocks(tokenizer, LINES, length=2)


def test_lines_of_a_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one\r\n\n  two \u2028 halves\n\n", encoding="utf-8")
    assert read_lines(path) == ["one", "two \u2028 halves"]


@pytest.mark.parametrize("content", [b"", b" \n\t\n"])
def test_an_empty_file_is_named(tmp_path, content):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"text\.txt: the file is empty"):
        read_lines(path)


def test_a_file_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"text\.txt, line 1: not UTF-8 \(unexpected end of data at byte 3\)"):
        read_lines(path)


# --- The task


def make_task(tokenizer, lines=LINES, seed=0, **options):
    torch.manual_seed(seed)
    model = BertForMaskedLM(TINY)
    blocks = cut_into_blocks(tokenizer, lines, TINY.max_position_embeddings, packed=False)
    return MaskedLMTask(model, tokenizer, blocks, **options)


def weights(task):
    return torch.cat([value.detach().flatten() for value in task.parameters()])


def hidden_in(monkeypatch, task, **settings):
    """What each step of a training hides, as lists."""
    seen = []

    def watch(*arguments):
        batch, labels = mask_words(*arguments)
        seen.append((batch["input_ids"].tolist(), labels.tolist()))
        return batch, labels

    monkeypatch.setattr(masked_module, "mask_words", watch)
    train(task, Settings(**settings))
    return seen


def test_other_words_are_hidden_in_each_epoch(tokenizer, monkeypatch):
    seen = hidden_in(monkeypatch, make_task(tokenizer), epochs=4, batch_size=3)
    assert len(seen) == 4
    for earlier in range(4):
        for later in range(earlier):
            assert seen[earlier] != seen[later]


def test_the_seed_decides_what_is_hidden_and_learned(tokenizer, monkeypatch):
    tasks = [make_task(tokenizer) for _ in range(3)]
    seen = [
        hidden_in(monkeypatch, task, steps=4, batch_size=2, seed=seed)
        for task, seed in zip(tasks, (7, 7, 8), strict=True)
    ]
    assert seen[0] == seen[1] != seen[2]
    assert torch.equal(weights(tasks[0]), weights(tasks[1]))
    assert not torch.equal(weights(tasks[0]), weights(tasks[2]))


def test_a_resumed_training_hides_and_learns_the_same(tokenizer, tmp_path):
    settings = Settings(steps=6, batch_size=2)

    class Stopped(Exception):
        pass

    def stop(_model):
        raise Stopped

    whole, part, again = (make_task(tokenizer) for _ in range(3))
    train(whole, settings)
    with pytest.raises(Stopped):
        train(part, settings, folder=tmp_path, save_every=2, evaluate=stop, evaluate_every=5)
    train(again, settings, folder=tmp_path, resume=True)
    assert torch.equal(weights(whole), weights(again))


def test_another_text_is_another_training(tokenizer, tmp_path):
    train(make_task(tokenizer), Settings(steps=1), folder=tmp_path, save_every=1)
    with pytest.raises(ResumeError, match="blocks was"):
        train(make_task(tokenizer, LINES[:2]), Settings(steps=1), folder=tmp_path, resume=True)
    with pytest.raises(ResumeError, match=r"share was 0\.15, is 0\.2"):
        train(make_task(tokenizer, share=0.2), Settings(steps=1), folder=tmp_path, resume=True)


def test_a_tiny_model_learns_a_tiny_text_by_heart(tokenizer, tmp_path):
    task = make_task(tokenizer)
    evaluate = MaskedLMEvaluator(tokenizer, task.blocks)
    before = evaluate(task.model.eval())
    records = train(
        task,
        Settings(steps=250, batch_size=3, learning_rate=1e-2),
        folder=tmp_path,
        evaluate=evaluate,
        score="log_likelihood",
    )
    after = records[-1]["scores"]
    assert before["perplexity"] > 50
    assert after["perplexity"] < 3
    assert after["accuracy"] > 0.8
    assert after["perplexity"] == pytest.approx(np.exp(-after["log_likelihood"]))
    model = BertForMaskedLM.from_pretrained(tmp_path / "model")  # a folder as published: with head and vocabulary
    again = Tokenizer.from_pretrained(tmp_path / "model")
    assert evaluate(model) == pytest.approx(after)
    assert SentenceEncoder.from_pretrained(tmp_path / "model", device="cpu").encode("the cat").shape == (32,)
    assert fill_mask(model, again, "the [MASK] sat on the mat.", top_k=1)[0][0].token_str == "cat"


def test_an_evaluation_hides_always_the_same(tokenizer):
    task = make_task(tokenizer).eval()
    evaluate = MaskedLMEvaluator(tokenizer, task.blocks)
    assert evaluate(task.model) == evaluate(task.model) == MaskedLMEvaluator(tokenizer, task.blocks)(task.model)
    assert evaluate(task.model) != MaskedLMEvaluator(tokenizer, task.blocks, seed=1)(task.model)


# --- From names and files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder"), ("Pooling", MEAN))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


def test_a_checkpoint_without_a_head_goes_on_with_a_new_one(folder, text):
    task = MaskedLMTask.from_file(text, folder, length=20, device="cpu")
    stored = Bert.from_pretrained(folder).state_dict()
    for name, value in task.model.bert.state_dict().items():
        assert torch.equal(value, stored[name])
    assert task.model.report.notes == ("the masked-LM head is new, because the checkpoint has none",)
    again, other = (masked_lm(folder, seed=seed)[0].masked_lm.dense.weight for seed in (0, 1))
    assert torch.equal(task.model.masked_lm.dense.weight, again)
    assert not torch.equal(again, other)


def test_a_checkpoint_with_a_head_goes_on_with_its_own(tmp_path):
    stored = widen(BertForMaskedLM(TINY))
    stored.save_pretrained(write_vocabulary(tmp_path, config={"do_lower_case": True}))
    model, _ = masked_lm(tmp_path)
    assert model.report.notes == ()
    for name, value in model.state_dict().items():
        assert torch.equal(value, stored.state_dict()[name])


def test_damaged_weights_are_not_taken_for_a_missing_head(tmp_path):
    Bert(TINY).save_pretrained(write_vocabulary(tmp_path, config={"do_lower_case": True}))
    path = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors.pop("embeddings.LayerNorm.bias")
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"embeddings\.LayerNorm\.bias"):
        masked_lm(tmp_path)


def test_a_fresh_model_takes_vocabulary_and_config_and_no_weights(folder):
    model, tokenizer = masked_lm(folder, fresh=True, shape={"num_hidden_layers": 1, "hidden_size": 16})
    assert model.config == dataclasses.replace(TINY, num_hidden_layers=1, hidden_size=16)
    assert len(tokenizer) == TINY.vocab_size
    assert float(model.bert.layers[0].attention.query.weight.detach().std()) == pytest.approx(0.02, rel=0.2)


def test_making_a_model_leaves_torchs_generator_alone(folder):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    masked_lm(folder, fresh=True)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": {"num_hidden_layers": 1}}, "num_hidden_layers can be chosen for a fresh model only"),
        ({"fresh": True, "shape": {"hidden_size": 33}}, "must be a multiple"),
        ({"fresh": True, "shape": {"layers": 3}}, "a config has no layers; it has .*num_hidden_layers"),
        ({"length": 41}, "a block of 41 tokens is longer than the 40 positions that the model has"),
        ({"length": 2}, "at least 3 tokens"),
        ({"share": 0}, "above 0 and at most 1"),
    ],
    ids=str,
)
def test_what_can_not_be_trained(folder, text, options, words):
    with pytest.raises(ValueError, match=words):
        MaskedLMTask.from_file(text, folder, **{"length": 20, **options})


def test_an_empty_text_can_not_be_trained_on(folder, tmp_path):
    path = tmp_path / "empty.txt"
    path.touch()
    with pytest.raises(ValueError, match=r"empty\.txt: the file is empty"):
        MaskedLMTask.from_file(path, folder)


def test_a_vocabulary_of_another_checkpoint_is_refused(tokenizer):
    small = BertForMaskedLM(dataclasses.replace(TINY, vocab_size=50))
    with pytest.raises(ConfigError, match="98, the model knows 50 tokens"):
        MaskedLMTask(small, tokenizer, cut_into_blocks(tokenizer, LINES, 20))
