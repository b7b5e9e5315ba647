"""tools/make_builtin: every phase, with a tiny teacher on a few texts."""

import gzip
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_corpora import shrink_suite, write_corpora
from tiny_folder import TEXTS, VOCABULARY, write_encoder
from tiny_training import make_texts

from minibert import SentenceEncoder
from minibert.checkpoint import builtin
from minibert.checkpoint.hub import open_files
from minibert.checkpoint.weights import open_weights
from minibert.model import EncoderLayer
from minibert.training import Examples, InBatchNegatives, SentenceTask, TeacherVectors

sys.path.append(str(Path(__file__).parent.parent))

from tools.make_builtin import card, command, heldout, phases, search
from tools.make_builtin import corpora as listed
from tools.make_builtin.corpora import Corpus
from tools.make_builtin.groups import list_texts, make_groups
from tools.make_builtin.pairs import Kind
from tools.make_builtin.publish import STORED, TABLE
from tools.make_builtin.recipe import Recipe, Stage
from tools.make_builtin.sentences import count_by_corpus, take_sentences
from tools.make_builtin.student import ClsLayer, assemble, cut_neurons, make_student
from tools.make_builtin.teacher import teacher_vectors
from tools.make_builtin.texts import Texts, TrainingPair, count, take_texts
from tools.make_builtin.training import GroupTask
from tools.make_builtin.vocabulary import choose_pieces, cut_tokenizer

CORPORA = (
    Corpus("lines.txt.gz", 20, "lines", "somewhere", "CC0"),
    Corpus("fields.tsv.gz", 1000, "fields", "elsewhere", "MIT"),
)
FILES = [*heldout.UNITS, "common_voice/sentences.en.txt.gz"]
USED = tuple(corpus for corpus in listed.CORPORA if corpus.file in FILES)  # of made-up data
PIECES = 92  # 10 of the teacher's 17 words, beside special tokens and single characters
RECIPE = Recipe(
    layers=(0, 1),
    stages=(
        Stage(20, 3, 1e-3),
        Stage(10, 2, 1e-3),
        Stage(10, 2, 1e-3, answers=0.1),
    ),
    pieces=PIECES,
    sample=8,
    batch_size=8,
    widths=(8, 16, 24, 32),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    modules = [("Pooling", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}), ("Normalize", {})]
    return write_encoder(tmp_path_factory.mktemp("teacher"), *modules)


@pytest.fixture
def teacher(folder):
    return SentenceEncoder.from_pretrained(folder, truncation="silent")


@pytest.fixture
def corpora(tmp_path):
    """A text a line, and several with tabs between them; some more than once, some too short or too long."""
    texts = make_texts(200)
    lines = [*texts[:60], "Too short", "the " * 100, "", texts[0].upper() + "!"]
    fields = ["\t".join([*texts[i : i + 2], f"{texts[i + 2]}. And so on {i}."]) for i in range(50, 200, 3)]
    for corpus, content in zip(CORPORA, (lines, fields), strict=True):
        with gzip.open(tmp_path / corpus.file, "wt", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in content))
    return tmp_path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    write_corpora(data, 120)
    return data


def test_no_sentence_comes_twice_and_no_corpus_outweighs_the_others(corpora):
    taken = take_sentences(corpora, 0, CORPORA)
    forms = [" ".join(text.lower().rstrip("!").split()) for text in taken]
    assert len(set(forms)) == len(taken)
    assert all(len(text.split()) >= 3 and len(text) <= 240 for text in taken)
    assert {"And so on 50.", "And so on 53."} <= set(taken)  # the sentences of a field
    counts = count_by_corpus(corpora, taken, CORPORA)
    assert counts["lines.txt.gz"] >= 20  # a sentence of the second file that stands in the first, too, counts there
    assert sum(counts.values()) == len(taken) > 100


def test_the_same_seed_takes_the_same_sentences_and_another_others(corpora):
    assert take_sentences(corpora, 0, CORPORA) == take_sentences(corpora, 0, CORPORA)
    assert take_sentences(corpora, 0, CORPORA) != take_sentences(corpora, 1, CORPORA)


def test_corpora_that_hold_nothing(tmp_path):
    for corpus in CORPORA:
        gzip.open(tmp_path / corpus.file, "wt").close()
    with pytest.raises(ValueError, match="no sentence of 3 words or more in any corpus"):
        take_sentences(tmp_path, 0, CORPORA)


def test_a_corpus_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lines\.txt\.gz"):
        take_sentences(tmp_path, 0, CORPORA)


def test_the_pieces_that_are_kept_spell_everything_and_are_the_worthiest(teacher):
    texts = ["the cat sat on the mat"] * 50 + make_texts(20)
    kept = choose_pieces(teacher, texts, PIECES)
    assert len(kept) == len(set(kept)) == PIECES
    assert kept == sorted(kept)
    pieces = {VOCABULARY[i] for i in kept}
    assert pieces >= {piece for piece in VOCABULARY if len(piece.removeprefix("##")) == 1 or piece.startswith("[")}
    assert pieces >= {"the", "cat", "sat", "on", "mat"}  # are in most texts


def test_pieces_that_are_too_few_for_the_letters(teacher):
    with pytest.raises(ValueError, match="30 pieces are too few: special tokens and single characters alone are 82"):
        choose_pieces(teacher, TEXTS, 30)


def test_the_cut_tokenizer_spells_what_is_gone_in_what_is_left(teacher, tmp_path):
    kept = [i for i, piece in enumerate(VOCABULARY) if piece not in ("dog", "Dog")]
    cut = cut_tokenizer(teacher, kept, tmp_path)
    assert cut.tokenize("the dog") == ["the", "d", "##o", "##g"]
    assert len(cut) == len(kept)
    same = cut.encode(["the cat sat."]).ids.tolist()
    assert [kept[i] for i in same] == teacher.tokenizer.encode(["the cat sat."]).ids.tolist()


def whole_student(teacher, layers=(0, 1)):
    """With every piece and every neuron, and as many positions as the teacher has."""
    return make_student(teacher, teacher.tokenizer, range(len(VOCABULARY)), layers)


def test_a_student_with_all_the_layers_gives_the_teachers_first_vectors(teacher, monkeypatch):
    monkeypatch.setattr("tools.make_builtin.student.POSITIONS", 40)
    states = teacher.encode(TEXTS[0], output_value="token_embeddings")
    expected = states[0] / np.linalg.norm(states[0])
    np.testing.assert_allclose(whole_student(teacher).encode(TEXTS[0]), expected, atol=1e-5)


def test_the_layers_are_those_that_were_asked_for(teacher, monkeypatch):
    monkeypatch.setattr("tools.make_builtin.student.POSITIONS", 40)
    student = whole_student(teacher, layers=(1,))
    assert student.model.config.num_hidden_layers == 1
    theirs = teacher.model.layers[1].attention.key.weight
    assert torch.equal(student.model.layers[0].attention.key.weight, theirs)


def test_the_last_layer_in_training_is_the_pages_own_for_the_first_position(teacher, monkeypatch):
    monkeypatch.setattr("tools.make_builtin.student.POSITIONS", 40)
    student = whole_student(teacher).to(torch.float64)
    assert type(student.model.layers[-1]) is ClsLayer
    batch = student.tokenize(TEXTS)
    with torch.no_grad():
        short = student.model(**batch).last_hidden_state
        student.model.layers[-1].__class__ = EncoderLayer
        page = student.model(**batch).last_hidden_state
    student.model.layers[-1].__class__ = ClsLayer
    trained = student.model(**batch).last_hidden_state
    assert trained.requires_grad
    assert short.shape == trained.shape == page[:, :1].shape
    torch.testing.assert_close(short, page[:, :1], atol=1e-10, rtol=0)
    torch.testing.assert_close(trained.detach(), page[:, :1], atol=1e-10, rtol=0)


def test_neurons_that_do_nothing_are_the_first_to_go(teacher, monkeypatch):
    """With their weights out at zero, what is left must give the very vectors."""
    monkeypatch.setattr("tools.make_builtin.student.POSITIONS", 40)
    student = whole_student(teacher)
    weights = dict(student.model.state_dict())
    for layer, dead in enumerate(([0, 5, 36], [7, 8, 9])):
        down = weights[f"layers.{layer}.feed_forward.down.weight"].clone()
        down[:, dead] = 0
        weights[f"layers.{layer}.feed_forward.down.weight"] = down
    student = assemble(student.model.config, weights, student.tokenizer)
    cut = cut_neurons(student, 34, TEXTS)
    assert cut.model.config.intermediate_size == 34
    np.testing.assert_allclose(cut.encode(TEXTS), student.encode(TEXTS), atol=1e-5)


def test_the_teachers_vectors_are_kept_for_other_lists_of_texts_too(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("tools.make_builtin.teacher.PIECE", 4)
    texts = make_texts(13)
    vectors = teacher_vectors(teacher, texts[:10], tmp_path)
    np.testing.assert_allclose(vectors, teacher.encode(texts[:10]), atol=1e-3)
    assert len(list(tmp_path.glob("*.npz"))) == 3
    asked = []
    whole = teacher.encode
    monkeypatch.setattr(teacher, "encode", lambda new: asked.extend(new) or whole(new))
    again = teacher_vectors(teacher, texts[::-1], tmp_path)
    assert asked == texts[:9:-1]
    assert np.array_equal(again[:2:-1], vectors)
    np.testing.assert_allclose(again[:3], whole(texts[:9:-1]), atol=1e-3)


def run(folder, data, where, monkeypatch):
    """The whole command; the folder that it made."""
    for module in (command, card):
        monkeypatch.setattr(module, "RECIPE", RECIPE)
        monkeypatch.setattr(module, "CORPORA", USED, raising=False)
    monkeypatch.setattr(search, "TRIED", where / "tried.json")
    where.mkdir(exist_ok=True)
    (where / "tried.json").write_text(
        '[["0, 1", "10", "92", "0.1", "98.0", "97.0", "4.0 x", "4.1 x"]]', encoding="utf-8"
    )
    monkeypatch.setattr(phases, "take_texts", lambda path, seed: take_texts(path, seed, USED))
    monkeypatch.setattr(command, "count", lambda path, drawn: count(path, drawn, USED))
    monkeypatch.setattr("tools.make_builtin.student.POSITIONS", 40)
    shrink_suite(monkeypatch, 1)  # random weights find one of one only
    arguments = [str(data), "--work", str(where / "work"), "--teacher", str(folder)]
    assert command.main([*arguments, "--output", str(where / "model")]) == 0
    return where / "model"


def test_the_command_makes_a_folder_that_loads_and_says_what_it_is(folder, data, tmp_path, monkeypatch, capsys):
    made = run(folder, data, tmp_path, monkeypatch)
    assert "MB" in capsys.readouterr().out
    encoder = SentenceEncoder.from_pretrained(made)
    assert encoder.model.config.intermediate_size == 10
    assert encoder.pooling.modes == ("cls",)
    np.testing.assert_allclose(np.linalg.norm(encoder.encode(TEXTS), axis=1), 1, atol=1e-5)
    found = {name: tensor.dtype for name, tensor in open_weights(open_files(made)).items()}
    assert found.pop(TABLE) == STORED
    assert set(found.values()) == {torch.float16}
    trained = torch.load(tmp_path / "work" / f"student-{len(RECIPE.stages)}.pt", weights_only=True)
    stored, table = encoder.state_dict(), "model.embeddings.token.weight"
    assert torch.equal(trained.pop(table).to(STORED).float(), stored.pop(table))
    assert all(torch.equal(value.half(), stored[name].half()) for name, value in trained.items())
    text = (made / "README.md").read_text(encoding="utf-8")
    assert "| Common Voice prompts | " in text
    assert "20 neurons, 3 steps, at most 0.001; 10 neurons, 2 steps" in text
    assert "caption, caption (" in text
    assert "| 0, 1 | 10 | 92 | 0.1 | 98.0 | 97.0 | 4.0 x | 4.1 x |" in text
    assert len(re.findall(r"^\| .*\|( [0-9.]+ \|){3}$", text, flags=re.M)) > 12  # a share for 24, 16 and 8 dimensions
    assert not [line for line in text.splitlines() if "{" in line]


def test_a_broken_off_run_goes_on_and_its_end_is_the_same(folder, data, tmp_path, monkeypatch):
    whole = run(folder, data, tmp_path / "whole", monkeypatch)
    real = phases.train_student

    def break_off(*arguments):
        if arguments[5].intermediate == 10:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(phases, "train_student", break_off)
    with pytest.raises(KeyboardInterrupt):
        run(folder, data, tmp_path / "broken", monkeypatch)
    monkeypatch.setattr(phases, "train_student", real)
    monkeypatch.setattr(phases, "choose_pieces", None)  # is done, and must not be done again
    broken = run(folder, data, tmp_path / "broken", monkeypatch)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    spent = json.loads((tmp_path / "broken" / "work" / "seconds.json").read_text(encoding="utf-8"))
    training = [f"stage {number}" for number in range(1, 1 + len(RECIPE.stages))]
    assert sorted(spent) == sorted(["texts", "pieces", "teacher", "groups", *training, "suite"])


def test_the_search_trains_and_scores_each_of_the_sizes(folder, data, tmp_path, monkeypatch, capsys):
    variants = {"recipe": ((0, 1), 10, PIECES), "shallower": ((1,), 20, PIECES)}
    for name, value in {"VARIANTS": variants, "STEPS": 2, "TRIED": tmp_path / "tried.json", "RECIPE": RECIPE}.items():
        monkeypatch.setattr(search, name, value)
    monkeypatch.setattr(phases, "take_texts", lambda path, seed: take_texts(path, seed, USED))
    monkeypatch.setattr("tools.make_builtin.student.POSITIONS", 40)
    shrink_suite(monkeypatch, 1)
    assert command.main([str(data), "--work", str(tmp_path), "--teacher", str(folder), "--search"]) == 0
    rows = [row.strip("| ").split(" | ") for row in search.tried_rows()]
    assert [row[:3] for row in rows] == [["0, 1", "10", str(PIECES)], ["1", "20", str(PIECES)]]
    assert {len(row) for row in rows} == {len(search.HEADINGS)}
    assert float(rows[0][4]) > 50
    assert all(heading in capsys.readouterr().out for heading in search.HEADINGS[:1])
    assert not (tmp_path / "suite.json").exists()


def test_groups_are_texts_with_near_ones_of_their_kind():
    """Texts in two clusters: every neighbour is of one's own, and a pair's is a passage of another pair."""
    sentences, passages = [f"sentence {i}" for i in range(20)], [f"passage {i}" for i in range(6)]
    pairs = [TrainingPair(f"kind {i // 20}", f"query {i}", f"answer {i}") for i in range(40)]
    drawn = Texts(sentences, [], passages, pairs)
    texts = list_texts(drawn)
    cluster = np.array([int(text.split()[1]) % 2 for text in texts])
    vectors = np.eye(4)[cluster] + 0.01 * np.random.default_rng(0).normal(size=(len(texts), 4))
    kinds = {"kind 0": Kind("", list, 10), "kind 1": Kind("", list, 10, times=2)}
    groups = np.array(make_groups(drawn, texts, vectors, 0, kinds))
    assert groups.shape == (86, 4)
    assert groups[:, 3].tolist() == [0] * 26 + [2] * 20 + [3] * 40
    assert np.array_equal(groups[46:66, :2], groups[66:, :2])
    assert not np.array_equal(groups[46:66, 2], groups[66:, 2])
    groups = groups[:, :3]
    for first, second, third in groups[:26]:
        assert texts[first].split()[0] == texts[second].split()[0]
        assert third == -1
        assert first != second
    assert all(cluster[first] == cluster[second] for first, second, _ in groups[:20])
    for query, answer, hard in groups[26:]:
        assert texts[query].replace("query", "answer") == texts[answer] != texts[hard]
        assert texts[hard].startswith("answer")
        assert cluster[answer] == cluster[hard]


def test_a_text_without_another_has_no_neighbour():
    assert make_groups(Texts(["one"], [], [], []), ["one"], np.ones((1, 4)), 0) == [[0, -1, -1, 0]]


def test_a_batch_holds_each_text_of_its_groups_once_and_the_mean_follows_the_weights(teacher, monkeypatch):
    monkeypatch.setattr("tools.make_builtin.student.POSITIONS", 40)
    texts = make_texts(12)
    vectors = torch.from_numpy(teacher.encode(texts))
    groups = np.array([[0, 1, -1, 0], [1, 2, 3, 2], [4, 0, -1, 0]])
    student = whole_student(teacher)
    task = GroupTask(student, TeacherVectors("cosine"), Examples([texts], vectors), groups, average=2)
    together = task.loss(np.arange(3)).item()
    one_by_one = SentenceTask(student, TeacherVectors("cosine"), Examples([texts], vectors))
    assert together == pytest.approx(one_by_one.loss(np.arange(5)).item(), abs=1e-6)
    assert task.lengths.tolist() == [sum(one_by_one.lengths[i] for i in group if i >= 0) for group in groups[:, :3]]
    assert np.argmax(task.sort_key) == 1  # a batch has pairs of one kind, or none
    answers = InBatchNegatives(10.0)
    asked = GroupTask(student, TeacherVectors("cosine"), Examples([texts], vectors), groups, 2, answers)
    own = [torch.from_numpy(student.encode([texts[i]])) for i in (1, 2, 3)]  # the one group of three
    assert asked.loss(np.arange(3)).item() == pytest.approx(together + answers(own).item(), abs=1e-5)
    assert asked.loss(np.array([0, 2])).item() == pytest.approx(task.loss(np.array([0, 2])).item(), abs=1e-6)
    assert asked.identity() != task.identity()
    weight = student.model.layers[0].feed_forward.up.bias
    expected = weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            weight.add_(1)
        task.begin_step(step, 40)
        expected.lerp_(weight.detach(), 1 - min(0.5, step / (step + 10)))
    task.take_mean()
    torch.testing.assert_close(weight.detach(), expected)


def test_the_card_says_the_sizes_of_the_shipped_model():
    config = SentenceEncoder.from_pretrained(device="cpu").model.config
    text = (builtin.FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"{config.vocab_size:,} of the teacher's 30,522 word pieces" in text
    assert f"a BERT of {config.num_hidden_layers} layers, {config.hidden_size} wide" in text
    assert f"{config.intermediate_size} neurons" in text
    found = sum(path.stat().st_size for path in builtin.FOLDER.iterdir()) / 1e6
    assert found < 16
    assert f" {found:.1f} MB with its tokenizer" in text
