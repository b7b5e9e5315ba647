"""What the files around a vocabulary say: added words, flags, damage, rules without bound; and saving, whole or not."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from helpers import TINY, widen
from tiny_folder import SPECIAL, write_json
from tokenizers import models, normalizers, pre_tokenizers, processors

from minibert import (
    Bert,
    BertForSequenceClassification,
    CheckpointError,
    ClassifierConfig,
    ConfigError,
    CrossEncoder,
    SentenceEncoder,
    Tokenizer,
)
from minibert.checkpoint.atomic import replacing_all
from minibert.checkpoint.trial import GROWTH, encode_batch
from minibert.cli.inspect import describe
from minibert.tokenizer import CHUNK, LETTERS
from minibert.training.masking import WholeWordMasking

PIECES = [*SPECIAL, *["the", "cat", "Cat", "a", "##a", "e", "é", "drug", "<", ">", "[unused5]", "<mask>", "<unk>"]]
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
BERT = {"tokenizer_class": "BertTokenizer"}


def wordpiece(pieces=PIECES):
    ids = {piece: i for i, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    backend.add_special_tokens([piece for piece in SPECIAL if piece in ids])
    return backend


def folder(path, backend=None, form="tokenizer.json", **files):
    """A folder; the further files by their names without `.json`."""
    path.mkdir(exist_ok=True)
    if form == "tokenizer.json":
        (backend or wordpiece()).save(str(path / form))
    else:
        (path / form).write_text("".join(f"{piece}\n" for piece in PIECES), encoding="utf-8")
    for name, values in files.items():
        write_json(path, f"{name}.json", values)
    return path


def opened(path, backend=None, **files):
    return Tokenizer.from_pretrained(folder(path, backend, **files))


# --- Added words

NEW = len(PIECES)
OBJECT = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
ADDED = {
    "added_tokens.json": ({"added_tokens": {"<drug>": NEW}}, "<drug>", NEW),
    "additional": ({"tokenizer_config": {"additional_special_tokens": ["[unused5]"]}}, "[unused5]", 15),
    "extra": ({"tokenizer_config": {"extra_special_tokens": ["<drug>"]}}, "<drug>", NEW),
    "extra by name": ({"tokenizer_config": {"extra_special_tokens": {"drug_token": "<drug>"}}}, "<drug>", NEW),
    "of this model": ({"tokenizer_config": {"model_specific_special_tokens": {"drug_token": "<drug>"}}}, "<drug>", NEW),
    "a token of another name": ({"tokenizer_config": {"drug_token": "<drug>"}}, "<drug>", NEW),
    "a renamed mask": ({"tokenizer_config": {"mask_token": "<mask>"}}, "<mask>", 16),
    "a renamed unk": ({"tokenizer_config": {"unk_token": "<unk>"}}, "<unk>", 17),
    "decoder": ({"tokenizer_config": {"added_tokens_decoder": {str(NEW): {"content": "<drug>"}}}}, "<drug>", NEW),
    "map": ({"special_tokens_map": {"additional_special_tokens": ["[unused5]"]}}, "[unused5]", 15),
    "map, mask": ({"special_tokens_map": {"mask_token": {"content": "<mask>", **OBJECT}}}, "<mask>", 16),
}


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize("kind", ADDED)
def test_words_that_only_another_file_knows_are_one_token(tmp_path, kind, form):
    files, word, number = ADDED[kind]
    files = {**files, "tokenizer_config": BERT | files.get("tokenizer_config", {}) | {"do_lower_case": True}}
    tokenizer = opened(tmp_path, form=form, **files)
    assert tokenizer(f"the {word} cat")["input_ids"] == [2, 5, number, 6, 3]
    if "mask" in kind:
        assert tokenizer.mask_id == number


def test_older_files_do_not_count_beside_an_added_tokens_decoder(tmp_path):
    older = {"added_tokens": {"<drug>": NEW}, "special_tokens_map": {"mask_token": "<mask>"}}
    tokenizer = opened(tmp_path, tokenizer_config=FAST | {"added_tokens_decoder": {}}, **older)
    assert (tokenizer.mask_token, len(tokenizer)) == ("[MASK]", NEW)


@pytest.mark.parametrize("rest", [{}, {"added_tokens_decoder": {}}])
def test_a_word_that_only_tokenizer_json_has_is_kept_and_noted(tmp_path, rest):
    backend = wordpiece()
    backend.add_tokens(["<drug>"])
    tokenizer = opened(tmp_path, backend, tokenizer_config=BERT | rest)
    assert tokenizer("<drug>")["input_ids"] == [2, NEW, 3]
    assert [note for note in tokenizer.notes if "only tokenizer.json has the added word '<drug>'" in note] or not rest
    assert bool(tokenizer.notes) == bool(rest)


def test_a_known_word_keeps_its_id_and_another_stated_one_is_noted(tmp_path):
    stated = {"added_tokens_decoder": {"100": {"content": "[UNK]", "special": True}}}
    tokenizer = opened(tmp_path, tokenizer_config=FAST | stated)
    assert tokenizer("zz")["input_ids"] == [2, 1, 3]
    assert tokenizer.notes == ("the token '[UNK]' has the id 1, not 100 as the files say",)


def test_special_tokens_are_split_where_the_file_says_so(tmp_path):
    tokenizer = opened(tmp_path, tokenizer_config=FAST | {"split_special_tokens": True})
    assert "[MASK]" not in tokenizer.tokenize("the [MASK]")
    tokenizer.save_pretrained(tmp_path / "saved")
    assert "[MASK]" not in Tokenizer.from_pretrained(tmp_path / "saved").tokenize("the [MASK]")


# --- Flags, templates and types


@pytest.mark.parametrize(
    ("flags", "pieces", "word"),
    [
        ({}, ["cat", "e"], None),
        ({"do_lower_case": False}, ["Cat", "é"], "do_lower_case"),
        ({"strip_accents": False}, ["cat", "é"], "strip_accents"),
        ({"tokenize_chinese_chars": False}, ["cat", "e"], "tokenize_chinese_chars"),
    ],
)
def test_flags_count_against_tokenizer_json_and_that_is_noted(tmp_path, flags, pieces, word):
    tokenizer = opened(tmp_path / "bert", tokenizer_config=BERT | flags)
    assert tokenizer.tokenize("Cat é") == pieces
    assert [word] == [note.split()[0] for note in tokenizer.notes] if word else tokenizer.notes == ()
    tokenizer = opened(tmp_path / "fast", tokenizer_config=FAST | flags)  # of this class flags have no effect
    assert tokenizer.tokenize("Cat é") == ["cat", "e"]


def test_the_load_report_and_inspect_show_the_notes(tmp_path):
    SentenceEncoder(Bert(TINY), Tokenizer(wordpiece())).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(tmp_path, "tokenizer_config.json", config | {"do_lower_case": False})
    encoder = SentenceEncoder.from_pretrained(tmp_path)
    assert "do_lower_case False" in encoder.report.notes[0]
    assert "do_lower_case False" in describe(encoder)


def test_what_transformers_5_rebuilds_is_kept_and_noted(tmp_path):
    backend = wordpiece()
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    backend.model.max_input_chars_per_word = 200
    tokenizer = opened(tmp_path, backend, tokenizer_config=BERT)
    assert tokenizer("a" * 150)["input_ids"] == [2, 8, *[9] * 149]
    assert tokenizer.notes[0].endswith("transformers 5 goes by flags: model, post_processor")


def test_a_single_text_has_the_types_of_the_template(tmp_path):
    backend = wordpiece()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    assert opened(tmp_path, backend, tokenizer_config=FAST)("the")["token_type_ids"] == [0, 1, 1]


def test_a_type_that_the_model_lacks_is_refused(tmp_path):
    backend = wordpiece()
    sizes = {"type_vocab_size": 1, "vocab_size": NEW}
    assert opened(tmp_path / "a", backend, config=sizes)("the")["token_type_ids"] == [0, 0, 0]
    model = BertForSequenceClassification(ClassifierConfig(**{**asdict(TINY), "type_vocab_size": 1}))
    with pytest.raises(ConfigError, match=r"token type 1.*type_vocab_size"):
        CrossEncoder(model, Tokenizer(backend))
    backend.post_processor = processors.TemplateProcessing(single="$A:1", pair="$A $B")
    with pytest.raises(ConfigError, match=r"tokenizer\.json: .*token type 1, and type_vocab_size is 1"):
        opened(tmp_path / "b", backend, config=sizes, tokenizer_config=FAST)


def test_second_texts_are_of_type_0_where_the_model_takes_no_types(tmp_path):
    tokenizer = opened(tmp_path, tokenizer_config=FAST | {"model_input_names": ["input_ids", "attention_mask"]})
    assert set(tokenizer("the", "cat")["token_type_ids"]) == {0}


# --- More words than the model has


def test_a_word_that_the_model_lacks_is_named(tmp_path):
    backend = wordpiece()
    backend.add_tokens(["<e1>"])
    tokenizer = opened(tmp_path, backend, tokenizer_config=FAST, config={"vocab_size": NEW})
    assert "ids up to 18" in tokenizer.notes[0]
    assert tokenizer("the cat")["input_ids"] == [2, 5, 6, 3]
    for call in (tokenizer, tokenizer.encode):
        with pytest.raises(ValueError, match="text 1 has the word '<e1>', id 18"):
            call(["the", "a <e1>"])
    tokenizer.vocab_size = NEW + 1  # its model was given a row more
    assert tokenizer("<e1>")["input_ids"] == [2, NEW, 3]
    put_together = Tokenizer(backend)
    assert put_together.fitted(NEW + 1) is put_together
    with pytest.raises(ValueError, match="<e1>"):
        put_together.fitted(NEW).encode(["<e1>"])
    with pytest.raises(ConfigError, match="ids up to 17, the model knows 9"):
        put_together.fitted(9)


def test_training_replaces_by_words_that_the_model_has(tmp_path):
    backend = wordpiece()
    backend.add_tokens(["<e1>", "<e2>"])
    masking = WholeWordMasking(Tokenizer(backend).fitted(NEW))
    assert masking.replacements.max() == NEW - 1
    with pytest.raises(ValueError, match="no mask token '<e1>'"):
        WholeWordMasking(Tokenizer(backend, mask_token="<e1>").fitted(NEW))


# --- Damage

BAD = {
    "an endless id": ("added_tokens", {"<x>": float("inf")}),
    "an id beyond int32": ("added_tokens", {"<x>": 2**31}),
    "an endless id in the decoder": ("tokenizer_config", {"added_tokens_decoder": {"9" * 400: {"content": "<x>"}}}),
    "an object for a class": ("tokenizer_config", {"tokenizer_class": {"a": 1}}),
    "a list for a word": ("tokenizer_config", {"extra_special_tokens": [["<x>"]]}),
    "a number for words": ("tokenizer_config", {"additional_special_tokens": 7}),
    "a list for the mask": ("special_tokens_map", {"mask_token": ["[MASK]"]}),
    "an absent padding token": ("tokenizer_config", {"pad_token": "<nothing>"}),
    "a list for a side": ("tokenizer_config", {"truncation_side": ["left"]}),
    "a text for a flag": ("tokenizer_config", {"do_lower_case": "no"}),
}


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_is_named_with_its_file_and_field(tmp_path, kind, form):
    file, values = BAD[kind]
    with pytest.raises(ConfigError) as caught:
        opened(tmp_path, form=form, **{file: values})
    field = next(iter(values))
    assert str(tmp_path) in str(caught.value)
    assert field in str(caught.value)
    assert len(str(caught.value)) < 500


def change(path, edit):
    values = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
    edit(values)
    write_json(path, "tokenizer.json", values)


def growing(values):
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    values["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [step] * 60}]}


TRIED = {
    "no [UNK]": lambda values: values["model"].update(unk_token="[NONE]"),
    "a template of tokens that are not there": lambda values: values["post_processor"].update(special_tokens={}),
    "an id of the template beyond int32": lambda values: values["post_processor"]["special_tokens"]["[CLS]"].update(
        ids=[2**31]
    ),
    "a type beyond BERT's": lambda values: values["post_processor"]["single"][0]["SpecialToken"].update(type_id=200),
    "a normalizer that doubles texts": growing,
}


@pytest.mark.parametrize("kind", TRIED)
def test_a_vocabulary_is_tried_before_it_is_called_good(tmp_path, kind):
    change(folder(tmp_path, tokenizer_config=FAST), TRIED[kind])
    with pytest.raises(ConfigError, match=r"tokenizer\.json: "):
        Tokenizer.from_pretrained(tmp_path)


def test_rules_that_take_too_long_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("minibert.checkpoint.trial.SECONDS", -1.0)
    with pytest.raises(ConfigError, match=r"tokenizer\.json: its rules take longer"):
        opened(tmp_path)


def test_usual_rules_are_far_from_the_bound(tmp_path):
    backend = wordpiece()
    backend.normalizer = normalizers.Sequence([normalizers.Replace(tokenizers.Regex(" {2,}"), " "), normalizers.NFKC()])
    assert opened(tmp_path, backend, tokenizer_config=FAST).tokenize("the  cat") == ["the", "cat"]
    assert GROWTH > 1000


def test_a_text_that_makes_the_library_fail_is_named(tmp_path):
    """A regular expression gives up on this text only, by a panic, which is no Exception."""
    backend = wordpiece()
    backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex("(a+)+$"), "isolated")
    tokenizer = opened(tmp_path, backend, tokenizer_config=FAST)
    with pytest.raises(ValueError, match="text 1 can't be tokenised"):
        tokenizer(["the", "a" * 40 + "!", "cat"])


# --- Calls


def test_one_string_is_no_list_of_texts(tmp_path):
    with pytest.raises(TypeError, match="list of strings, not str"):
        opened(tmp_path).encode("the cat")


def test_long_texts_go_to_the_library_a_few_at_a_time(tmp_path, monkeypatch):
    tokenizer = opened(tmp_path)
    texts = ["the cat " * 10, "a", "cat", "the " * 40, ""] * 3
    whole, pairs = tokenizer(texts), tokenizer(texts, texts[::-1])
    seen = []

    def watched(backend, inputs, start):
        seen.append(sum(len(text) for text in inputs))
        return encode_batch(backend, inputs, start)

    monkeypatch.setattr("minibert.tokenizer.encode_batch", watched)
    monkeypatch.setattr("minibert.tokenizer.LETTERS", 100)
    assert tokenizer(texts) == whole
    assert max(seen) == 160  # of one text: it is never cut
    assert sum(seen) == sum(map(len, texts))
    assert (len(seen), tokenizer(texts, texts[::-1])) == (7, pairs)
    assert CHUNK * 100 < LETTERS < 10**6


# --- Saving


def unigram():
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    scores = [(piece, 0.0) for piece in special] + [(f"▁{word}", -2.0) for word in ("the", "cat")]
    scores += [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz"] + [("<mask>", 0.0)]
    backend = tokenizers.Tokenizer(models.Unigram(scores, unk_id=3, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens([*special, "<mask>"])
    return backend


def test_unigram_is_saved(tmp_path):
    before = Tokenizer(unigram(), pad_token="<pad>", mask_token="<mask>")
    before.save_pretrained(tmp_path)
    after = Tokenizer.from_pretrained(tmp_path)
    assert after("the cat zoo") == before("the cat zoo")
    assert (after.pad_id, after.mask_id) == (1, before.mask_id)
    assert not (tmp_path / "vocab.txt").exists()  # it would be read as WordPiece's


class Own:
    def normalize(self, text):
        text.lowercase()


@pytest.mark.parametrize("there", [True, False])
def test_an_encoder_is_saved_whole_or_not_at_all(tmp_path, there):
    encoder = SentenceEncoder(widen(Bert(TINY)), Tokenizer(wordpiece()))
    target = tmp_path / "model"
    if there:
        encoder.save_pretrained(target)
        (target / "notes.md").write_text("precious")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    broken = SentenceEncoder(widen(Bert(TINY), 1), Tokenizer(wordpiece()))
    broken.tokenizer._backend.normalizer = normalizers.Normalizer.custom(Own())
    with pytest.raises(CheckpointError, match="the tokenizer can't be written"):
        broken.save_pretrained(target)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    encoder.save_pretrained(target)
    assert np.array_equal(SentenceEncoder.from_pretrained(target).encode("the cat"), encoder.encode("the cat"))
    assert (target / "notes.md").exists() == there


def test_what_a_loader_would_read_of_the_model_before_goes(tmp_path):
    write_json(tmp_path, "added_tokens.json", {"<old>": 18})
    write_json(tmp_path, "adapter_config.json", {})
    SentenceEncoder(Bert(TINY), Tokenizer(wordpiece())).save_pretrained(tmp_path)
    assert not [name for name in ("added_tokens.json", "adapter_config.json") if (tmp_path / name).exists()]


@pytest.mark.parametrize("count", range(1, 8))
def test_a_move_that_fails_is_undone(tmp_path, monkeypatch, count):
    for name in ("a", "b", "gone"):
        (tmp_path / name).write_text("old")
    moves = []

    def fails(source, target, move=os.replace):
        moves.append(target)
        if len(moves) == count:
            raise OSError("the disk is gone")
        move(source, target)

    def save():
        with replacing_all(tmp_path, stale=["gone", "absent"]) as new:
            for name in ("a", "b", "c"):
                (new / name).write_text("new")

    with monkeypatch.context() as failing:
        failing.setattr(os, "replace", fails)
        with pytest.raises(OSError, match="the disk is gone"):
            save()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(("a", "b", "gone"), "old")
    save()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys("abc", "new")


def test_a_folder_in_a_folder_that_is_not_there_is_made(tmp_path):
    with replacing_all(tmp_path / "x/y") as new:
        (new / "file").write_text("new")
    assert [Path(path).name for path in (tmp_path / "x/y").iterdir()] == ["file"]
