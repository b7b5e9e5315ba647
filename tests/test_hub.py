"""A name or a folder -> files: what is asked of the hub, and what never is. Every request goes to 127.0.0.1."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers import TINY, random_batch, widen
from huggingface_hub import constants, file_download, utils
from loopback_hub import LoopbackHub
from torch import Tensor

from minibert import (
    Bert,
    BertForMaskedLM,
    CheckpointError,
    ConfigError,
    CrossEncoder,
    HubError,
    MultiVectorEncoder,
    SentenceEncoder,
    SparseEncoder,
    Tokenizer,
)
from minibert.checkpoint import builtin
from minibert.checkpoint.hub import DEFAULT_MODEL, Folder, HubRepository, open_files

NAME = "owner/tiny"


@cache
def checkpoint(seed: int = 0) -> dict[str, bytes]:
    """File name -> contents, of a tiny BERT with random weights."""
    with TemporaryDirectory() as folder:
        widen(Bert(TINY), seed).save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def pickled(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    torch.save(safetensors.torch.load(checkpoint(seed)["model.safetensors"]), buffer)
    return buffer.getvalue()


def sharded(seed: int = 0) -> dict[str, bytes]:
    """The same weights in two shards."""
    tensors = safetensors.torch.load(checkpoint(seed)["model.safetensors"])
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    files = {
        place: safetensors.torch.save({name: tensors[name] for name in tensors if places[name] == place})
        for place in set(places.values())
    }
    index = json.dumps({"metadata": {}, "weight_map": places}).encode()
    return {"config.json": checkpoint(seed)["config.json"], "model.safetensors.index.json": index, **files}


def numbers(model: Bert) -> Tensor:
    with torch.no_grad():
        return model(**random_batch(TINY, (9, 5))).last_hidden_state


def of_seed(seed: int) -> Tensor:
    return numbers(widen(Bert(TINY), seed).eval())


def is_of_seed(model: Bert, seed: int) -> bool:
    return torch.equal(numbers(model), of_seed(seed))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    """A hub that holds NAME, with an empty cache. huggingface_hub read its environment when it was imported."""
    with LoopbackHub() as hub:
        hub.publish(NAME, checkpoint())
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)  # before version 1
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "agents.json"), raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(variable, raising=False)
        yield hub
    forget_connections = "close_session" if hasattr(utils, "close_session") else "reset_sessions"  # before version 1
    getattr(utils, forget_connections)()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long huggingface_hub would have waited before each new try."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def run_python(code: str, home: Path, **environment: str) -> str:
    """What the code prints, in a process of its own whose HF_* variables are just these."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**inherited, "HF_HOME": str(home), **quiet, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refusal(name: str | Path = NAME, **options: object) -> str:
    """The message of the HubError that loading raises."""
    with pytest.raises(HubError) as caught:
        Bert.from_pretrained(name, **options)
    return str(caught.value)


def cached_by_another_tool(tmp_path: Path) -> None:
    """transformers and snapshot_download leave no word of the files that they did not look for."""
    Bert.from_pretrained(NAME)
    open_files(NAME).get("modules.json")
    (absent,) = (tmp_path / "cache").glob("*/.no_exist")
    shutil.rmtree(absent)


# --- What is downloaded


def test_a_hub_id_gives_the_numbers_of_the_folder(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in checkpoint().items():
        (folder / name).write_bytes(content)
    assert torch.equal(numbers(Bert.from_pretrained(NAME)), numbers(Bert.from_pretrained(folder)))


def test_only_the_files_that_are_read_are_asked_for(hub: LoopbackHub) -> None:
    others = ("README.md", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx")
    hub.publish(NAME, {**checkpoint(), **dict.fromkeys(others, b"not for us")})
    Bert.from_pretrained(NAME)
    assert hub.asked() == {"config.json", "adapter_config.json", "model.safetensors"}


def test_an_adapter_is_refused_by_name_before_the_weights_are_downloaded(hub: LoopbackHub, tmp_path: Path) -> None:
    adapter = {"adapter_config.json": b'{"peft_type": "LORA", "base_model_name_or_path": "the/base"}'}
    for name, files in {"owner/beside": {**checkpoint(), **adapter}, "owner/alone": adapter}.items():
        hub.publish(name, files)
        for offline in (False, True):  # and from the cache
            with pytest.raises(CheckpointError, match=r"adapter .*LORA.*the/base"):
                Bert.from_pretrained(name, local_files_only=offline)
    assert "model.safetensors" not in hub.fetched()


def test_a_repository_with_a_pickle_only_gives_that(hub: LoopbackHub) -> None:
    hub.publish(NAME, {"config.json": checkpoint()["config.json"], "pytorch_model.bin": pickled(), "tf_model.h5": b""})
    assert is_of_seed(Bert.from_pretrained(NAME), 0)
    assert hub.fetched() == {"config.json", "pytorch_model.bin"}


def test_of_a_sharded_model_the_index_and_the_shards_are_fetched(hub: LoopbackHub) -> None:
    hub.publish(NAME, sharded())
    assert is_of_seed(Bert.from_pretrained(NAME), 0)
    assert hub.fetched() == set(sharded())


def test_weights_are_not_downloaded_for_a_config_that_is_refused(hub: LoopbackHub) -> None:
    hub.publish(NAME, {**checkpoint(), "config.json": b'{"model_type": "roberta"}'})
    with pytest.raises(ConfigError, match="roberta"):
        Bert.from_pretrained(NAME)
    assert hub.asked() == {"config.json", "adapter_config.json"}


def test_opening_alone_asks_nothing(hub: LoopbackHub) -> None:
    open_files(NAME)
    assert hub.requests == []


def test_hf_endpoint_names_the_hub(hub: LoopbackHub, tmp_path: Path) -> None:
    code = f"from minibert import Bert; print(Bert.from_pretrained({NAME!r}).report.source)"
    assert run_python(code, tmp_path / "home", HF_ENDPOINT=hub.url) == NAME
    assert hub.fetched() == {"config.json", "model.safetensors"}


# --- What is on the disk is not asked for again


@pytest.mark.parametrize("kind", ["safetensors", "pickle", "shards"])
def test_a_second_load_asks_nothing(hub: LoopbackHub, kind: str) -> None:
    config = {"config.json": checkpoint()["config.json"]}
    kinds = {"safetensors": checkpoint(), "pickle": {**config, "pytorch_model.bin": pickled()}, "shards": sharded()}
    hub.publish(NAME, kinds[kind])
    Bert.from_pretrained(NAME)
    hub.requests.clear()
    assert is_of_seed(Bert.from_pretrained(NAME), 0)
    assert hub.requests == []


def test_a_second_load_opens_no_socket(hub: LoopbackHub, request: pytest.FixtureRequest) -> None:
    Bert.from_pretrained(NAME)
    request.getfixturevalue("no_network")
    assert is_of_seed(Bert.from_pretrained(NAME), 0)


def test_weights_that_another_tool_cached_are_not_asked_for_in_a_better_form(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.publish(NAME, {"config.json": checkpoint()["config.json"], "pytorch_model.bin": pickled()})
    cached_by_another_tool(tmp_path)
    hub.requests.clear()
    assert is_of_seed(Bert.from_pretrained(NAME), 0)
    assert hub.requests == []


def test_that_a_file_is_absent_is_remembered_too(hub: LoopbackHub) -> None:
    assert open_files(NAME).get("modules.json") is None
    hub.requests.clear()
    assert open_files(NAME).get("modules.json") is None
    assert hub.requests == []


def test_a_folder_does_not_even_import_huggingface_hub(tmp_path: Path) -> None:
    for name, content in checkpoint().items():
        (tmp_path / name).write_bytes(content)
    code = (
        "import sys; from minibert import Bert; "
        f"Bert.from_pretrained({str(tmp_path)!r}); print('huggingface_hub' in sys.modules)"
    )
    assert run_python(code, tmp_path / "home") == "False"


@pytest.mark.usefixtures("no_network")
def test_a_folder_opens_no_socket(tmp_path: Path) -> None:
    for name, content in checkpoint().items():
        (tmp_path / name).write_bytes(content)
    assert is_of_seed(Bert.from_pretrained(tmp_path), 0)


def test_cache_dir_is_where_downloads_are_kept(hub: LoopbackHub, tmp_path: Path) -> None:
    model = Bert.from_pretrained(NAME, cache_dir=tmp_path / "elsewhere")
    assert all(file.is_relative_to(tmp_path / "elsewhere") for file in model.report.files)
    assert not (tmp_path / "cache").exists()


# --- Revisions


def test_another_branch_has_its_own_weights(hub: LoopbackHub) -> None:
    hub.publish(NAME, checkpoint(1), branch="refs/pr/1")
    assert is_of_seed(Bert.from_pretrained(NAME, revision="refs/pr/1"), 1)
    assert is_of_seed(Bert.from_pretrained(NAME), 0)


def test_an_old_commit_can_be_named(hub: LoopbackHub) -> None:
    old = hub.models[NAME].branches["main"]
    hub.publish(NAME, checkpoint(1))
    assert is_of_seed(Bert.from_pretrained(NAME, revision=old), 0)


def test_when_main_moves_the_cached_one_stays(hub: LoopbackHub) -> None:
    Bert.from_pretrained(NAME)
    hub.publish(NAME, checkpoint(1))
    assert is_of_seed(Bert.from_pretrained(NAME), 0)


def test_refresh_follows_main(hub: LoopbackHub) -> None:
    Bert.from_pretrained(NAME)
    hub.publish(NAME, checkpoint(1))
    assert is_of_seed(Bert.from_pretrained(NAME, refresh=True), 1)
    assert is_of_seed(Bert.from_pretrained(NAME), 1)  # and that is the cached one from now on


def test_refresh_holds_for_the_first_of_several_candidates_too(hub: LoopbackHub) -> None:
    Bert.from_pretrained(NAME)
    hub.publish(NAME, checkpoint(1))
    path = open_files(NAME, refresh=True).first(["config.json", "model.safetensors"])
    assert path is not None
    assert path.parent.name == hub.models[NAME].branches["main"]


def test_all_files_are_of_one_commit_though_main_moves_in_mid_load(hub: LoopbackHub) -> None:
    def move(request: object) -> None:
        if "config.json" in hub.fetched() and len(hub.models[NAME].commits) == 1:
            hub.publish(NAME, checkpoint(1))

    hub.before_answer = move
    assert is_of_seed(Bert.from_pretrained(NAME), 0)
    assert len(hub.models[NAME].commits) == 2


def test_all_files_are_of_one_commit_though_the_first_was_absent(hub: LoopbackHub) -> None:
    files = open_files(NAME)
    assert files.get("modules.json") is None
    old = hub.models[NAME].branches["main"]
    hub.publish(NAME, {**checkpoint(1), "modules.json": b"[]"})
    assert files.require("config.json").parent.name == old


# --- Without the network


def test_local_files_only_loads_from_the_cache(hub: LoopbackHub) -> None:
    Bert.from_pretrained(NAME)
    hub.requests.clear()
    assert is_of_seed(Bert.from_pretrained(NAME, local_files_only=True), 0)
    assert hub.requests == []


def test_local_files_only_without_the_cache_says_so(hub: LoopbackHub) -> None:
    message = refusal(local_files_only=True)
    assert hub.requests == []
    assert NAME in message
    assert "config.json in the cache" in message
    assert "local_files_only" in message


def test_local_files_only_with_half_of_it_in_the_cache_says_so(hub: LoopbackHub) -> None:
    open_files(NAME).require("config.json")
    with pytest.raises(CheckpointError, match=r"no weights .* in the cache, and local_files_only"):
        Bert.from_pretrained(NAME, local_files_only=True)


def test_local_files_only_says_which_file_was_never_fetched(hub: LoopbackHub, tmp_path: Path) -> None:
    """The cache's own record of what the hub lacks tells it from a file that is not there."""
    files = open_files(NAME)
    files.require("config.json")
    files.get("modules.json")
    offline = open_files(NAME, local_files_only=True)
    offline.pin()
    assert offline.read_object("modules.json") == {}  # pytest is told to make warnings errors
    with pytest.warns(UserWarning, match=r"sentence_bert_config\.json is not in the cache, and local_files_only"):
        offline.read_object("sentence_bert_config.json")
    assert offline.read_object("2_Normalize/config.json", quiet=True) == {}  # nearly no model has one


def test_the_list_that_snapshot_download_leaves_says_what_does_not_exist(hub: LoopbackHub, tmp_path: Path) -> None:
    files = open_files(NAME)
    path = files.require("config.json")
    listing = tmp_path / "cache" / f"models--{NAME.replace('/', '--')}" / "trees" / f"{path.parent.name}.json"
    offline = open_files(NAME, local_files_only=True)
    offline.pin()
    for content in ("[]", "{}", '{"files": {"modules.json": {}}}', "{"):
        listing.parent.mkdir(exist_ok=True)
        listing.write_text(content)
        with pytest.warns(UserWarning, match=r"modules\.json is not in the cache"):
            assert offline.get("modules.json") is None
    listing.write_text('{"format_version": 1, "files": {"config.json": {}}}')
    assert offline.get("modules.json") is None
    hub.requests.clear()
    assert files.get("modules.json") is None
    assert hub.requests == []


OFFLINE = f"""
from minibert.checkpoint.hub import HubError, open_files
try:
    print(open_files({NAME!r}).require("config.json").name)
except HubError as error:
    print(error)
"""


def test_hf_hub_offline_is_heeded(hub: LoopbackHub, tmp_path: Path) -> None:
    offline = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "1"}
    message = run_python(OFFLINE, tmp_path / "home", **offline)
    assert NAME in message
    assert "offline" in message.lower()
    assert hub.requests == []
    open_files(NAME, cache_dir=tmp_path / "home/hub").require("config.json")
    hub.requests.clear()
    assert run_python(OFFLINE, tmp_path / "home", **offline) == "config.json"
    assert hub.requests == []


def test_a_hub_that_is_down_is_said_to_be(hub: LoopbackHub, waits: list[float]) -> None:
    hub.close()
    message = refusal()
    assert f"{NAME}, revision main is not in the cache" in message
    assert "can't be reached" in message
    assert waits == []  # huggingface_hub alone would try for half a minute


def test_a_hub_that_is_down_costs_a_warning_per_file_that_may_exist(
    hub: LoopbackHub, tmp_path: Path, waits: list[float]
) -> None:
    cached_by_another_tool(tmp_path)
    hub.close()
    files = open_files(NAME)
    files.require("config.json")
    with pytest.warns(UserWarning, match=rf"{NAME}.*modules\.json.*can't be reached"):
        assert files.get("modules.json") is None
    assert is_of_seed(Bert.from_pretrained(NAME), 0)


def test_a_hub_that_is_down_is_waited_for_only_once(hub: LoopbackHub, tmp_path: Path, waits: list[float]) -> None:
    cached_by_another_tool(tmp_path)
    hub.close()
    files = open_files(NAME)
    files.require("config.json")
    with pytest.warns(UserWarning, match=r"modules\.json"):
        files.get("modules.json")
    waits.clear()
    with pytest.warns(UserWarning, match=r"tokenizer\.json"):
        files.get("tokenizer.json")
    assert waits == []


def test_a_file_that_is_needed_and_a_hub_that_is_down_is_an_error(
    hub: LoopbackHub, tmp_path: Path, waits: list[float]
) -> None:
    files = open_files(NAME)
    files.require("config.json")
    hub.close()
    with pytest.raises(HubError, match="can't be reached"):
        files.below("1_Pooling").require("config.json")


# --- What can't be had


def test_a_model_that_does_not_exist(hub: LoopbackHub) -> None:
    message = refusal("owner/nothing")
    assert "owner/nothing" in message
    assert "check the spelling" in message


def test_a_misspelt_folder_is_said_to_be_none(hub: LoopbackHub, waits: list[float]) -> None:
    for options in ({}, {"local_files_only": True}):
        for name, full in (("nothing", "sentence-transformers/nothing"), ("models/mine", "models/mine")):
            message = refusal(name, **options)
            assert message.startswith(f"there is no folder {name!r} here, and ")
            assert full in message
    hub.close()
    assert refusal("nothing").startswith(
        "there is no folder 'nothing' here, and sentence-transformers/nothing, revision"
    )


def test_a_revision_that_does_not_exist(hub: LoopbackHub) -> None:
    message = refusal(revision="v9")
    assert NAME in message
    assert "no revision 'v9'" in message


@pytest.mark.parametrize("token", [None, "wrong"], ids=["401", "403"])
def test_a_gated_model_without_the_right_token(hub: LoopbackHub, token: str | None) -> None:
    hub.models[NAME].token = "secret"
    message = refusal(token=token)
    assert f"{NAME} is gated" in message
    assert "token=" in message
    assert "hf auth login" in message
    assert "wrong" not in message


def test_a_token_that_is_not_accepted(hub: LoopbackHub) -> None:
    hub.models[NAME].token, hub.models[NAME].refusal = "secret", ""
    message = refusal(token="wrong")
    assert f"{NAME}: the hub does not accept the token" in message
    assert "try again" not in message


def test_a_gated_model_with_the_token_as_an_argument(hub: LoopbackHub) -> None:
    hub.models[NAME].token = "secret"
    assert is_of_seed(Bert.from_pretrained(NAME, token="secret"), 0)


def test_a_gated_model_with_the_token_in_the_environment(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.models[NAME].token = "secret"
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert is_of_seed(Bert.from_pretrained(NAME), 0)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a/b/c", "owner/model"),
        ("./nothing", "no folder"),
        ("/nowhere/at/all", "no folder"),
        ("~nobody-of-that-name/model", "no folder"),
        ("back\\slash", "no folder"),
        ("bad name!", "neither a folder nor a possible name on the hub"),
        ("owner/bad..name", "neither a folder nor a possible name on the hub"),
        ("with\0null", "neither a folder nor a possible name on the hub"),
    ],
)
def test_a_name_that_can_be_none(hub: LoopbackHub, name: str, advice: str) -> None:
    message = refusal(name)
    assert repr(name)[1:-1] in message
    assert advice in message
    assert hub.requests == []


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    message = refusal(file)
    assert str(file) in message
    assert "a model is a folder" in message


# --- Downloads that break off


def test_a_download_that_breaks_off_names_the_file(hub: LoopbackHub, waits: list[float]) -> None:
    hub.breaking.add("model.safetensors")
    message = refusal()
    assert f"{NAME}, revision" in message
    assert "model.safetensors could not be downloaded" in message
    assert "try again" in message


def test_after_a_download_that_broke_off_the_next_load_succeeds(hub: LoopbackHub, waits: list[float]) -> None:
    hub.breaking.add("model.safetensors")
    refusal()
    hub.breaking.clear()
    assert is_of_seed(Bert.from_pretrained(NAME), 0)


def test_half_a_file_is_never_used(hub: LoopbackHub, waits: list[float]) -> None:
    hub.breaking.add("model.safetensors")
    refusal()
    assert open_files(NAME).cached("config.json") is not None
    assert open_files(NAME).cached("model.safetensors") is None


# --- Names


@pytest.mark.parametrize(
    ("name", "owned"),
    [
        ("some-model", "sentence-transformers/some-model"),
        ("bert-tiny-uncased", "sentence-transformers/bert-tiny-uncased"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("bert-large-cased-whole-word-masking", "bert-large-cased-whole-word-masking"),
        ("bert-base-multilingual-cased", "bert-base-multilingual-cased"),
        ("bert-base-german-cased", "bert-base-german-cased"),
        ("owner/some-model", "owner/some-model"),
    ],
)
def test_a_name_without_owner_is_of_sentence_transformers_but_for_the_oldest(name: str, owned: str) -> None:
    files = open_files(name)
    assert isinstance(files, HubRepository)
    assert files.name == owned


def test_a_model_without_owner_is_found_on_the_hub(hub: LoopbackHub) -> None:
    hub.publish("bert-base-uncased", checkpoint(2))
    assert is_of_seed(Bert.from_pretrained("bert-base-uncased"), 2)


@pytest.mark.parametrize("kind", [Bert, BertForMaskedLM, Tokenizer])
@pytest.mark.parametrize("name", [DEFAULT_MODEL, NAME])
def test_a_misspelt_keyword_is_refused_for_folders_and_ids_alike(hub: LoopbackHub, kind: Any, name: str) -> None:
    with pytest.raises(TypeError, match="unexpected keyword: local_file_only, revison"):
        kind.from_pretrained(name, revison="main", local_file_only=True)
    with pytest.raises(TypeError, match="owner"):
        kind.from_pretrained(name, owner="cross-encoder")
    assert not hub.fetched()


def test_pin_fixes_the_commit_of_all_files(hub: LoopbackHub) -> None:
    files = open_files(NAME)
    files.pin()
    old = hub.models[NAME].branches["main"]
    hub.publish(NAME, checkpoint(1))
    assert files.require("model.safetensors").parent.name == old


def test_the_built_in_model_goes_by_its_name() -> None:
    files = open_files(DEFAULT_MODEL)
    assert isinstance(files, Folder)
    assert files.path == builtin.FOLDER


def test_a_folder_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / DEFAULT_MODEL).mkdir()
    for name, content in checkpoint(3).items():
        (tmp_path / DEFAULT_MODEL / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert is_of_seed(Bert.from_pretrained(DEFAULT_MODEL), 3)


@pytest.mark.parametrize("name", [None, 5, b"folder", Bert(TINY)], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("load", [Bert, SentenceEncoder, CrossEncoder, SparseEncoder, MultiVectorEncoder])
def test_what_is_no_name_is_refused(load, name):
    with pytest.raises(TypeError, match="expected a folder or a model's name, not "):
        load.from_pretrained(name)


@pytest.mark.parametrize("load", [Bert, SentenceEncoder, CrossEncoder, SparseEncoder, MultiVectorEncoder])
def test_an_empty_name_is_refused(load):
    with pytest.raises(HubError, match="the model's name is empty"):
        load.from_pretrained("")
