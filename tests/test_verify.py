"""`verify` sees each kind of damage, and only that; `doctor` describes the machine and tells no secret."""

import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from helpers import MINILM, TINY, widen
from safetensors.torch import load_file, save_file
from terminal import on_terminal
from test_sparse import write_sparse
from tiny_folder import MEAN, VOCABULARY, write_cross_encoder, write_encoder, write_json, write_vocabulary

from minibert import (
    Bert,
    BertForMaskedLM,
    BertForSequenceClassification,
    ClassifierConfig,
    CrossEncoder,
    HubError,
    MultiVectorEncoder,
    SentenceEncoder,
    SparseEncoder,
    Tokenizer,
)
from minibert.checkpoint import builtin
from minibert.cli import main
from minibert.fast.stack import FastLayer
from minibert.health import doctor, machine, numbers, verify
from minibert.health.known import GAPS, PAIRS
from minibert.retrieval.static_queries import StaticQueries

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small folder in which all is well, with tokenizer.json and vocab.txt."""
    folder = tmp_path_factory.mktemp("tiny")
    write_encoder(folder / "raw", ("Pooling", MEAN))
    SentenceEncoder.from_pretrained(folder / "raw", device="cpu").save_pretrained(folder / "model")
    return folder / "model"


def copy(source, target):
    """Copy small files; weights are links."""
    link = lambda a, b: os.symlink(os.path.realpath(a), b) if a.endswith(".safetensors") else shutil.copy(a, b)  # noqa: E731
    shutil.copytree(source, target, copy_function=link)
    return target


def change(file, **fields):
    return lambda folder: write_json(folder, file, json.loads((folder / file).read_text(encoding="utf-8")) | fields)


def change_tokenizer(edit):
    def damage(folder):
        values = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        edit(values)
        write_json(folder, "tokenizer.json", values)

    return damage


def change_weights(edit):
    def damage(folder):
        path = folder / "model.safetensors"
        values = load_file(path)
        edit(values)
        path.unlink()
        save_file(values, path, metadata={"format": "pt"})

    return damage


def rewrite(file, old, new):
    def damage(folder):
        text = (folder / file).read_text(encoding="utf-8")
        assert old in text
        (folder / file).write_text(text.replace(old, new), encoding="utf-8")

    return damage


def seen(folder):
    """Name -> what was seen and what to do, of the checks that are not ok, and the whole verification."""
    found, wrong = verify(folder), {}
    for check in found.checks:
        if check.status != "ok":
            key = check.name, check.status
            wrong[key] = f"{wrong.get(key, '')}{check.seen} -> {check.advice}; "
    return wrong, found


def swap_queries_and_keys(values):
    for i in range(3):
        a, b = (f"encoder.layer.{i}.attention.self.{name}.weight" for name in ("query", "key"))
        values[a], values[b] = values[b], values[a]


def shuffle_words(values):
    values["embeddings.word_embeddings.weight"] = values["embeddings.word_embeddings.weight"].flip(0)


def randomise(values):
    for value in values.values():
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel()))
        value.copy_(0.02 * noise)


def untrain(values):
    for name, value in values.items():
        if "LayerNorm" in name:
            value.fill_(name.endswith("weight"))


DOWN = "encoder.layer.1.output.dense.weight"
ADDED = {"id": 99, "content": "<new>", "special": True}
ADDED |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
DAMAGE = {
    # what is done -> the check that sees it, and some of its words
    "case is kept": (
        change("tokenizer_config.json", do_lower_case=False),
        *("tokenizer", "warning", "do_lower_case False of tokenizer_config.json"),
    ),
    "no word has capitals": (
        lambda folder: [
            rewrite("tokenizer.json", '"lowercase": true', '"lowercase": false')(folder),
            change("tokenizer_config.json", do_lower_case=False)(folder),
            change_tokenizer(lambda x: x["model"]["vocab"].update(cat2=x["model"]["vocab"].pop("Cat")))(folder),
            change_tokenizer(lambda x: x["model"]["vocab"].update(dog2=x["model"]["vocab"].pop("Dog")))(folder),
        ],
        *("letters", "warning", "0 of 69 words of the vocabulary have capitals"),
    ),
    "a flag that does not count": (
        change("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", do_lower_case=False),
        *("letters", "warning", "do_lower_case is False in tokenizer_config.json"),
    ),
    "accents that do not count": (
        change("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", strip_accents=False),
        *("letters", "warning", "strip_accents is False"),
    ),
    "max_seq_length": (
        change("sentence_bert_config.json", max_seq_length=512),
        *("longest text", "warning", "max_seq_length of sentence_bert_config.json is 512, but the model has 40"),
    ),
    "model_max_length": (
        change("tokenizer_config.json", model_max_length=512),
        *("longest text", "warning", "model_max_length of tokenizer_config.json is 512"),
    ),
    "a length that is none": (
        lambda folder: [
            change("tokenizer_config.json", model_max_length=float("-inf"))(folder),
            change("sentence_bert_config.json", max_seq_length=64)(folder),
        ],
        *("longest text", "warning", "max_seq_length of sentence_bert_config.json is 64"),
    ),
    "two lengths": (
        change("tokenizer_config.json", model_max_length=20),
        *("longest text", "warning", "the first counts"),
    ),
    "pad id": (change("config.json", pad_token_id=3), "special tokens", "warning", "config.json has pad id 3"),
    "cls id": (change("config.json", cls_token_id=7), "special tokens", "warning", "config.json has cls id 7"),
    "padding": (
        change("tokenizer.json", padding={"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
               | {"pad_id": 9, "pad_type_id": 0, "pad_token": "[PAD]"}),
        *("special tokens", "warning", "tokenizer.json has pad id 9"),
    ),
    "template's ids": (
        change_tokenizer(lambda x: x["post_processor"]["special_tokens"]["[CLS]"].update(ids=[7])),
        *("special tokens", "FAILED", "[CLS] is put around a text as id 7, but the vocabulary has it as 2"),
    ),
    "no template": (
        change("tokenizer.json", post_processor=None),
        *("special tokens", "warning", "a text is between no tokens, not [CLS] and [SEP]"),
    ),
    "another cls token": (
        change("tokenizer_config.json", cls_token="[MASK]"),
        *("special tokens", "warning", "not [MASK] and [SEP]"),
    ),
    "vocab.txt": (
        rewrite("vocab.txt", "\nthe\ncat\n", "\ncat\nthe\n"),
        *("vocabulary", "warning", "2 words have another id in vocab.txt"),
    ),
    "added word": (
        change_tokenizer(lambda x: x["added_tokens"].append(ADDED)),
        *("tokenizer", "warning", "ids up to 99, the model 99 tokens"),
    ),
    "pooling's width": (
        change("1_Pooling/config.json", word_embedding_dimension=768),
        *("pooling", "warning", "word_embedding_dimension of 1_Pooling is 768"),
    ),
    "NaN": (change_weights(lambda x: x[DOWN][3].fill_(torch.nan)), "weights", "FAILED", "feed_forward.down.weight"),
    "infinity": (change_weights(lambda x: x[DOWN][3].fill_(torch.inf)), "weights", "FAILED", "infinity"),
    "zeros": (change_weights(lambda x: x[DOWN].zero_()), "weights", "FAILED", "nothing but zeros"),
    "never trained": (change_weights(untrain), "weights", "FAILED", "every layer norm is as it is made"),
    "a part never trained": (
        change_weights(lambda x: x[DOWN.replace("weight", "bias")].zero_()),
        *("weights", "warning", "nothing but zeros in model.layers.1.feed_forward.down.bias"),
    ),
    "huge": (change_weights(lambda x: x[DOWN][3].fill_(5e3)), "weights", "warning", "above 1000"),
    "missing": (change_weights(lambda x: x.pop(DOWN)), "load", "FAILED", f"1 missing: {DOWN}"),
    "unexpected": (change_weights(lambda x: x.update(y=torch.ones(2))), "load", "FAILED", "1 unexpected: y"),
    "a name with an escape": (change_weights(lambda x: x.update({"\x1b[2J": torch.ones(2)})), "load", "FAILED", "1 un"),
    "another shape": (change("config.json", vocab_size=98), "load", "FAILED", "1 of another shape"),
    "more layers": (change("config.json", num_hidden_layers=3), "load", "FAILED", "and 13 more"),
    "config.json": (rewrite("config.json", "{", "["), "load", "FAILED", "config.json: not a JSON file"),
    "modules.json": (rewrite("modules.json", "[", "{"), "load", "FAILED", "modules.json: not a JSON file"),
    "tokenizer.json": (rewrite("tokenizer.json", '"WordPiece"', '"X"'), "load", "FAILED", "tokenizer.json: damaged"),
    "no tokenizer": (
        lambda folder: [(folder / name).unlink() for name in ("tokenizer.json", "vocab.txt")],
        *("load", "FAILED", "neither tokenizer.json nor vocab.txt"),
    ),
}  # fmt: skip


def test_a_folder_in_which_all_is_well(tiny):
    wrong, found = seen(tiny)
    assert wrong == {}
    assert not found.failed
    names = [check.name for check in found.checks]
    expected = ["kind", "load", "letters", "longest text", "special tokens", "vocabulary", "weights", "fast stack"]
    assert names == [*expected, "bfloat16", "int8"]  # nothing is said of English with such a vocabulary
    assert str(found).count("\n") == len(names)


@pytest.mark.parametrize("name", DAMAGE)
def test_each_kind_of_damage_is_seen(name, tiny, tmp_path):
    damage, check, status, words = DAMAGE[name]
    damage(copy(tiny, tmp_path / "model"))
    wrong, found = seen(tmp_path / "model")
    assert words in wrong[check, status]
    assert found.failed == any(status == "FAILED" for _, status in wrong)
    assert str(found).replace("\n", "").isprintable()
    if check == "load":  # one clear error
        assert len(found.checks) == 1


def test_more_rows_than_words(tmp_path):
    write_encoder(tmp_path, ("Pooling", MEAN))
    widen(Bert(type(TINY)(**{**asdict(TINY), "vocab_size": 300}))).save_pretrained(tmp_path)
    assert "201 rows more than the vocabulary has words (99)" in seen(tmp_path)[0]["vocabulary", "warning"]


def test_lower_case_for_a_cased_vocabulary(tmp_path):
    write_encoder(tmp_path, ("Pooling", MEAN))
    write_vocabulary(tmp_path, [word.upper() if len(word) == 3 else word for word in VOCABULARY])
    assert "text is lower-cased, but" in seen(tmp_path)[0]["letters", "warning"]
    write_json(tmp_path, "tokenizer_config.json", {"do_lower_case": False})
    assert ("letters", "warning") not in seen(tmp_path)[0]
    write_json(tmp_path, "sentence_bert_config.json", {"do_lower_case": True})
    assert "false in sentence_bert_config.json" in seen(tmp_path)[0]["letters", "warning"]


BUILTIN_DAMAGE = {
    "pooling": change("1_Pooling/config.json", pooling_mode_cls_token=False, pooling_mode_mean_tokens=True),
    "activation": change("config.json", hidden_act="relu"),
    "heads": change("config.json", num_attention_heads=6),
    "case": change("tokenizer_config.json", do_lower_case=False),
    "prompt": change("config_sentence_transformers.json", prompts={"a": "query: "}, default_prompt_name="a"),
}


def test_the_built_in_model_and_minilm_are_all_right():
    for name, known in (("minibert-tiny", "minibert-tiny"), (MINILM, "sentence-transformers/all-MiniLM-L6-v2")):
        wrong, found = seen(name)
        assert wrong == {}
        assert any(x.name == "published" and known in x.seen for x in found.checks)
        assert any(x.name == "meaning" and "Spearman 0.7" in x.seen for x in found.checks)


@pytest.mark.parametrize("name", BUILTIN_DAMAGE)
def test_published_weights_with_other_vectors_fail(name, tmp_path):
    BUILTIN_DAMAGE[name](copy(builtin.FOLDER, tmp_path / "model"))
    assert "the weights are those of minibert-tiny" in seen(tmp_path / "model")[0]["published", "FAILED"]


def test_other_weights_under_a_published_name_fail(tmp_path, monkeypatch):
    change_weights(lambda x: x[DOWN].mul_(1.01))(copy(builtin.FOLDER, tmp_path / "model"))
    monkeypatch.setattr(builtin, "FOLDER", tmp_path / "model")
    assert "not those that were published as minibert-tiny" in seen("minibert-tiny")[0]["published", "FAILED"]


@pytest.mark.parametrize("edit", [swap_queries_and_keys, shuffle_words, randomise])
def test_weights_in_wrong_places_mean_nothing(edit, tmp_path):
    change_weights(edit)(copy(builtin.FOLDER, tmp_path / "model"))
    wrong, found = seen(tmp_path / "model")
    assert float(re.search(r"Spearman (\S+);", wrong["meaning", "FAILED"])[1]) < 0.2
    assert found.failed


def test_a_plain_bert_is_not_blamed_for_vectors_that_mean_little(tmp_path):
    change_weights(swap_queries_and_keys)(copy(builtin.FOLDER, tmp_path / "model"))
    (tmp_path / "model/modules.json").unlink()
    wrong, found = seen(tmp_path / "model")
    assert "not trained for sentences" in wrong["meaning", "warning"]
    assert not found.failed


def test_a_stack_that_computes_other_numbers_fails(tiny, monkeypatch):
    monkeypatch.setattr(numbers, "outputs", lambda encoder, **options: numbers.np.ones((2, 3)) + bool(options))
    assert "2 of 2 layers fast" in seen(tiny)[0]["fast stack", "FAILED"]


def test_a_drift_is_told(tiny, monkeypatch):
    compute = numbers.outputs

    def outputs(encoder, **options):
        found = compute(encoder, **options)
        if encoder._arithmetic == "bfloat16":
            found[0] = -found[0]
        return found + (float("nan") if encoder._arithmetic == "int8" else 0)

    monkeypatch.setattr(numbers, "outputs", outputs)
    wrong, _ = seen(tiny)
    assert "lowest cosine to float32 -1.0000" in wrong["bfloat16", "warning"]
    assert "NaN" in wrong["int8", "FAILED"]


def test_where_the_page_computes_the_reason_is_told(tmp_path):
    write_encoder(tmp_path, ("Pooling", MEAN))
    values = {**asdict(TINY), "position_embedding_type": "relative_key"}
    widen(Bert(type(TINY)(**values))).save_pretrained(tmp_path)
    wrong, found = seen(tmp_path)
    assert wrong == {}
    assert any(x.name == "fast stack" and "relative positions" in x.seen for x in found.checks)


def test_cross_encoders(tmp_path):
    found = verify(write_cross_encoder(tmp_path / "three", 3))
    assert not found.failed
    assert found.checks[0].seen == "CrossEncoder: 3 labels (LABEL_0, LABEL_1, LABEL_2)"
    config = ClassifierConfig(**asdict(Bert.from_pretrained("minibert-tiny").config), num_labels=1)
    model = BertForSequenceClassification(config)
    model.bert.load_state_dict(Bert.from_pretrained("minibert-tiny").state_dict(), strict=False)
    CrossEncoder(model.eval(), Tokenizer.from_pretrained("minibert-tiny")).save_pretrained(tmp_path / "one")
    change("tokenizer.json", post_processor={"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]})(
        tmp_path / "one"
    )
    wrong, found = seen(tmp_path / "one")
    assert "a paraphrase is before" in wrong["meaning", "FAILED"]  # its classifier is random
    assert "model.classifier.bias" in wrong["weights", "warning"]
    change_tokenizer(lambda x: x.update(post_processor=untyped()))(tmp_path / "one")
    assert "both texts of a pair have token type 0" in seen(tmp_path / "one")[0]["special tokens", "warning"]


def untyped():
    """BERT's template, but the second text has the type of the first."""
    pieces = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pieces.append({"SpecialToken": {"id": "[SEP]", "type_id": 0}})
    pair = [*pieces, {"Sequence": {"id": "B", "type_id": 0}}, pieces[-1]]
    special = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in (("[CLS]", 2), ("[SEP]", 3))}
    return {"type": "TemplateProcessing", "single": pieces, "pair": pair, "special_tokens": special}


def test_sparse_encoders(tmp_path):
    wrong, found = seen(write_sparse(tmp_path))
    assert wrong == {}
    assert found.checks[0].seen == "SparseEncoder: SpladePooling(max, relu); 99 numbers a vector"
    assert any("the head's matrix is that of the embeddings" in x.seen for x in found.checks)


def test_a_sparse_encoder_of_english_is_tried_on_paraphrases(tmp_path):
    tokenizer = Tokenizer.from_pretrained("minibert-tiny")
    model = widen(BertForMaskedLM(Bert.from_pretrained("minibert-tiny").config)).eval()
    SparseEncoder(model, tokenizer).save_pretrained(tmp_path / "a")
    assert "a paraphrase is before" in seen(tmp_path / "a")[0]["meaning", "FAILED"]
    static = StaticQueries(torch.rand(len(tokenizer)), tokenizer, ("query",), frozen=False)
    SparseEncoder(model, tokenizer, static=static).save_pretrained(tmp_path / "b")
    assert ("meaning", "warning") in seen(tmp_path / "b")[0]  # such queries need not know other words


def test_late_interaction(tmp_path):
    model, tokenizer = Bert.from_pretrained("minibert-tiny"), Tokenizer.from_pretrained("minibert-tiny")
    MultiVectorEncoder(model, tokenizer).save_pretrained(tmp_path)
    wrong, found = seen(tmp_path)
    assert wrong == {}
    [meaning] = [x.seen for x in found.checks if x.name == "meaning"]
    assert int(re.search(r"a paraphrase is before (\d+) % of other texts", meaning)[1]) >= 99
    change_weights(shuffle_words)(tmp_path)
    assert ("meaning", "FAILED") in seen(tmp_path)[0]
    model = Bert.from_pretrained(MINILM)
    for layer in model.layers:
        layer.attention.query, layer.attention.key = layer.attention.key, layer.attention.query
    assert numbers._paraphrases(MultiVectorEncoder(model, Tokenizer.from_pretrained(MINILM))).status == "FAILED"


def test_masked_language_models(tmp_path, monkeypatch):
    config = Bert.from_pretrained("minibert-tiny").config
    widen(BertForMaskedLM(config)).save_pretrained(tmp_path)
    Tokenizer.from_pretrained("minibert-tiny").save_pretrained(tmp_path)
    wrong, found = seen(tmp_path)
    assert found.checks[0].seen.startswith("a plain BERT, opened by BertForMaskedLM; or by SentenceEncoder")
    assert "in 0 of 8 sentences" in wrong["gaps", "FAILED"]
    answers = dict(GAPS)
    monkeypatch.setattr(
        numbers,
        "fill_mask",
        lambda _, __, text, top_k: [
            [type("Guess", (), {"token_str": answers[text.replace("[MASK]", "{}")].split()[0]})]
        ],
    )
    assert any(x.name == "gaps" and x.status == "ok" and "in 8 of 8" in x.seen for x in verify(tmp_path).checks)


def test_weights_without_a_tokenizer(tmp_path):
    widen(Bert(TINY)).save_pretrained(tmp_path)
    wrong, found = seen(tmp_path)
    assert wrong == {}
    assert [check.name for check in found.checks] == ["kind", "load", "weights"]


def test_googles_own_folder():
    (index,) = FIXTURES.rglob("bert_model.ckpt.index")
    assert not verify(index.parent).failed


def test_a_head_that_is_not_in_the_files_is_told_with_what_is(tmp_path):
    widen(Bert(TINY)).save_pretrained(tmp_path)
    change("config.json", architectures=["BertForMaskedLM"])(tmp_path)
    assert "load them as such" in seen(tmp_path)[0]["load", "FAILED"]


def test_what_is_not_there_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubError, match="there is no folder"):
        verify("/nowhere/at all")
    said = r"no folder 'some/model' here, and some/model is not in the cache, and verify uses no network: fetch it"
    with pytest.raises(HubError, match=said):
        verify("some/model", cache_dir=tmp_path)
    with pytest.raises(HubError, match=r"has no file config\.json"):
        verify(tmp_path)


def test_a_model_of_the_cache_is_read_without_the_network(tiny, tmp_path):
    snapshot = tmp_path / "models--some--model/snapshots/0123"
    snapshot.parent.mkdir(parents=True)
    copy(tiny, snapshot)
    (snapshot / "sentence_bert_config.json").unlink()
    (tmp_path / "models--some--model/refs").mkdir()
    (tmp_path / "models--some--model/refs/main").write_text("0123")
    found = verify("some/model", cache_dir=tmp_path)
    assert found.model == "some/model"
    assert not found.failed
    (warning,) = [check.seen for check in found.checks if check.name == "warning"]
    assert "sentence_bert_config.json is not in the cache" in warning  # the model may have one


def test_the_command_line(tiny, tmp_path, capsys):
    assert main(["verify", str(tiny)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok  kind  ")
    assert lines[-1] == f"{tiny}: 10 ok"
    change_weights(lambda x: x[DOWN].zero_())(copy(tiny, tmp_path / "model"))
    assert main(["verify", str(tmp_path / "model"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["failed"]
    assert [set(check) for check in found["checks"]] == [{"name", "status", "seen", "advice"}] * len(found["checks"])
    assert main(["verify", "/nowhere/at all"]) == 1
    assert capsys.readouterr().err.startswith("minibert: there is no folder")


def test_the_example_of_the_docs(tmp_path, monkeypatch):
    text = (Path(__file__).parent.parent / "docs/models.md").read_text(encoding="utf-8")
    shown = re.search(r"```text\n(ok +kind.*?)```", text, re.DOTALL)[1].splitlines()
    change("tokenizer_config.json", do_lower_case=False)(copy(MINILM, tmp_path / "my-model"))
    monkeypatch.chdir(tmp_path)
    lines = verify("./my-model").table(120).splitlines()
    stack = next(i for i, line in enumerate(shown) if "fast stack" in line)  # what follows differs a little by machine
    assert lines[:stack] == shown[:stack]
    assert lines[-1] == shown[-1]


def test_on_a_terminal_lines_end_before_its_edge(tiny):
    lines = on_terminal("verify", str(tiny)).splitlines()
    assert max(map(len, lines[:-1])) <= 120


def test_pairs_are_such_that_words_alone_give_the_reverse_order():
    def shared(a, b):
        a, b = ({*text.lower().strip(".!").split()} for text in (a, b))
        return len(a & b) / len(a | b)

    same, other = ([shared(a, b) for score, a, b in PAIRS if score == wanted] for wanted in (5, 0))
    assert max(same) < 0.1 < 0.3 < min(other)


def test_the_doctor_describes_the_machine(monkeypatch):
    monkeypatch.setattr(machine, "SECONDS", 0.1)
    for name, value in (("HF_TOKEN", "hf_secret"), ("https_proxy", "http://me:word@host"), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HOME", os.path.expanduser("~/models"))
    found = doctor()
    text = str(found)
    assert text.count("\n") == len(found) - 1 == 9
    assert found["versions"].keys() >= {"minibert", "python", "torch", "numpy", "safetensors", "tokenizers"}
    assert found["speed"].keys() == {"texts a second in float32", "bfloat16", "int8"}
    assert found["variables"] | {"HF_TOKEN": "is set", "HF_HOME": "~/models"} == found["variables"]
    for secret in ("hf_secret", "word", *([home] if len(home := os.path.expanduser("~/")) > 1 else [])):
        assert secret not in text
    assert json.loads(json.dumps(found)) == found


def test_the_doctor_goes_on_where_something_is_broken(monkeypatch):
    def broken(*_):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(FastLayer, "__call__", broken)
    monkeypatch.setattr(machine, "compiler_version", broken)
    found = doctor()
    assert found["speed"] == found["compiler"] == {"name": "can't be told (RuntimeError: no kernel)"}
    assert "numpy" in found["versions"]


def test_limits_of_a_container(tmp_path):
    assert machine._cgroup("cpu.max", tmp_path) == ""
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine._cgroup("cpu.max", tmp_path) == ""
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert machine._cgroup("cpu.max", tmp_path) == "150000 100000"


def test_the_doctor_names_a_gpu(monkeypatch):
    found = type("Found", (), {"name": "A GPU", "major": 9, "minor": 0, "total_memory": 80 * 2**30})
    for name, value in (("is_available", True), ("device_count", 2), ("get_device_properties", found)):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    facts = machine._gpu()
    assert facts["name"] == "A GPU"
    assert facts["compute capability"] == "9.0"
    assert facts["memory"] == "80.0 GiB"
    assert "float32 unless dtype= does; bfloat16 in hardware" in facts["used"]
