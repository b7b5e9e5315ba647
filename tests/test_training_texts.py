"""tools/make_builtin: what a student may learn from, and that nothing of it is held out for tools/quality."""

import random
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from made_up_corpora import write_corpora, write_lines

sys.path.append(str(Path(__file__).parent.parent))

from tools.make_builtin import heldout
from tools.make_builtin.corpora import CORPORA, Corpus
from tools.make_builtin.heldout import held_out_forms, held_out_units, normal_form, read_units, training_units
from tools.make_builtin.pairs import KINDS, cut_passages, take_out_sentences
from tools.make_builtin.sentences import recombine
from tools.make_builtin.texts import take_texts

FILES = [*heldout.UNITS, "common_voice/sentences.en.txt.gz"]
USED = tuple(corpus for corpus in CORPORA if corpus.file in FILES)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    return write_corpora(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def texts(corpora):
    return take_texts(corpora, 0, USED)


@pytest.mark.parametrize("file", heldout.TESTED)
def test_every_unit_is_either_held_out_or_for_training(corpora, file):
    units = list(read_units(corpora, file))
    held_out, training = held_out_units(corpora, file), training_units(corpora, file)
    assert sorted(held_out + training) == sorted(units)
    assert not [unit for unit in held_out if unit in training]
    assert 0.05 < len(held_out) / len(units) < 0.4


def test_nothing_of_a_corpus_that_tests_nothing_is_held_out(corpora):
    assert held_out_units(corpora, heldout.RFCS) == []
    assert training_units(corpora, heldout.RFCS) == list(read_units(corpora, heldout.RFCS))


def test_what_is_held_out_does_not_depend_on_the_order_of_lines(corpora, tmp_path):
    before = held_out_units(corpora, heldout.WORDS)
    lines = ["\t".join(unit) for unit in read_units(corpora, heldout.WORDS)]
    random.Random(0).shuffle(lines)
    write_lines(tmp_path / heldout.WORDS, lines)
    assert sorted(held_out_units(tmp_path, heldout.WORDS)) == sorted(before)


def test_a_line_more_at_the_start_moves_no_other_section(corpora, tmp_path):
    before = list(read_units(corpora, heldout.PEPS))
    write_lines(tmp_path / heldout.PEPS, ["A new sentence.", *(line for unit in before for line in unit)])
    after = list(read_units(tmp_path, heldout.PEPS))
    assert after[-len(before) + 1 :] == before[1:]


def test_a_section_and_a_page_are_consecutive_lines(corpora, tmp_path):
    assert len(list(read_units(corpora, heldout.PEPS))) > 40  # of 2400 lines
    lines = ["List all files", "Remove a file", "Work with files.", "Stop", "A computer's end."]
    write_lines(tmp_path / heldout.COMMANDS, lines)
    assert list(read_units(tmp_path, heldout.COMMANDS)) == [lines[:3], lines[3:]]


def test_no_text_for_training_is_held_out_nor_a_copy_of_one(corpora, texts):
    held_out = held_out_forms(corpora)
    pairs = [text for pair in texts.pairs for text in pair[1:]]
    assert held_out.isdisjoint(map(normal_form, [*texts.sentences, *texts.recombined, *texts.passages, *pairs]))
    whole = "\n".join(map(normal_form, [*texts.passages, *pairs]))
    assert not [form for form in held_out if len(form.split()) > 3 and form in whole]


def test_copies_in_other_corpora_are_left_out(corpora, tmp_path):
    (copied,) = held_out_units(corpora, heldout.PROBLEMS)[0]
    for unit in ["one two three", copied.upper()], ["four five six", "seven eight nine"]:
        write_lines(tmp_path / heldout.WIKIPEDIA, unit)
        write_lines(tmp_path / heldout.PROBLEMS, [copied])
        files = tuple(Corpus(file, 10, "", "", "") for file in (heldout.WIKIPEDIA, heldout.PROBLEMS))
        assert copied.upper() not in take_texts(tmp_path, 0, files).sentences


def test_the_same_seed_draws_the_same_and_another_others(corpora, texts):
    assert take_texts(corpora, 0, USED) == texts
    other = take_texts(corpora, 1, USED)
    for mine, theirs in zip(texts, other, strict=True):
        assert mine != theirs
        assert len(set(mine)) == len(mine) > 100


def test_every_kind_of_pairs_is_drawn_and_each_is_a_pair_of_its_corpus(corpora, texts):
    assert {pair.kind for pair in texts.pairs} == KINDS.keys()
    turns = [pair for unit in training_units(corpora, heldout.DIALOGUES) for pair in pairwise(unit)]
    assert {pair[1:] for pair in texts.pairs if pair.kind == "turn, next turn"} <= set(turns)
    questions = [pair for pair in texts.pairs if pair.kind == "question, story"]
    assert all(pair.query.startswith("Who is") and pair.query.endswith("?") for pair in questions)
    whole = {text for (text,) in training_units(corpora, heldout.PROBLEMS)}
    assert {f"{pair.passage} {pair.query}" for pair in questions} == whole


def test_passages_are_consecutive_sentences_of_many_lengths(corpora, texts):
    lengths = [len(passage) for passage in texts.passages]
    assert max(lengths) <= 1100
    assert min(lengths) < 300 < 600 < max(lengths)
    running = " ".join(text for unit in training_units(corpora, heldout.TEXTBOOKS) for text in unit)
    assert sum(passage in running for passage in texts.passages) > 50


def test_passages_do_not_overlap_and_keep_to_their_length():
    sentences = [f"sentence {i} " + "x" * (10 + 7 * i % 40) for i in range(60)]
    passages = cut_passages(sentences, most=120, fewest=60)
    assert [s for passage in passages for s in passage] == [s for s in sentences if any(s in p for p in passages)]
    assert all(60 <= len(" ".join(passage)) <= 120 and len(passage) > 1 for passage in passages)
    assert cut_passages(["a" * 200], most=100) == cut_passages([]) == []


def test_the_sentence_that_is_taken_out_shares_rare_words_with_the_others():
    passage = ["The day was long.", "Whales eat krill in the sea.", "The krill was what whales like.", "It was good."]
    other = ["The day was long.", "It was good.", "The sea was in it."]
    (query, rest), _ = take_out_sentences([passage, other])
    assert query in passage[1:3]
    assert rest == " ".join(sentence for sentence in passage if sentence != query)


def test_recombined_captions_have_a_beginning_of_one_and_an_end_of_another(corpora):
    texts = ["a man is riding a horse", "the old dog is asleep", "two birds on a wire", "A cat sits on a chair"]
    found = recombine(texts, 1, 0, held_out={"a cat sits on a wire"})
    assert set(found) <= {"a man is asleep", "the old dog is riding a horse", "two birds on a chair"}
    assert found
    assert recombine(["no joint here", "is it"], 2, 0) == []
    captions = {text for unit in training_units(corpora, heldout.IMAGES) for text in unit}
    assert captions.isdisjoint(take_texts(corpora, 0, USED).recombined)
