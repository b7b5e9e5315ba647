"""The same ids as transformers' AutoTokenizer on whatever text; and the model card's two snippets, word for word."""

import json
import shutil
import unicodedata
from pathlib import Path
from string import ascii_uppercase

import numpy as np
import pytest
import tokenizers
import torch
from helpers import MINILM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_folder import write_json, write_vocabulary
from transformers import AutoTokenizer

from minibert import Tokenizer
from minibert.checkpoint.hub import open_files

UNCASED = (MINILM / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
# Letters that an uncased vocabulary has no use for, so that what becomes of them shows.
LETTERS = [*ascii_uppercase, *"ÀÉÖéöàçñßİı"]
CASED = list(dict.fromkeys([*UNCASED, *LETTERS, *(f"##{letter}" for letter in LETTERS)]))
NAUGHTY = json.loads((Path(__file__).parents[1] / "fixtures/tokenizer/blns.json").read_text(encoding="utf-8"))

TEXTS = [
    "",
    " ",
    "Hello, World! 12,5% of $3.50 (isn't it?)",
    "unaffable electroencephalographically",
    "naïve Café ÀÉÖ àéö ñ ç",
    unicodedata.normalize("NFD", "naïve Café ÀÉÖ àéö ñ ç"),
    "Straße ẞ İstanbul ıI ŉ ﬁ ΑΣ ας",
    "漢字と仮名 カタカナ 你好,world 𠀀𠀁 한국어",
    "😀👩‍👩‍👧‍👦 👍🏽 🇫🇷 ❤️",
    "a\x00b\x07c\x7f\x80 d\u200be\ufefff\ufffdg\u00adh",
    "tab\tnew\nline\r\nreturn\rvertical\x0bform\x0c nbsp\u00a0em\u2003line\u2028para\u2029ideo\u3000end",
    "مرحبا بالعالم שלום עולם \u202eright to left\u202c",
    "ไทย हिन्दी ગુજરાતી தமிழ்",
    "a [MASK] b [SEP] [CLS][PAD] [UNK] [mask] [ MASK ]",
    "³½Ⅷ①ａＢ１ ™ ∑∫≠",
    "-_'\"`~^|\\<>{}[]@#&*+=/…–—“”‘’«»。、・",
    "x" * 100 + " " + "x" * 101,
    "word " * 1000,
    "supercalifragilistic" * 50,
]


@pytest.fixture(scope="module")
def both():
    return Tokenizer.from_pretrained(MINILM), AutoTokenizer.from_pretrained(MINILM)


def assert_same(both, *texts, **options):
    """Ids, types and mask, number for number."""
    ours, theirs = both
    found, expected = ours(*texts, **options), theirs(*texts, **options)
    assert found.keys() == expected.keys() == {"input_ids", "token_type_ids", "attention_mask"}
    for name, values in expected.items():
        values = values.tolist() if isinstance(values, (torch.Tensor, np.ndarray)) else values
        mine = found[name].tolist() if isinstance(found[name], (torch.Tensor, np.ndarray)) else found[name]
        assert mine == values, name


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:20]))
def test_one_text(both, text):
    assert_same(both, text)
    assert both[0].tokenize(text) == both[1].tokenize(text)


def test_the_naughty_strings(both):
    assert len(NAUGHTY) == 515
    assert_same(both, NAUGHTY)
    assert_same(both, NAUGHTY, NAUGHTY[::-1])


@pytest.mark.parametrize("kind", ["pt", "np", None])
def test_padded_to_the_longest(both, kind):
    assert_same(both, TEXTS[:-2], padding=True, return_tensors=kind)


def test_padded_to_max_length(both):
    assert_same(both, TEXTS[:5], padding="max_length", max_length=60)


@pytest.mark.parametrize("first", TEXTS[:-3:4], ids=lambda text: ascii(text[:20]))
def test_pairs(both, first):
    seconds = TEXTS[:-2]
    assert_same(both, [first] * len(seconds), seconds)
    for second in seconds[1:]:  # as a single second text, transformers takes the empty one for none
        assert_same(both, first, second)


@pytest.mark.parametrize("length", range(8, 65, 7))
def test_truncated(both, length):
    ours, theirs = both
    found = ours(TEXTS, padding=True, truncation="silent", max_length=length)
    assert found == dict(theirs(TEXTS, padding=True, truncation=True, max_length=length))


@pytest.mark.parametrize("length", range(8, 65, 7))
def test_pairs_truncated(both, length):
    ours, theirs = both
    texts = [text[:400] for text in TEXTS]
    for pairs in (texts[::-1], texts[3:] + texts[:3]):
        found = ours(texts, pairs, truncation="silent", max_length=length)
        assert found == dict(theirs(texts, pairs, truncation=True, max_length=length))


def test_truncated_on_the_left(tmp_path):
    config = {"tokenizer_class": "BertTokenizer", "truncation_side": "left"}
    ours, theirs = open_both(tmp_path, config)
    texts = [text[:400] for text in TEXTS]
    for pairs in (None, texts[::-1]):
        found = ours(texts, pairs, padding=True, truncation="silent", max_length=11)
        assert found == dict(theirs(texts, pairs, padding=True, truncation=True, max_length=11))


@given(st.text(max_size=60), st.none() | st.text(max_size=20))
@settings(
    deadline=None, derandomize=True, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_at_all(both, text, pair):
    assert_same(both, [text], *([] if pair is None else [[pair]]))


# --- Without tokenizer.json: built from vocab.txt and flags


def open_both(folder, config, files=(), pieces=CASED):
    write_vocabulary(folder, pieces, config)
    write_json(folder, "config.json", {"model_type": "bert", "max_position_embeddings": 512})
    for name, values in dict(files).items():
        write_json(folder, name, values)
    return Tokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


BERT = {"tokenizer_class": "BertTokenizer"}
OTHERS = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
FLAGS = [
    {},
    {"do_lower_case": True},
    {"do_lower_case": False},
    {"do_lower_case": True, "strip_accents": False},
    {"do_lower_case": True, "strip_accents": True},
    {"do_lower_case": False, "strip_accents": False},
    {"do_lower_case": False, "strip_accents": True},
    {"do_lower_case": True, "tokenize_chinese_chars": False},
    {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False},
]


@pytest.mark.parametrize("flags", FLAGS, ids=json.dumps)
def test_built_from_vocab_txt(tmp_path, flags):
    assert_same(open_both(tmp_path, BERT | flags), [*TEXTS, *NAUGHTY[::5]])


def test_built_from_vocab_txt_alone(tmp_path):
    assert_same(open_both(tmp_path, None, pieces=UNCASED), [*TEXTS, *NAUGHTY[::5]])


@pytest.mark.parametrize("as_object", [False, True])
def test_built_with_other_special_tokens(tmp_path, as_object):
    flags = {"__type": "AddedToken", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    config = {name: {**flags, "content": piece} if as_object else piece for name, piece in OTHERS.items()}
    renamed = {f"[{name[:3].upper()}]": piece for name, piece in OTHERS.items()} | {"[MASK]": "<mask>"}
    both = open_both(tmp_path, BERT | config, pieces=[renamed.get(piece, piece) for piece in CASED])
    assert both[0].tokenize("<mask>") == ["<mask>"]
    assert_same(both, [*TEXTS, "a <mask> b </s>"], padding=True)


def test_built_with_added_tokens(tmp_path):
    """As transformers 4.34 and later saved slow tokenizers: the same tokens in two files, with flags in one of them."""
    plain = {"lstrip": False, "rstrip": False, "single_word": False}
    new = {"newword": (True, False), "Frobnitz": (True, False), "[NEW]": (False, True)}
    start = len(CASED)
    decoder = {
        str(i): {"content": piece, "normalized": normalized, "special": special, **plain}
        for i, (piece, (normalized, special)) in enumerate(new.items(), start)
    }
    files = {"added_tokens.json": {piece: i for i, piece in enumerate(new, start)}}
    both = open_both(tmp_path, BERT | {"do_lower_case": True, "added_tokens_decoder": decoder}, files)
    assert both[0]("newword")["input_ids"] == [101, start, 102]
    assert_same(both, ["a newword NEWWORD xnewwordy", "frobnitz Frobnitz", "[NEW] [new] a[NEW]b", *TEXTS])


# --- What we save


@pytest.mark.parametrize("flags", [*FLAGS, OTHERS], ids=json.dumps)
def test_transformers_loads_what_we_save_to_the_same_ids(tmp_path, flags):
    """Its BertTokenizer goes by the flags beside tokenizer.json, not by the rules in it."""
    renamed = {f"[{name[:3].upper()}]": piece for name, piece in OTHERS.items()} | {"[MASK]": "<mask>"}
    pieces = [renamed.get(piece, piece) for piece in CASED] if flags is OTHERS else CASED
    ours, _ = open_both(tmp_path / "a", BERT | flags, pieces=pieces)
    ours.save_pretrained(tmp_path / "b")
    shutil.copy(MINILM / "config.json", tmp_path / "b")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "b")
    assert_same((ours, theirs), [*TEXTS, *NAUGHTY[::20], "a <mask> [MASK] b"], padding=True)
    assert_same((ours, theirs), TEXTS[2], TEXTS[3])


def test_transformers_loads_control_characters_that_are_kept(tmp_path):
    """No flag tells of it, so the rules must be read from tokenizer.json."""
    ours, _ = open_both(tmp_path / "a", BERT | {"do_lower_case": False})
    ours._backend.normalizer = tokenizers.normalizers.BertNormalizer(clean_text=False, lowercase=False)
    ours.save_pretrained(tmp_path / "b")
    shutil.copy(MINILM / "config.json", tmp_path / "b")
    assert ours.tokenize("a\x07b") == ["[UNK]"]
    assert_same((ours, AutoTokenizer.from_pretrained(tmp_path / "b")), TEXTS, padding=True)


def test_transformers_loads_rules_that_no_flag_tells(tmp_path):
    """`do_lower_case` of sentence-transformers puts another step before BERT's own."""
    open_both(tmp_path / "a", BERT | {"do_lower_case": False})
    ours = Tokenizer.from_files(open_files(tmp_path / "a"), lowercase_first=True)
    ours.save_pretrained(tmp_path / "b")
    shutil.copy(MINILM / "config.json", tmp_path / "b")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "b")
    assert ours.tokenize("ÀÉ") == theirs.tokenize("ÀÉ") == ["à", "##é"]
    assert_same((ours, theirs), TEXTS, padding=True)
    assert_same((ours, theirs), TEXTS[2], TEXTS[3])


def unigram():
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    scores = [(piece, 0.0) for piece in special] + [(f"▁{word}", -2.0) for word in ("the", "cat")]
    scores += [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz"] + [("<mask>", 0.0)]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(scores, unk_id=3, byte_fallback=False))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.add_special_tokens([*special, "<mask>"])
    return Tokenizer(backend, pad_token="<pad>", mask_token="<mask>")


def template(single, pair):
    special = [("[CLS]", 101), ("[SEP]", 102)]
    return tokenizers.processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)


PARTS = {
    "no [SEP]": lambda b: setattr(b, "post_processor", template("[CLS] $A", "[CLS] $A $B:1")),
    "nothing around": lambda b: setattr(b, "post_processor", template("$A", "$A $B:1")),
    "types": lambda b: setattr(b, "post_processor", template("[CLS] $A:1 [SEP]:1", "[CLS]:1 $A:1 [SEP] $B [SEP]")),
    "long words": lambda b: setattr(b.model, "max_input_chars_per_word", 200),
    "a prefix": lambda b: setattr(b.model, "continuing_subword_prefix", "@@"),
    "other words": lambda b: setattr(b, "pre_tokenizer", tokenizers.pre_tokenizers.WhitespaceSplit()),
    "whole words": lambda b: setattr(b, "model", tokenizers.models.WordLevel(b.get_vocab(), unk_token="[UNK]")),
    "a word more": lambda b: b.add_tokens([tokenizers.AddedToken("newword", single_word=True)]),
}


@pytest.mark.parametrize("part", PARTS)
def test_transformers_loads_parts_that_no_flag_tells_to_the_same_ids(tmp_path, part):
    write_vocabulary(tmp_path / "a", UNCASED, BERT)
    ours = Tokenizer.from_pretrained(tmp_path / "a")
    PARTS[part](ours._backend)
    vars(ours).pop("_types", None)
    ours.save_pretrained(tmp_path / "b")
    write_json(tmp_path / "b", "config.json", {"model_type": "bert"})
    theirs = AutoTokenizer.from_pretrained(tmp_path / "b")
    assert_same((ours, theirs), [*TEXTS, "the newword"], padding=True)
    assert_same((ours, theirs), TEXTS[2], TEXTS[3])


def test_transformers_loads_unigram_to_the_same_ids(tmp_path):
    ours = unigram()
    ours.save_pretrained(tmp_path)
    write_json(tmp_path, "config.json", {"model_type": "bert"})
    assert_same((ours, AutoTokenizer.from_pretrained(tmp_path)), ["the cat", "zebra ü <mask> <pad>", ""], padding=True)


DECLARED = [
    {"tokenizer_config": {"additional_special_tokens": ["[unused5]"]}},
    {"tokenizer_config": {"extra_special_tokens": ["<new>"], "mask_token": "[unused7]"}},
    {"tokenizer_config": {"mask_token": "[unused7]", "drug_token": "<new>", "split_special_tokens": True}},
    {"special_tokens_map": {"additional_special_tokens": ["[unused5]"], "unk_token": "[UNK]"}},
    {"special_tokens_map": {"extra_special_tokens": ["[unused5]"]}, "added_tokens": {"newword": len(UNCASED)}},
    {"tokenizer_config": {"added_tokens_decoder": {"100": {"content": "the"}}}, "added_tokens": {"x": 4}},
    {"tokenizer_config": {"do_lower_case": False, "strip_accents": True}},
    {"tokenizer_config": {"tokenize_chinese_chars": False, "model_input_names": ["input_ids", "attention_mask"]}},
]


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize("files", DECLARED, ids=json.dumps)
def test_what_other_files_declare(tmp_path, files, form):
    write_vocabulary(tmp_path, UNCASED)
    write_json(tmp_path, "config.json", {"model_type": "bert"})
    if form == "tokenizer.json":
        shutil.copy(MINILM / form, tmp_path)
    for name, values in {"tokenizer_config": {}, **files}.items():
        write_json(tmp_path, f"{name}.json", {**BERT, **values} if name == "tokenizer_config" else values)
    ours, theirs = Tokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, "the [unused5] [unused7] <new> newword [MASK]"]:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
        assert ours(text, "the")["token_type_ids"] == theirs(text, "the").get(
            "token_type_ids", [0] * len(theirs(text, "the")["input_ids"])
        )


# --- The model card of sentence-transformers/bert-base-nli-cls-token

FIRST_SNIPPET = """
from sentence_transformers import SentenceTransformer
sentences = ["This is an example sentence", "Each sentence is converted"]

model = SentenceTransformer('bert-base-nli-cls-token')
embeddings = model.encode(sentences)
"""

SECOND_SNIPPET = """
from transformers import AutoTokenizer, AutoModel
import torch


def cls_pooling(model_output, attention_mask):
    return model_output[0][:,0]


# Sentences we want sentence embeddings for
sentences = ['This is an example sentence', 'Each sentence is converted']

# Load model from HuggingFace Hub
tokenizer = AutoTokenizer.from_pretrained('bert-base-nli-cls-token')
model = AutoModel.from_pretrained('bert-base-nli-cls-token')

# Tokenize sentences
encoded_input = tokenizer(sentences, padding=True, truncation=True, return_tensors='pt')

# Compute token embeddings
with torch.no_grad():
    model_output = model(**encoded_input)

# Perform pooling. In this case, max pooling.
sentence_embeddings = cls_pooling(model_output, encoded_input['attention_mask'])
"""


@pytest.fixture
def card(tmp_path, monkeypatch):
    """Run in a folder in which that name is a checkpoint: MiniLM, with modules.json changed to CLS pooling alone."""
    shutil.copytree(
        MINILM, tmp_path / "bert-base-nli-cls-token", ignore=shutil.ignore_patterns("1_*", "2_*", "modules.json")
    )
    types = ["Transformer", "Pooling"]
    entries = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(types)
    ]
    write_json(tmp_path / "bert-base-nli-cls-token", "modules.json", entries)
    write_json(
        tmp_path / "bert-base-nli-cls-token",
        "1_Pooling/config.json",
        {"word_embedding_dimension": 384, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
    )
    monkeypatch.chdir(tmp_path)


def run(snippet, result, *renamed):
    for theirs, ours in renamed:
        assert theirs in snippet
        snippet = snippet.replace(theirs, ours)
    names = {}
    exec(snippet, names)
    return np.asarray(names[result])


def test_the_card_s_first_snippet(card):
    expected = run(FIRST_SNIPPET, "embeddings")
    found = run(
        FIRST_SNIPPET,
        "embeddings",
        ("from sentence_transformers import SentenceTransformer", "from minibert import SentenceEncoder"),
        ("SentenceTransformer(", "SentenceEncoder("),
    )
    assert found.shape == expected.shape == (2, 384)
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(np.linalg.norm(expected, axis=1) - 1).min() > 1  # CLS it is, and not normalised


def test_the_card_s_second_snippet(card):
    expected = run(SECOND_SNIPPET, "sentence_embeddings")
    found = run(
        SECOND_SNIPPET,
        "sentence_embeddings",
        ("from transformers import AutoTokenizer, AutoModel", "from minibert import Tokenizer, Bert"),
        ("AutoTokenizer.", "Tokenizer."),
        ("AutoModel.", "Bert."),
    )
    assert found.shape == expected.shape == (2, 384)
    assert np.abs(found - expected).max() < 1e-5
