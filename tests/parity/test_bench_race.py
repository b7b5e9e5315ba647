"""The race runs: a tiny model, the reference libraries and minibert, each in a process of its own."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tiny_folder import MEAN, write_encoder

sys.path.append(str(Path(__file__).parents[2]))

from tools import gpu_race
from tools.bench import command, inputs, race
from tools.bench.engines import Engine
from tools.bench.process import CHECKOUT
from tools.peers import runners


def test_a_tiny_model_is_raced_for_real(tmp_path, monkeypatch, capsys):
    folder = str(write_encoder(tmp_path / "tiny", ("Pooling", MEAN), ("Normalize", {})))
    monkeypatch.setattr(race, "FIRST_VECTORS", 1)
    monkeypatch.setitem(inputs.SIZES, folder, inputs.Sizes(large=80, calls=64, single=9, long=4))
    # Known to the command, but not to the process that is to open it.
    monkeypatch.setitem(command.ENGINES, "unheard-of", Engine("unheard-of", "int8", runners.Runner))
    raw = tmp_path / "raw.json"
    names = ["transformers", "sentence-transformers", "minibert", "unheard-of"]
    quick = ["--rounds", "1", "--threads", "1", "--json", str(raw)]
    assert command.main(["--models", folder, "--only", *names, *quick]) == 0
    found = json.loads(raw.read_text(encoding="utf-8"))["models"][folder]
    assert list(found["engines"]) == names[:3]
    for values in found["engines"].values():
        assert values["difference"] < 1e-5
        assert values["cosine"] > 0.99999
        assert [len(speeds) for speeds in values["speeds"].values()] == [1, 1, 1]  # it takes no texts of 256 tokens
        assert values["memory"] > 10
    assert found["not raced"] == {"unheard-of": "KeyError: 'unheard-of'"}
    printed = capsys.readouterr().out
    assert "minibert : transformers" in printed
    assert "not raced: unheard-of: KeyError" in printed
    assert command.main(["--read", str(raw)]) == 0
    assert capsys.readouterr().out == printed


def test_a_checkout_is_raced_against_itself(tmp_path, monkeypatch, capsys):
    folder = str(write_encoder(tmp_path / "tiny", ("Pooling", MEAN)))
    monkeypatch.setattr(race, "FIRST_VECTORS", 1)
    monkeypatch.setitem(inputs.SIZES, folder, inputs.Sizes(large=80, calls=64, single=9, long=4))
    raw = tmp_path / "raw.json"
    arguments = ["--models", folder, "--only", "minibert", "openvino", "--rounds", "2", "--threads", "1"]
    assert command.main([*arguments, "--against", str(CHECKOUT), "--json", str(raw)]) == 0
    found = json.loads(raw.read_text(encoding="utf-8"))["models"][folder]
    assert list(found) == ["minibert"]  # engines of others do not take part
    assert found["minibert"]["difference"] == 0
    for tree in ("new", "old"):
        assert [len(speeds) for speeds in found["minibert"][tree]["speeds"].values()] == [2, 2, 2]
    printed = capsys.readouterr().out
    assert "new over old" in printed
    assert command.main(["--read", str(raw)]) == 0
    assert capsys.readouterr().out == printed


def test_a_tree_without_its_own_minibert_is_refused(tmp_path, capsys):
    (tmp_path / "minibert").mkdir()
    (tmp_path / "minibert" / "model.py").touch()
    folder = str(write_encoder(tmp_path / "tiny", ("Pooling", MEAN)))
    arguments = ["--models", folder, "--only", "minibert", "--texts", __file__, "--against", str(tmp_path)]
    assert command.main(arguments) == 1
    assert capsys.readouterr().err.startswith("bench: ")


@pytest.mark.filterwarnings("ignore:.*makes products")
def test_the_race_on_a_gpu_runs_on_the_cpu(tmp_path, monkeypatch, capsys):
    folder = str(write_encoder(tmp_path / "tiny", ("Pooling", MEAN), ("Normalize", {})))
    monkeypatch.setattr(gpu_race, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(gpu_race, "SIZES", inputs.Sizes(large=70, calls=32, single=5, long=1))
    monkeypatch.setattr(gpu_race, "BATCHES", (32, 64))
    raw = tmp_path / "raw.json"
    arguments = ["--gpu", "--models", folder, "--rounds", "3", "--json", str(raw)]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    found = json.loads(raw.read_text(encoding="utf-8"))
    names = [*(f"minibert {dtype}" for dtype in ("float16", "bfloat16", "float32")), gpu_race.PAGE, gpu_race.PEER]
    engines = found["models"][folder]["engines"]
    assert (list(engines), found["models"][folder]["not raced"]) == (names, {})
    for name, values in engines.items():
        assert values["difference"] < (1e-5 if "float32" in name else 0.2)
        assert values["cosine"] > 0.99
        assert [len(speeds) for speeds in values["speeds"].values()] == [3, 3]
        assert min(min(speeds) for speeds in values["speeds"].values()) > 0
    assert f"times {gpu_race.PEER}'; medians of 3 rounds" in printed
    assert command.main(["--gpu", "--read", str(raw)]) == 0
    assert capsys.readouterr().out.split() == printed.split()


def test_without_sentence_transformers_the_page_is_the_rival(tmp_path, monkeypatch, capsys):
    folder = str(write_encoder(tmp_path / "tiny", ("Pooling", MEAN)))
    monkeypatch.setattr(gpu_race, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(gpu_race, "SIZES", inputs.Sizes(large=40, calls=32, single=3, long=1))
    monkeypatch.setattr(gpu_race, "SECONDS", 0)  # one round is always raced
    monkeypatch.setattr(gpu_race, "find_spec", lambda _: None)
    makers = gpu_race.makers

    def some(*arguments):
        found = makers(*arguments)
        return {"minibert float32": found["minibert float32"], "minibert float16": lambda: {}["x"]} | {
            gpu_race.PAGE: found[gpu_race.PAGE]
        }

    monkeypatch.setattr(gpu_race, "makers", some)
    assert command.main(["--gpu", "--models", folder]) == 0
    printed = capsys.readouterr().out
    assert "times page float16'; medians of 1 rounds" in printed
    assert "sentence-transformers is not installed." in printed
    assert "not raced: minibert float16: KeyError: 'x'" in printed


def test_without_a_gpu_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["--gpu"]) == 1
    assert capsys.readouterr().err == "bench: --gpu needs a GPU of CUDA, and torch sees none here\n"


@pytest.mark.parametrize(("name", "layers"), [("minilm", 6), ("base", 12)])
def test_without_minilms_package_weights_are_random(tmp_path, monkeypatch, name, layers):
    def missing():
        raise OSError("not here")

    monkeypatch.setattr(inputs, "find_minilm", missing)
    model = gpu_race.open_or_make(name, tmp_path)
    assert (model.layers, model.normalize, model.pooling) == (
        layers,
        name == "minilm",
        "mean" if layers == 6 else "cls",
    )
    with pytest.raises(OSError, match="nowhere"):
        gpu_race.open_or_make("./nowhere", tmp_path)
