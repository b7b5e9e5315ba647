"""modules.json and its companions: three generations are understood, and what minibert can't compute is named."""

import json
import shutil
import sys

import pytest
import safetensors.torch
import torch
from helpers import TINY
from tiny_folder import MEAN, MODULE, write_encoder, write_json
from torch import nn

from minibert import CheckpointError, ConfigError, HubError, SentenceEncoder
from minibert.checkpoint.hub import open_files
from minibert.checkpoint.sentence_transformers import SentenceModules, read_modules, write_modules
from minibert.pooling import Dense, Normalize, Pooling

REFUSED = (ConfigError, CheckpointError, HubError)
D = TINY.hidden_size


def read(folder):
    return read_modules(open_files(folder))


def write_modules_json(folder, *entries):
    """Entries: the last part of a type and a path, or a whole entry."""
    rows = [{"idx": 0, "name": "0", "path": "", "type": f"{MODULE}Transformer"}]
    for entry in entries:
        rows.append(entry if isinstance(entry, dict) else {"type": MODULE + entry[0], "path": entry[1]})
    write_json(folder, "modules.json", rows)


def write_dense(folder, dense, **changes):
    """Its config.json as sentence-transformers writes it, and its weights."""
    config = {
        "in_features": dense.linear.in_features,
        "out_features": dense.linear.out_features,
        "bias": dense.linear.bias is not None,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    write_json(folder, "config.json", {k: v for k, v in (config | changes).items() if v != "absent"})
    safetensors.torch.save_file(dense.state_dict(), folder / "model.safetensors")


@pytest.fixture
def folder(tmp_path):
    """Mean pooling, then a Dense."""
    write_json(tmp_path, "1_Pooling/config.json", MEAN)
    write_modules_json(tmp_path, ("Pooling", "1_Pooling"), ("Dense", "2_Dense"))
    torch.manual_seed(0)
    (tmp_path / "2_Dense").mkdir()
    write_dense(tmp_path / "2_Dense", Dense(D, 6))
    return tmp_path


# --- Three generations

GENERATIONS = {
    "2.x": ("sentence_transformers.models.{}", "sentence_transformers.models.{}"),
    "2.x in full": ("sentence_transformers.models.{0}.{0}", "sentence_transformers.models.{0}.{0}"),
    "5.4": (
        "sentence_transformers.base.modules.transformer.{}",
        "sentence_transformers.sentence_transformer.modules.pooling.{}",
    ),
    "6.x": (
        "sentence_transformers.base.modules.{}",
        "sentence_transformers.sentence_transformer.modules.{}",
    ),
}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_only_the_ends_of_a_class_path_count(folder, generation):
    first, later = GENERATIONS[generation]
    rows = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_Normalize")]
    types = [(first if kind in ("Transformer", "Dense", "Normalize") else later).format(kind) for kind, _ in rows]
    write_json(folder, "modules.json", [{"type": t, "path": path} for t, (_, path) in zip(types, rows, strict=True)])
    assert [type(module) for module in read(folder).after] == [Pooling, Dense, Normalize]


def test_nothing_of_those_paths_is_imported(folder, monkeypatch):
    (folder / "evil.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(folder)
    write_modules_json(folder, {"type": "sentence_transformers.models.evil.Pooling", "path": "1_Pooling"})
    assert isinstance(read(folder).after[0], Pooling)
    for kind in ("evil.Pooling", "modeling.Pooling", "Pooling", "sentence_transformers_.Pooling"):  # no stock class
        write_modules_json(folder, {"type": kind, "path": "1_Pooling"})
        with pytest.raises(ConfigError, match=rf"modules\.json: the module '{kind}'.* runs no code"):
            read(folder)
    assert "evil" not in sys.modules


BOOLEANS = ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@pytest.mark.parametrize(("flag", "mode"), list(zip(BOOLEANS, MODES, strict=True)))
def test_pooling_by_a_boolean_each(folder, flag, mode):
    flags = {f"pooling_mode_{name}": name == flag for name in BOOLEANS}
    write_json(folder, "1_Pooling/config.json", {"word_embedding_dimension": D, **flags})
    assert read(folder).after[0].modes == (mode,)


def test_several_booleans_lie_side_by_side_in_the_library_s_order_not_the_file_s(folder):
    write_json(folder, "1_Pooling/config.json", {f"pooling_mode_{name}": True for name in reversed(BOOLEANS)})
    assert read(folder).after[0].modes == tuple(MODES)


@pytest.mark.parametrize("mode", MODES)
def test_pooling_by_name(folder, mode):
    write_json(folder, "1_Pooling/config.json", {"embedding_dimension": D, "pooling_mode": mode})
    assert read(folder).after[0].modes == (mode,)


def test_pooling_by_a_list_of_names_keeps_its_order(folder):
    write_json(folder, "1_Pooling/config.json", {"embedding_dimension": D, "pooling_mode": ["mean", "cls"]})
    assert read(folder).after[0].modes == ("mean", "cls")


def test_the_name_goes_before_the_booleans(folder):
    write_json(folder, "1_Pooling/config.json", {"pooling_mode": "cls", "pooling_mode_mean_tokens": True})
    assert read(folder).after[0].modes == ("cls",)


def test_a_pooling_that_names_none_is_the_mean_and_a_note_says_so(folder):
    write_json(folder, "1_Pooling/config.json", {"word_embedding_dimension": D})
    found = read(folder)
    assert found.after[0].modes == ("mean",)
    assert len(found.notes) == 1
    assert "1_Pooling/config.json names no pooling" in found.notes[0]


def test_without_modules_json_it_is_the_mean_and_the_report_says_so(tmp_path):
    encoder = SentenceEncoder.from_pretrained(write_encoder(tmp_path))
    assert encoder.pooling.modes == ("mean",)
    assert len(encoder.head) == 0
    assert len(encoder.report.notes) == 1
    assert "no modules.json: mean pooling" in encoder.report.notes[0]


def test_a_pooling_that_is_named_needs_no_note(folder):
    assert read(folder).notes == []


@pytest.mark.parametrize(
    ("value", "kept"), [({}, True), ({"include_prompt": True}, True), ({"include_prompt": False}, False)]
)
def test_whether_the_prompt_counts(folder, value, kept):
    write_json(folder, "1_Pooling/config.json", MEAN | value)
    assert read(folder).after[0].include_prompt is kept


def test_old_checkpoints_keep_the_transformer_in_a_folder_of_its_own(tmp_path):
    """As 0_BERT, with its settings there and modules.json above."""
    write_encoder(tmp_path / "below", sentence_bert_config={"max_seq_length": 17, "do_lower_case": True})
    shutil.move(tmp_path / "below", tmp_path / "0_BERT")
    rows = [("BERT", "0_BERT"), ("Pooling", "1_Pooling")]
    write_json(tmp_path, "modules.json", [{"type": MODULE + kind, "path": path} for kind, path in rows])
    write_json(tmp_path, "1_Pooling/config.json", MEAN)
    encoder = SentenceEncoder.from_pretrained(tmp_path)
    assert encoder.max_seq_length == 17
    assert encoder.encode("the cat").shape == (D,)


# --- What is refused, by name


@pytest.mark.parametrize("kind", ["LSTM", "WordWeights", "my_package.Pooler", "CLIPModel"])
def test_an_unknown_module_is_named(folder, kind):
    write_modules_json(folder, ("Pooling", "1_Pooling"), (kind, "2_X"))
    with pytest.raises(ConfigError, match=rf"modules\.json: the module '{MODULE}{kind}' is unknown"):
        read(folder)


@pytest.mark.parametrize(
    "order",
    [
        [("Dense", "2_Dense"), ("Pooling", "1_Pooling")],
        [("Normalize", "3_Normalize"), ("Pooling", "1_Pooling")],
        [("Pooling", "1_Pooling"), ("Pooling", "1_Pooling")],
        [("Pooling", "1_Pooling"), ("Transformer", "")],
        [("Transformer", ""), ("Pooling", "1_Pooling")],
        [("BERT", "0_BERT"), ("Pooling", "1_Pooling")],
    ],
)
def test_modules_in_another_order_are_refused(folder, order):
    write_modules_json(folder, *order)
    with pytest.raises(ConfigError, match="is in a place where minibert does not compute it"):
        read(folder)


def test_without_any_pooling_there_is_no_sentence_vector(folder):
    write_modules_json(folder)
    with pytest.raises(ConfigError, match=r"modules\.json: no Pooling follows the Transformer"):
        read(folder)


def test_modules_that_take_further_inputs_are_refused(folder):
    write_modules_json(folder, {"type": f"{MODULE}Pooling", "path": "1_Pooling", "kwargs": ["task"]})
    with pytest.raises(ConfigError, match="task"):
        read(folder)


@pytest.mark.parametrize("value", ["average", ["mean", "average"], [], [["mean"]], 3, {"mean": True}])
def test_an_unknown_pooling_is_named(folder, value):
    write_json(folder, "1_Pooling/config.json", {"pooling_mode": value})
    with pytest.raises(ConfigError, match=r"1_Pooling/config\.json: pooling_mode .* is unknown"):
        read(folder)


def test_an_unknown_boolean_of_pooling_is_named(folder):
    write_json(folder, "1_Pooling/config.json", {"pooling_mode_attention": True})
    with pytest.raises(ConfigError, match=r"1_Pooling/config\.json: .* the setting pooling_mode_attention"):
        read(folder)


SWITCHES = {
    "1_Pooling/config.json": ["pooling_mode_cls_token", "include_prompt"],
    "2_Dense/config.json": ["bias", "use_residual"],
    "sentence_bert_config.json": ["do_lower_case"],
}


@pytest.mark.parametrize("value", ["false", "", [], ["x"], {}, 2, float("nan")])
@pytest.mark.parametrize(("file", "name"), [(file, name) for file, names in SWITCHES.items() for name in names])
def test_what_is_neither_true_nor_false_is_not_taken_for_one(folder, file, name, value):
    path = folder / file
    write_json(folder, file, (json.loads(path.read_text()) if path.exists() else {}) | {name: value})
    with pytest.raises(ConfigError, match=f"{file}: {name} must be true or false"):
        read(folder)


@pytest.mark.parametrize("name", ["module_input_name", "module_output_name"])
@pytest.mark.parametrize("kind", ["Dense", "Normalize"])
def test_modules_on_token_vectors_are_refused(folder, kind, name):
    write_modules_json(folder, ("Pooling", "1_Pooling"), (kind, f"2_{kind}"))
    write_json(folder, f"2_{kind}/config.json", {"in_features": D, "out_features": 6, name: "token_embeddings"})
    with pytest.raises(ConfigError, match=rf"2_{kind}/config\.json: {name} 'token_embeddings'"):
        read(folder)


@pytest.mark.parametrize("name", ["module_input_name", "module_output_name"])
def test_saying_the_default_is_no_reason_to_refuse(folder, name):
    write_dense(folder / "2_Dense", Dense(D, 6), **{name: "sentence_embedding"})
    assert len(read(folder).after) == 2


@pytest.mark.parametrize("path", ["../..", "/etc", "..", "1_Pooling/../../x"])
@pytest.mark.parametrize("kind", ["Pooling", "Transformer"])
def test_a_path_out_of_the_folder_is_refused(folder, kind, path):
    paths = {"Transformer": "", "Pooling": "1_Pooling", kind: path}
    write_json(folder, "modules.json", [{"type": MODULE + each, "path": place} for each, place in paths.items()])
    with pytest.raises(HubError, match="points outside its folder"):
        read(folder)


DAMAGED = [
    ("modules.json", "{"),
    ("modules.json", "{}"),
    ("modules.json", "[1]"),
    ("modules.json", '[{"type": "x"}]'),
    ("modules.json", '[{"path": "x"}]'),
    ("modules.json", '[{"path": 1, "type": "Pooling"}]'),
    ("1_Pooling/config.json", "["),
    ("1_Pooling/config.json", "[]"),
    ("2_Dense/config.json", "7"),
    ("2_Dense/config.json", "{}"),
    ("2_Dense/model.safetensors", "x"),
    ("sentence_bert_config.json", "x"),
    ("sentence_bert_config.json", '{"max_seq_length": "x"}'),
    ("sentence_bert_config.json", '{"max_seq_length": 0}'),
    ("sentence_bert_config.json", '{"query_length": 32}'),
    ("sentence_bert_config.json", '{"document_length": 32}'),
    ("sentence_bert_config.json", '{"max_seq_length": true}'),
    ("config_sentence_transformers.json", "x"),
    ("config_sentence_transformers.json", '{"prompts": ["a"]}'),
    ("config_sentence_transformers.json", '{"prompts": {"a": 1}}'),
    ("config_sentence_transformers.json", '{"truncate_dim": "x"}'),
    ("config_sentence_transformers.json", '{"truncate_dim": 0}'),
    ("config_sentence_transformers.json", '{"default_prompt_name": ["a"]}'),
]


@pytest.mark.parametrize(("file", "text"), DAMAGED)
def test_a_damaged_file_is_named(folder, file, text):
    (folder / file).write_text(text)
    with pytest.raises(REFUSED, match=file.removesuffix("model.safetensors").replace(".", r"\.")):
        read(folder)


def test_a_pooling_without_config_is_named(folder):
    (folder / "1_Pooling/config.json").unlink()
    with pytest.raises(HubError, match=r"1_Pooling has no file config\.json"):
        read(folder)


# --- Dense


@pytest.mark.parametrize("name", ["Identity", "Tanh", "ReLU", "Sigmoid", "GELU"])
@pytest.mark.parametrize("path", ["torch.nn.modules.activation.{}", "torch.nn.{}", "torch.nn.modules.linear.{}"])
def test_activations_go_by_the_last_part_of_their_path(folder, name, path):
    write_dense(folder / "2_Dense", Dense(D, 6), activation_function=path.format(name))
    assert read(folder).after[1].activation == name


def test_without_a_word_the_activation_is_tanh(folder):
    write_dense(folder / "2_Dense", Dense(D, 6), activation_function="absent")
    assert read(folder).after[1].activation == "Tanh"


@pytest.mark.parametrize(
    "path",
    [
        "torch.nn.modules.activation.Mish",
        "evil.Tanh",
        "os.system",
        "torch.nn",
        "torch.hub.load",
        "torch.nn.evil",
        None,
        7,
    ],
)
def test_another_activation_is_refused_and_not_imported(folder, path, monkeypatch):
    (folder / "evil.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(folder)
    write_dense(folder / "2_Dense", Dense(D, 6), activation_function=path)
    with pytest.raises(
        ConfigError, match=r"2_Dense/config\.json: activation_function .* is not one of torch\.nn\.Identity"
    ):
        read(folder)
    assert "evil" not in sys.modules


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("out", "residual"), [(6, False), (6, True), (D, True)])
def test_its_weights_are_read(folder, out, residual, bias):
    dense = Dense(D, out, bias=bias, residual=residual)
    write_dense(folder / "2_Dense", dense, **({"use_residual": True} if residual else {}))
    found = read(folder).after[1]
    x = torch.randn(3, D)
    assert torch.equal(found(x), dense(x))
    assert all(parameter.requires_grad for parameter in found.parameters())


def test_weights_in_a_pickle_will_do(folder):
    dense = Dense(D, 6)
    (folder / "2_Dense/model.safetensors").unlink()
    torch.save(dense.state_dict(), folder / "2_Dense/pytorch_model.bin")
    assert torch.equal(read(folder).after[1].linear.weight, dense.linear.weight)


def test_weights_in_half_precision_become_float32(folder):
    write_dense(folder / "2_Dense", Dense(D, 6).half())
    assert read(folder).after[1].linear.weight.dtype == torch.float32


def test_missing_weights_are_named(folder):
    (folder / "2_Dense/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="2_Dense has no weights that minibert reads"):
        read(folder)


@pytest.mark.parametrize("dense", [Dense(D, 7), Dense(D, 6, bias=False), Dense(D, 6, residual=True)])
def test_other_weights_than_the_config_says_are_refused_with_both_shapes(folder, dense):
    write_dense(folder / "2_Dense", dense, out_features=6, bias=True)
    with pytest.raises(
        CheckpointError, match=r"2_Dense: config\.json asks for .*linear\.weight.*the file holds .*linear"
    ):
        read(folder)


@pytest.mark.parametrize("width", [0, -1, 2**20, "6", 6.0, None, "absent"])
def test_a_width_that_is_none_is_refused(folder, width):
    write_dense(folder / "2_Dense", Dense(D, 6), out_features=width)
    with pytest.raises(ConfigError, match=r"2_Dense/config\.json: out_features must be a whole number"):
        read(folder)


def test_no_memory_is_taken_on_the_config_s_word_alone(folder):
    """A terabyte, if it were taken."""
    write_dense(folder / "2_Dense", Dense(D, 6), in_features=2**19, out_features=2**19)
    with pytest.raises(CheckpointError, match="the file holds"):
        read(folder)


def test_reading_draws_no_random_numbers(folder):
    before = torch.get_rng_state()
    read(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_widths_that_do_not_fit_are_refused(tmp_path):
    write_encoder(tmp_path, ("Pooling", MEAN), ("Dense", {}))
    (tmp_path / "2_Dense").mkdir()
    write_dense(tmp_path / "2_Dense", Dense(D + 1, 6))
    with pytest.raises(
        ConfigError, match=f"{tmp_path}: in_features of a Dense's config.json is {D + 1}, but it gets {D} "
    ):
        SentenceEncoder.from_pretrained(tmp_path)


# --- The small files


def test_length_and_case_of_sentence_bert_config(folder):
    write_json(folder, "sentence_bert_config.json", {"max_seq_length": 17, "do_lower_case": True})
    found = read(folder)
    assert (found.max_seq_length, found.do_lower_case) == (17, True)


def test_do_lower_case_lowers_before_the_tokenizer_does_anything(tmp_path):
    """Of a cased tokenizer, which also goes on keeping the accents."""
    write_encoder(tmp_path, ("Pooling", MEAN), tokenizer_config={"do_lower_case": False})
    assert SentenceEncoder.from_pretrained(tmp_path).tokenizer.tokenize("Cat") == ["Cat"]
    write_json(tmp_path, "sentence_bert_config.json", {"do_lower_case": True})
    tokenizer = SentenceEncoder.from_pretrained(tmp_path).tokenizer
    assert tokenizer.tokenize("Cat CAT") == ["cat", "cat"]
    assert tokenizer.tokenize("caf\u00e9") == ["[UNK]"]


def test_prompts_and_their_default(folder):
    values = {"prompts": {"query": "query: ", "none": None}, "default_prompt_name": "query"}
    write_json(folder, "config_sentence_transformers.json", values)
    found = read(folder)
    assert (found.prompts, found.default_prompt_name) == ({"query": "query: ", "none": ""}, "query")


def test_a_default_prompt_that_is_none_of_them_is_refused(folder):
    values = {"prompts": {"query": "query: "}, "default_prompt_name": "passage"}
    write_json(folder, "config_sentence_transformers.json", values)
    with pytest.raises(ConfigError, match=r"config_sentence_transformers\.json: default_prompt_name 'passage'"):
        read(folder)


def test_measure_and_dimensions(folder):
    write_json(folder, "config_sentence_transformers.json", {"similarity_fn_name": "dot", "truncate_dim": 4})
    found = read(folder)
    assert (found.similarity_fn_name, found.truncate_dim) == ("dot", 4)
    write_json(folder, "config_sentence_transformers.json", {"truncate_dim": 10**400})
    assert torch.zeros(1, 4)[:, : read(folder).truncate_dim].shape == (1, 4)  # torch takes no larger numbers


@pytest.mark.parametrize("name", ["maxsim", ["dot"]])
def test_an_unknown_measure_is_refused(tmp_path, name):
    write_encoder(tmp_path, ("Pooling", MEAN), config_sentence_transformers={"similarity_fn_name": name})
    with pytest.raises(ConfigError, match=f"{tmp_path}/config_.*.json: similarity_fn_name must be one of cosine"):
        SentenceEncoder.from_pretrained(tmp_path)


# --- Writing

SETTINGS = {
    "plain": SentenceModules(after=[Pooling("mean")]),
    "all": SentenceModules(
        after=[Pooling(["cls", "mean"], include_prompt=False), Dense(64, 6, activation="GELU"), Normalize()],
        max_seq_length=17,
        do_lower_case=True,
        prompts={"query": "query: "},
        default_prompt_name="query",
        similarity_fn_name="dot",
        truncate_dim=4,
    ),
    "an order that booleans can't tell": SentenceModules(after=[Pooling(["mean", "cls"])]),
    "twice the same": SentenceModules(after=[Pooling(["max", "max"])]),
    "residual": SentenceModules(after=[Pooling("max"), Dense(D, 6, bias=False, activation="Identity", residual=True)]),
    "two": SentenceModules(after=[Pooling("max"), Dense(D, 6), Dense(6, D, residual=True), Normalize()]),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_written_is_read_back(tmp_path, name):
    written = SETTINGS[name]
    write_modules(written, D, tmp_path)
    found = read(tmp_path)
    assert [repr(module) for module in found.after] == [repr(module) for module in written.after]
    x, mask = torch.randn(2, 3, D), torch.ones(2, 3)
    left, right = ((nn.Sequential(*m.after[1:]))(m.after[0](x, mask)) for m in (found, written))
    assert torch.equal(left, right)
    for field in ("transformer", "max_seq_length", "do_lower_case", "prompts", "default_prompt_name", "notes"):
        assert getattr(found, field) == getattr(written, field)
    assert (found.similarity_fn_name, found.truncate_dim) == (written.similarity_fn_name, written.truncate_dim)


def test_pooling_is_written_in_the_oldest_form_that_can_tell_it(tmp_path):
    """Text Embeddings Inference and others still read only the booleans."""
    write_modules(SETTINGS["all"], D, tmp_path)
    written = json.loads((tmp_path / "1_Pooling/config.json").read_text())
    assert written["word_embedding_dimension"] == D
    assert [name for name, value in written.items() if value is True] == [
        "pooling_mode_cls_token",
        "pooling_mode_mean_tokens",
    ]
    types = [entry["type"] for entry in json.loads((tmp_path / "modules.json").read_text())]
    assert types == [
        f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Dense", "Normalize")
    ]


@pytest.mark.parametrize("kind", ["Pooling", "Dense", "Normalize"])
def test_a_setting_that_is_not_known_is_refused_by_name(folder, kind):
    path = folder / {"Pooling": "1_Pooling", "Dense": "2_Dense", "Normalize": "3_Normalize"}[kind] / "config.json"
    path.parent.mkdir(exist_ok=True)
    write_modules_json(folder, ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_Normalize"))
    values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**values, "temperature": 0.5}), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{path.parent.name}/config.json: .* the setting temperature"):
        read(folder)


def test_whole_numbers_are_no_weights_of_a_dense(folder):
    weights = {name: value.to(torch.int32) for name, value in Dense(D, 6).state_dict().items()}
    safetensors.torch.save_file(weights, folder / "2_Dense" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"2_Dense/model\.safetensors: .* floating-point"):
        read(folder)


def test_nothing_is_written_of_an_encoder_with_a_module_of_one_s_own(tmp_path):
    class Mine(Pooling):
        pass

    encoder = SentenceEncoder.from_pretrained(write_encoder(tmp_path, ("Pooling", MEAN)))
    encoder.pooling = Mine("mean")
    with pytest.raises(ConfigError, match="Mine is not a module"):
        encoder.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_module_of_one_s_own_is_not_written(tmp_path):
    class Mine(Pooling):
        pass

    with pytest.raises(ConfigError, match="Mine is not a module of sentence-transformers"):
        write_modules(SentenceModules(after=[Mine()]), D, tmp_path)
    assert not (tmp_path / "modules.json").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"processing_kwargs": {"text": {"add_special_tokens": False}}},
        {"config_kwargs": {"num_hidden_layers": 1}},
        {"config_args": {"hidden_act": "relu"}},
        {"tokenizer_args": {"do_lower_case": False}},
        {"transformer_task": "fill-mask"},
        {"modality_config": {"text": {"method": "forward", "method_output_name": ["hidden_states", 2]}}},
        {"model_args": {"num_hidden_layers": 1}},
        {"something": 1},
    ],
    ids=str,
)
def test_settings_that_change_vectors_are_refused_by_name(settings, tmp_path):
    folder = write_encoder(tmp_path, ("Pooling", MEAN))
    write_json(folder, "sentence_bert_config.json", {"max_seq_length": 8, "do_lower_case": False} | settings)
    with pytest.raises(ConfigError, match=rf"sentence_bert_config.json: .*{next(iter(settings))}"):
        SentenceEncoder.from_pretrained(folder)


def test_settings_that_change_no_vector_are_taken(tmp_path):
    folder = write_encoder(tmp_path, ("Pooling", MEAN))
    harmless = {"model_args": {"add_pooling_layer": False}, "tokenizer_args": {}, "config_args": None}
    usual = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
    write_json(folder, "sentence_bert_config.json", {"max_seq_length": 8, **harmless, **usual})
    assert SentenceEncoder.from_pretrained(folder).max_seq_length == 8
