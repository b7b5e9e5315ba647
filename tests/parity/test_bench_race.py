"""The race runs: a tiny model, the reference libraries and minibert, each in a process of its own."""

import json
import sys
from pathlib import Path

from tiny_folder import MEAN, write_encoder

sys.path.append(str(Path(__file__).parents[2]))

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
