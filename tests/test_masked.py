"""Masked-LM training: which words are hidden, how a text becomes blocks, and that a model learns from them."""

import numpy as np
import pytest
from tiny_folder import VOCABULARY, write_vocabulary

from minibert import Tokenizer
from minibert.training.blocks import cut_into_blocks, read_lines
from minibert.training.masking import IGNORED, WholeWordMasking


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
    seen, labels = masked(tokenizer, LONG, 3000, share=0.5)
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
    assert pieces(tokenizer, blocks) == ["[CLS] the cat hello [SEP]", "[CLS] who is on the mat [SEP]", "[CLS] ? world [SEP]"]


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
    with pytest.raises(ValueError, match=r"text\.txt: not UTF-8 \(unexpected end of data at byte 3\)"):
        read_lines(path)
