"""Text -> ids: from tokenizer.json and from vocab.txt, the published cases, padding, truncation and its account."""

import copy
import json
import pickle
import re
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from helpers import MINILM
from tiny_folder import SPECIAL, VOCABULARY, write_json, write_vocabulary

from minibert import ConfigError, HubError, Tokenizer
from minibert.call import as_list
from minibert.tokenizer import Batch
from minibert.truncation import TooLongError, TruncationReport

CASES = json.loads((Path(__file__).parent / "fixtures/tokenizer/bert_reference_cases.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def minilm():
    return Tokenizer.from_pretrained(MINILM)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = write_vocabulary(tmp_path_factory.mktemp("tiny"), config={"do_lower_case": True})
    return Tokenizer.from_pretrained(folder)


def build(folder, pieces=VOCABULARY, config=None, files=()):
    """The tokenizer of a folder without tokenizer.json; `files` are further JSON files by their names."""
    write_vocabulary(folder, pieces, config)
    for name, values in dict(files).items():
        write_json(folder, name, values)
    return Tokenizer.from_pretrained(folder)


def with_special(*pieces):
    return [*SPECIAL, *dict.fromkeys(piece for piece in pieces if piece not in SPECIAL)]


def pieces_of(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


# --- Published cases


@pytest.mark.parametrize("case", CASES["basic"], ids=lambda case: ascii(case["text"]))
def test_published_basic_cases(tmp_path, case):
    config = {"do_lower_case": case["lowercase"], "strip_accents": case["strip_accents"]}
    assert build(tmp_path, with_special(*case["tokens"]), config).tokenize(case["text"]) == case["tokens"]


@pytest.mark.parametrize("case", CASES["wordpiece"]["cases"], ids=lambda case: case["text"])
def test_published_wordpiece_cases(tmp_path, case):
    tokenizer = build(tmp_path, [*CASES["wordpiece"]["vocab"], "[PAD]"], {"do_lower_case": False})
    assert tokenizer.tokenize(case["text"]) == case["tokens"]


@pytest.mark.parametrize("case", CASES["full"], ids=lambda case: ascii(case["text"]))
def test_published_full_cases(tmp_path, case):
    config = {"do_lower_case": case["text"] != "Test", "tokenize_chinese_chars": case.get("handle_chinese_chars", True)}
    tokenizer = build(tmp_path, list(dict.fromkeys([*case["vocab"], "[PAD]"])), config)
    assert tokenizer.tokenize(case["text"]) == case["tokens"]
    if "ids" in case:
        assert tokenizer(case["text"])["input_ids"][1:-1] == case["ids"]


@pytest.mark.parametrize("kind", ["whitespace", "control", "punctuation"])
def test_published_kinds_of_characters(tmp_path, kind):
    """Whitespace cuts a word in two, a control character vanishes from it, punctuation is a word of its own."""
    for expected in (True, False):
        for character in CASES[kind][str(expected).lower()]:
            tokenizer = build(tmp_path, with_special("a", "b", "ab", character, f"a{character}b"), {})
            found = tokenizer.tokenize(f"a{character}b")
            wanted = {"whitespace": ["a", "b"], "control": ["ab"], "punctuation": ["a", character, "b"]}[kind]
            assert (found == wanted) is expected, ascii(character)


@pytest.mark.parametrize("case", CASES["normalizer"], ids=lambda case: ascii(case["text"]))
def test_published_normalizer_cases(tmp_path, case):
    words = case["out"].split()
    config = {
        "strip_accents": case["strip_accents"],
        "do_lower_case": case["lowercase"],
        "tokenize_chinese_chars": case["handle_chinese_chars"],
    }
    assert build(tmp_path, with_special(*words), config).tokenize(case["text"]) == words


@pytest.mark.parametrize("case", CASES["pre_tokenizer"], ids=lambda case: case["text"])
def test_published_pre_tokenizer_cases(tmp_path, case):
    words = [word for word, _ in case["splits"]]
    assert build(tmp_path, with_special(*words), {"do_lower_case": False}).tokenize(case["text"]) == words


def test_published_ids_of_bert_base_uncased(minilm):
    """MiniLM has the same vocabulary."""
    ids, pieces = CASES["bert_base_uncased"]
    batch = minilm(ids["text"], ids["pair"])
    assert batch["input_ids"] == ids["ids"]
    assert batch["token_type_ids"] == ids["type_ids"]
    assert pieces_of(minilm, pieces["text"]) == pieces["tokens"]


# --- From the files


def test_tokenizer_json_is_used_as_it_is(tmp_path):
    """Not rebuilt from its vocabulary: a rule that no BERT has stays in force."""
    backend = build(tmp_path, config={"do_lower_case": True})._backend
    backend.normalizer = tokenizers.normalizers.Replace("dog", "cat")
    backend.save(str(tmp_path / "tokenizer.json"))
    write_json(tmp_path, "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertJapaneseTokenizer"})
    assert Tokenizer.from_pretrained(tmp_path).tokenize("the dog") == ["the", "cat"]


def test_truncation_and_padding_baked_into_tokenizer_json_do_not_leak():
    """MiniLM's was saved with a cut at 128 tokens and padding to as many."""
    baked = tokenizers.Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    assert (baked.truncation["max_length"], baked.padding["length"]) == (128, 128)
    tokenizer = Tokenizer.from_pretrained(MINILM)
    assert len(tokenizer("hello")["input_ids"]) == 3
    assert len(tokenizer("hello " * 200)["input_ids"]) == 202


def test_built_from_vocab_txt_it_gives_the_ids_of_tokenizer_json(tmp_path, minilm):
    config = json.loads((MINILM / "tokenizer_config.json").read_text())
    built = build(tmp_path, (MINILM / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1], config)
    texts = ["Hello, World!", "naïve café", "你好 ok", "a [MASK] b", "unaffable\t😀 \u200d x", ""]
    assert built(texts)["input_ids"] == minilm(texts)["input_ids"]
    assert len(built) == len(minilm) == 30522
    assert built.highest_id == 30521


@pytest.mark.parametrize(
    ("config", "pieces"),
    [
        ({"do_lower_case": True}, ["[UNK]", "cat", "cafe"]),
        ({"do_lower_case": True, "strip_accents": None}, ["[UNK]", "cat", "cafe"]),
        ({"do_lower_case": True, "strip_accents": True}, ["[UNK]", "cat", "cafe"]),
        ({"do_lower_case": True, "strip_accents": False}, ["[UNK]", "cat", "café"]),
        ({"do_lower_case": False}, ["The", "Cat", "café"]),
        ({"do_lower_case": False, "strip_accents": None}, ["The", "Cat", "café"]),
        ({"do_lower_case": False, "strip_accents": False}, ["The", "Cat", "café"]),
        ({"do_lower_case": False, "strip_accents": True}, ["The", "Cat", "cafe"]),
    ],
)
def test_case_and_accents_follow_the_flags(tmp_path, config, pieces):
    tokenizer = build(tmp_path, with_special("The", "Cat", "cat", "café", "cafe"), config)
    assert tokenizer.tokenize("The Cat café") == pieces


@pytest.mark.parametrize(
    ("flag", "pieces"), [(True, ["a", "你", "好", "b"]), (None, ["a", "你", "好", "b"]), (False, ["a你好b"])]
)
def test_chinese_characters_are_words_unless_the_flag_says_no(tmp_path, flag, pieces):
    tokenizer = build(tmp_path, with_special("a", "b", "你", "好", "a你好b"), {"tokenize_chinese_chars": flag})
    assert tokenizer.tokenize("a你好b") == pieces


@pytest.mark.parametrize(
    ("words", "piece"),
    [(["the", "cat"], "cat"), (["The", "Cat", "cat"], "Cat"), ([*map(str, range(500)), "Cat", "cat"], "cat")],
)
def test_without_any_flag_capitals_in_the_vocabulary_decide(tmp_path, words, piece):
    """Google's folders have no flag. A stray capital, below one word in a hundred, makes no vocabulary cased."""
    write_json(tmp_path, "bert_config.json", {"max_position_embeddings": 40})
    assert build(tmp_path, with_special(*words)).tokenize("Cat") == [piece]


def test_a_flag_in_config_json_counts_where_there_is_no_other(tmp_path):
    assert build(tmp_path, config={}).tokenize("Cat") == ["Cat"]
    write_json(tmp_path, "config.json", {"do_lower_case": True})
    assert Tokenizer.from_pretrained(tmp_path).tokenize("Cat") == ["cat"]


@pytest.mark.parametrize("as_object", [False, True])
def test_other_special_tokens(tmp_path, as_object):
    names = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
    flags = {"__type": "AddedToken", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    config = {f"{name}_token": {**flags, "content": piece} if as_object else piece for name, piece in names.items()}
    tokenizer = build(tmp_path, [*names.values(), "a", "b"], {**config, "do_lower_case": True})
    batch = tokenizer(["a <mask> b", "x"], padding=True)
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0]) == ["<s>", "a", "<mask>", "b", "</s>"]
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][1]) == ["<s>", "<unk>", "</s>", "<pad>", "<pad>"]


def test_added_tokens_have_the_ids_that_the_file_says(tmp_path):
    """Ten of them, so that their ids grow by a digit: 99 before 100."""
    added = {f"new{i}": 99 + i for i in range(10)}
    tokenizer = build(tmp_path, config={"do_lower_case": True}, files={"added_tokens.json": added})
    assert tokenizer("new0 NEW9")["input_ids"][1:-1] == [99, 108]
    assert tokenizer.highest_id == 108


def test_added_tokens_with_flags_keep_them(tmp_path):
    """As slow tokenizers of transformers 4.34 and later were saved: special ones are matched letter by letter."""
    decoder = {
        "99": {
            "content": "[NEW]",
            "special": True,
            "normalized": False,
            "lstrip": False,
            "rstrip": False,
            "single_word": False,
        },
        "100": {
            "content": "dogs",
            "special": False,
            "normalized": True,
            "lstrip": False,
            "rstrip": False,
            "single_word": True,
        },
    }
    config = {"do_lower_case": True, "added_tokens_decoder": decoder}
    tokenizer = build(tmp_path, config=config, files={"added_tokens.json": {"[NEW]": 99, "dogs": 100}})
    assert tokenizer("[NEW] DOGS")["input_ids"][1:-1] == [99, 100]
    assert 99 not in tokenizer("[new]")["input_ids"]
    assert 100 not in tokenizer("adogs")["input_ids"]


def test_lines_of_windows_make_the_same_vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("".join(f"{piece}\r\n" for piece in VOCABULARY).encode())
    write_json(tmp_path, "tokenizer_config.json", {"do_lower_case": True})
    assert Tokenizer.from_pretrained(tmp_path).tokenize("the cat") == ["the", "cat"]


@pytest.mark.parametrize(
    ("config", "model", "length"),
    [
        ({"model_max_length": 30}, "config.json", 30),
        ({"model_max_length": 50}, "config.json", 40),
        ({"model_max_length": 10**30}, "config.json", 40),
        ({}, "bert_config.json", 40),
        ({"model_max_length": 10**30}, "else.json", None),
    ],
)
def test_the_longest_text_is_the_least_of_what_the_files_say(tmp_path, config, model, length):
    tokenizer = build(tmp_path, config=config, files={model: {"max_position_embeddings": 40}})
    assert tokenizer.max_length == length


def test_sides_come_from_the_files(tmp_path):
    tokenizer = build(tmp_path, config={"padding_side": "left", "truncation_side": "left"})
    assert (tokenizer.padding_side, tokenizer.truncation_side) == ("left", "left")


# --- Files that will not do


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer"),
        ({"never_split": ["a"]}, "never_split"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize"),
        ({"strip_accents": "no"}, "strip_accents"),
        ({"do_lower_case": "no"}, "do_lower_case"),
        ({"cls_token": 7}, "cls_token"),
        ({"cls_token": "<s>"}, "<s>"),
        ({"added_tokens_decoder": {"x": {"content": "new"}}}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"99": "new"}}, "added_tokens_decoder"),
    ],
)
def test_what_it_can_not_build_from_vocab_txt_is_refused_by_name(tmp_path, config, word):
    with pytest.raises(ConfigError, match=word) as caught:
        build(tmp_path, config=config)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("missing", ["[UNK]", "[PAD]", "[CLS]", "[SEP]"])
def test_a_vocabulary_without_a_special_token_is_refused(tmp_path, missing):
    with pytest.raises(ConfigError, match=rf"vocab\.txt.*\[{missing[1:-1]}\]"):
        build(tmp_path, [piece for piece in VOCABULARY if piece != missing])


def test_a_vocabulary_without_mask_will_do(tmp_path):
    assert build(tmp_path, [piece for piece in VOCABULARY if piece != "[MASK]"]).tokenize("cat") == ["cat"]


def test_an_added_token_that_can_not_have_its_id_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"'new'.*100"):
        build(tmp_path, files={"added_tokens.json": {"new": 100}})


DAMAGED = {
    "no JSON": ("tokenizer.json", b"{"),
    "JSON of something else": ("tokenizer.json", b'{"a": 1}'),
    "an empty tokenizer.json": ("tokenizer.json", b""),
    "a tokenizer.json that is not UTF-8": ("tokenizer.json", b'{"\xff": 1}'),
    "a vocabulary that is not UTF-8": ("vocab.txt", b"[PAD]\n[UNK]\n\xff\xfe\n"),
    "an empty vocabulary": ("vocab.txt", b""),
    "no JSON in the config": ("tokenizer_config.json", b"{"),
    "a list for a config": ("tokenizer_config.json", b"[]"),
    "a list of added tokens": ("added_tokens.json", b"[]"),
    "an id that is no number": ("added_tokens.json", b'{"new": "x"}'),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_file_is_named(tmp_path, what):
    file, content = DAMAGED[what]
    write_vocabulary(tmp_path, config={})
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ConfigError, match=file.replace(".", r"\.")):
        Tokenizer.from_pretrained(tmp_path)


def test_a_folder_without_vocabulary_says_which_files_it_lacks(tmp_path):
    with pytest.raises(HubError, match=r"tokenizer\.json nor vocab\.txt"):
        Tokenizer.from_pretrained(tmp_path)


def test_an_unknown_side_is_refused(tmp_path):
    with pytest.raises(ValueError, match="padding_side must be left or right"):
        build(tmp_path, config={"padding_side": "up"})


# --- The call: shapes and padding


def ids(tokenizer, text):
    return [VOCABULARY.index(piece) for piece in tokenizer.tokenize(text)]


def test_one_string_gives_plain_lists(tiny):
    assert tiny("the cat") == {
        "input_ids": [2, *ids(tiny, "the cat"), 3],
        "token_type_ids": [0] * 4,
        "attention_mask": [1] * 4,
    }


def test_a_list_gives_lists_of_lists_without_padding(tiny):
    batch = tiny(["the cat", "dog", ""])
    assert batch["input_ids"] == [[2, *ids(tiny, "the cat"), 3], [2, *ids(tiny, "dog"), 3], [2, 3]]
    assert batch["attention_mask"] == [[1] * 4, [1] * 3, [1] * 2]


def test_the_second_of_a_pair_is_of_type_1(tiny):
    batch = tiny("the cat", "dog")
    assert tiny.convert_ids_to_tokens(batch["input_ids"]) == ["[CLS]", "the", "cat", "[SEP]", "dog", "[SEP]"]
    assert batch["token_type_ids"] == [0, 0, 0, 0, 1, 1]


def test_pairs_in_lists_go_by_their_places(tiny):
    batch = tiny(["the", "cat"], ["dog", "mat"])
    assert [tiny.decode(row) for row in batch["input_ids"]] == [
        "[CLS] the [SEP] dog [SEP]",
        "[CLS] cat [SEP] mat [SEP]",
    ]


@pytest.mark.parametrize("padding", [True, "longest"])
def test_padding_to_the_longest(tiny, padding):
    batch = tiny(["the cat", "dog"], padding=padding)
    assert batch["input_ids"][1][3:] == [0]
    assert batch["attention_mask"] == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_padding_to_max_length(tiny):
    batch = tiny(["the cat", "dog"], padding="max_length", max_length=6)
    assert batch["attention_mask"] == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]]


def test_padding_to_a_max_length_that_nobody_knows_is_refused(tiny):
    with pytest.raises(ValueError, match="needs a max_length"):
        tiny("the cat", padding="max_length")


def test_padding_is_on_the_right_even_if_the_file_says_left(tmp_path):
    """BERT counts positions from the left: padding there would move them, and [PAD] would be where [CLS] belongs."""
    tokenizer = build(tmp_path, config={"padding_side": "left"})
    batch = tokenizer(["the cat", "dog"], padding=True)
    assert batch["attention_mask"] == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert "padding_side left has no effect" in tokenizer.notes[-1]


@pytest.mark.parametrize(("kind", "type_"), [("pt", torch.Tensor), ("np", np.ndarray)])
def test_tensors_are_int64_of_one_shape(tiny, kind, type_):
    batch = tiny(["the cat", "dog"], padding=True, return_tensors=kind)
    assert list(batch) == ["input_ids", "token_type_ids", "attention_mask"]
    for values in batch.values():
        assert isinstance(values, type_)
        assert tuple(values.shape) == (2, 4)
        assert values.dtype in (torch.int64, np.int64)
    assert batch["input_ids"].tolist() == tiny(["the cat", "dog"], padding=True)["input_ids"]


def test_one_string_as_a_tensor_is_a_batch_of_one(tiny):
    assert tiny("the cat", return_tensors="pt")["input_ids"].shape == (1, 4)


def test_texts_of_different_lengths_make_no_tensor_without_padding(tiny):
    with pytest.raises(ValueError, match="padding=True"):
        tiny(["the cat", "dog"], return_tensors="pt")


@pytest.mark.parametrize("kind", ["pt", "np", None])
@pytest.mark.parametrize("padding", [True, False])
def test_an_empty_list_gives_an_empty_batch(tiny, kind, padding):
    batch = tiny([], padding=padding, return_tensors=kind)
    assert [len(values) for values in batch.values()] == [0, 0, 0]


def test_the_empty_string_is_two_special_tokens(tiny):
    assert tiny("")["input_ids"] == [2, 3]
    assert tiny("", "")["input_ids"] == [2, 3, 3]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"padding": "left"}, "padding"),
        ({"return_tensors": "tf"}, "return_tensors"),
        ({"truncation": "longest_first"}, "truncation"),
    ],
)
def test_an_unknown_value_is_refused_by_the_name_of_its_keyword(tiny, options, word):
    with pytest.raises(ValueError, match=word):
        tiny("the cat", **options)


def test_batch_to_moves_every_tensor_and_keeps_the_account(tiny):
    batch = tiny(["the cat", "dog dog"], padding=True, truncation="report", max_length=3, return_tensors="pt")
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    assert [tensor.device.type for tensor in moved.values()] == ["meta"] * 3
    assert [tensor.device.type for tensor in batch.values()] == ["cpu"] * 3
    assert moved.truncation == batch.truncation == TruncationReport(3, {0: 1, 1: 1})


def test_tokenize_and_decode_go_there_and_back(tiny):
    assert tiny.tokenize("cats") == ["cat", "##s"]
    assert tiny.decode(tiny("the cats")["input_ids"], skip_special_tokens=True) == "the cats"


def test_an_unknown_id_has_no_token(tiny):
    for unknown in (99, -1, 2**40):
        with pytest.raises(ValueError, match=f"99 tokens has no id {unknown}"):
            tiny.convert_ids_to_tokens([unknown])
    for unknown in (-1, 2**40):
        with pytest.raises(ValueError, match=f"99 tokens has no id {unknown}"):
            tiny.decode([5, unknown])


# --- Truncation

SENTENCE = "the cat sat on the mat"  # six tokens


@pytest.mark.parametrize("mode", [True, "warn"])
def test_one_warning_a_call_says_how_many_texts_and_tokens(tiny, mode):
    with pytest.warns(UserWarning, match="texts longer than") as caught:
        tiny([SENTENCE, "dog", SENTENCE + " dog"], truncation=mode, max_length=5)
    (warning,) = caught
    assert "longer than 5 tokens: 2;" in str(warning.message)
    assert "cut off at their ends: 7 " in str(warning.message)
    assert warning.filename == __file__


def test_error_refuses_and_says_which_text(tiny):
    with pytest.raises(TooLongError, match=r"longer than 5 tokens: 1.*text 1, 3 tokens too long") as caught:
        tiny(["dog", SENTENCE], truncation="error", max_length=5)
    assert caught.value.report == TruncationReport(5, {1: 3})


def test_the_error_gets_whole_out_of_another_process():
    error = TooLongError(TruncationReport(5, {1: 3}))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.report) == (str(error), error.report)


@pytest.mark.parametrize("mode", ["report", "silent"])
def test_report_and_silent_cut_without_a_word(tiny, mode):
    batch = tiny([SENTENCE, "dog"], truncation=mode, max_length=5)
    assert tiny.decode(batch["input_ids"][0]) == "[CLS] the cat sat [SEP]"
    assert batch.truncation == TruncationReport(5, {0: 3})


@pytest.mark.parametrize("mode", ["warn", "error", "report"])
def test_what_fits_is_no_news(tiny, mode):
    batch = tiny([SENTENCE], truncation=mode, max_length=8)
    assert batch.truncation.lost == {}


def test_nothing_is_cut_unless_asked_for(tiny):
    batch = tiny(SENTENCE * 20, max_length=5)
    assert len(batch["input_ids"]) > 100
    assert batch.truncation == TruncationReport(None, {})


def test_without_max_length_the_cut_is_where_the_model_ends(tmp_path):
    tokenizer = build(tmp_path, config={"do_lower_case": True, "model_max_length": 5})
    with pytest.warns(UserWarning, match="longer than 5 tokens"):
        assert len(tokenizer(SENTENCE, truncation=True)["input_ids"]) == 5


def cut_by_the_library(tokenizer, text, pair, length):
    """Ids and types as `tokenizers` itself cuts, and how many tokens were lost, by comparison with nothing cut."""
    reference = tokenizers.Tokenizer.from_str(tokenizer._backend.to_str())
    whole = reference.encode(text, pair)
    reference.enable_truncation(length, direction=tokenizer.truncation_side)
    cut = reference.encode(text, pair)
    return cut.ids, cut.type_ids, len(whole) - len(cut)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("length", [3, 4, 7, 64, 200])
def test_what_is_left_and_what_is_lost_are_exact(minilm, side, length):
    tokenizer = copy.deepcopy(minilm)
    tokenizer.truncation_side = side
    texts = [" ".join(map(str, range(count))) for count in (0, 1, 2, 3, 15, 62, 63, 200)]
    batch = tokenizer(texts, truncation="report", max_length=length)
    expected = [cut_by_the_library(tokenizer, text, None, length) for text in texts]
    assert batch["input_ids"] == [ids for ids, _, _ in expected]
    lost = {i: lost for i, (_, _, lost) in enumerate(expected) if lost}
    assert batch.truncation == TruncationReport(length, lost)
    assert (batch.truncation.texts, batch.truncation.tokens) == (len(lost), sum(lost.values()))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("sizes", [(9, 2), (2, 9), (9, 9), (5, 6), (0, 9), (9, 0), (3, 3)])
def test_of_a_pair_the_longer_text_is_cut_first(tiny, side, sizes):
    tokenizer = copy.deepcopy(tiny)
    tokenizer.truncation_side = side
    first, second = " ".join("abcdefghi"[: sizes[0]]), " ".join("rstuvwxyz"[: sizes[1]])
    for length in range(4, 24):
        batch = tokenizer(first, second, truncation="report", max_length=length)
        ids, types, lost = cut_by_the_library(tokenizer, first, second, length)
        assert (batch["input_ids"], batch["token_type_ids"]) == (ids, types)
        assert batch.truncation.lost == ({0: lost} if lost else {})


def test_special_tokens_spelt_in_the_text_are_cut_like_any_other(tiny):
    batch = tiny("the [SEP] cat [CLS] sat", truncation="report", max_length=5)
    assert tiny.convert_ids_to_tokens(batch["input_ids"]) == ["[CLS]", "the", "[SEP]", "cat", "[SEP]"]
    assert batch.truncation.lost == {0: 2}


def test_two_long_texts_are_cut_in_no_time(minilm):
    """The library's own way of cutting would take gigabytes for these."""
    began = time.monotonic()
    batch = minilm("one " * 20000, "two " * 20000, truncation="report", max_length=16)
    assert batch.truncation.lost == {0: 40003 - 16}
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(("length", "pair", "fewest"), [(0, None, 3), (2, None, 3), (-1, None, 3), (3, "dog", 4)])
def test_a_length_without_room_for_text_is_refused(tiny, length, pair, fewest):
    with pytest.raises(ValueError, match=f"at least {fewest}.*but is {length}"):
        tiny("the cat", pair, truncation=True, max_length=length)


# --- Texts that are none


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["a", None], "text 1 is None"),
        (["a", "b", 7], "text 2 is of type int"),
        ([b"a"], "text 0 is of type bytes"),
        (["a", ["b"]], "text 1 is of type list"),
        ([("a", "b")], "text 0 is of type tuple"),
        (None, "not NoneType"),
        (7, "not int"),
        (b"a", "not bytes"),
        ({"a"}, "not set"),
    ],
)
def test_what_is_no_text_is_refused_with_its_index(tiny, texts, words):
    with pytest.raises(TypeError, match=words):
        tiny(texts)
    if texts is not None:  # as the second text that means: there is none
        with pytest.raises(TypeError, match=re.sub(r"text (\d)", r"the second text of pair \1", words)):
            tiny(["a"], texts)


def test_texts_and_second_texts_must_be_as_many(tiny):
    with pytest.raises(ValueError, match="2 texts, but 1 second"):
        tiny(["a", "b"], ["c"])


def test_half_a_surrogate_pair_is_refused_with_its_place(tiny):
    with pytest.raises(ValueError, match="text 1 is not valid Unicode: surrogates not allowed at character 2"):
        tiny(["fine", "ab\ud800"])


def test_control_characters_vanish_and_strange_spaces_are_spaces(tiny):
    assert tiny.tokenize("the\x00 ca\x07t\u200b\ufeff\x7f") == ["the", "cat"]
    assert tiny.tokenize("the\tcat\r\ndog\u00a0sat\u3000on\u2028mat") == ["the", "cat", "dog", "sat", "on", "mat"]


@pytest.mark.parametrize(
    "text", ["a" * 200_000, "a " * 100_000, "你" * 200_000, "e\u0301" * 100_000, "." * 200_000, "\n" * 200_000]
)
def test_200_000_characters_are_no_matter(minilm, text):
    began = time.monotonic()
    batch = minilm(text, truncation="report", max_length=128)
    assert len(batch["input_ids"]) <= 128
    assert time.monotonic() - began < 20


# --- One tokenizer, many users


def test_two_threads_with_different_lengths_do_not_meet(minilm):
    text = "embeddings " * 60
    alone = {length: minilm([text] * 20, truncation="silent", max_length=length) for length in (8, 50, 120)}
    with ThreadPoolExecutor(6) as pool:
        lengths = [8, 50, 120] * 40
        results = pool.map(lambda length: minilm([text] * 20, truncation="silent", max_length=length), lengths)
        for length, batch in zip(lengths, results, strict=True):
            assert batch == alone[length]
            assert batch.truncation == alone[length].truncation


def test_many_texts_are_tokenised_in_pieces_and_stay_in_order(tiny, monkeypatch):
    texts = [f"{a} {b}" for a in "abcdef" for b in ("the", "cats", "")]
    whole, pairs = tiny(texts), tiny(texts, texts[::-1], truncation="report", max_length=8)
    monkeypatch.setattr("minibert.tokenizer.CHUNK", 4)
    assert tiny(texts) == whole
    again = tiny(texts, texts[::-1], truncation="report", max_length=8)
    assert (again, again.truncation) == (pairs, pairs.truncation)


def test_lengths_are_counted_once(tiny):
    """Every batch asks for them; counted anew each time, a million texts would take a thousand times longer."""
    tokens = tiny.encode(["the cat", "dog"])
    assert tokens.lengths is tokens.lengths
    assert tokens.lengths.tolist() == [4, 3]


def test_copies_and_pickles_give_the_same_ids(minilm):
    for again in (copy.deepcopy(minilm), pickle.loads(pickle.dumps(minilm))):
        assert again("Some naïve text", "and another") == minilm("Some naïve text", "and another")
        assert (again.max_length, again.padding_side) == (minilm.max_length, minilm.padding_side)


# --- Saving

KINDS = {
    "as usual": {"do_lower_case": True},
    "cased": {"do_lower_case": False},
    "accents kept": {"do_lower_case": True, "strip_accents": False},
    "Chinese whole": {"do_lower_case": True, "tokenize_chinese_chars": False},
    "on the left": {"do_lower_case": True, "padding_side": "left", "truncation_side": "left"},
    "short": {"do_lower_case": True, "model_max_length": 7},
}


@pytest.mark.parametrize("without", [None, "tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_loads_to_the_same_tokenizer(tmp_path, kind, without):
    """And from either of the two files alone."""
    before = build(tmp_path / "a", [*VOCABULARY, "é", "##é"], KINDS[kind])
    before.save_pretrained(tmp_path / "b")
    if without:
        (tmp_path / "b" / without).unlink()
    after = Tokenizer.from_pretrained(tmp_path / "b")
    texts = ["The Cat", "é cé e", "the 你 dog", "a [MASK] b", ""]
    options = {"padding": True, "truncation": "report", "max_length": 6}
    assert after(texts, texts[::-1], **options) == before(texts, texts[::-1], **options)
    for name in ("max_length", "padding_side", "truncation_side", "pad_id"):
        assert getattr(after, name) == getattr(before, name)


def test_vocab_txt_is_saved_as_it_was_read(tmp_path):
    build(tmp_path / "a", [*VOCABULARY, "é"]).save_pretrained(tmp_path / "b")
    assert (tmp_path / "b/vocab.txt").read_bytes() == (tmp_path / "a/vocab.txt").read_bytes()


def test_added_tokens_are_saved(tmp_path):
    build(tmp_path / "a", config={"do_lower_case": True}, files={"added_tokens.json": {"newword": 99}}).save_pretrained(
        tmp_path / "b"
    )
    assert Tokenizer.from_pretrained(tmp_path / "b")("Newword")["input_ids"] == [2, 99, 3]


def test_nothing_warns_by_itself(minilm):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        minilm(["a", "b c"], padding=True, truncation=True, return_tensors="pt")


def test_a_template_that_repeats_a_text_can_not_be_cut(tmp_path):
    tokenizer = Tokenizer.from_pretrained(write_vocabulary(tmp_path, config={"do_lower_case": True}))
    backend = json.loads(tokenizer._backend.to_str())
    pair = backend["post_processor"]["pair"] = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}]
    pair += [{"Sequence": {"id": "A", "type_id": 0}}] * 2  # the library's own constructor would refuse it
    twice = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(backend)))
    with pytest.raises(ValueError, match="a text has 11 tokens that its template adds, above the limit of 9"):
        twice.encode(["the cat " * 5], ["the"], limit=9)


def test_what_many_texts_have_in_common_takes_no_memory(minilm):
    tokens = minilm.encode(["one", "two three"] * 5000)
    assert tokens.types.strides == (0,)  # one 0 for all
    assert (tokens.types.shape, tokens.types.dtype, tokens.starts.dtype) == (tokens.ids.shape, np.int8, np.int64)
    assert tokens.starts.base is not None  # not a copy
    texts = ["one"]
    assert as_list(texts) is texts
