"""The race runs: a tiny model, the reference libraries and minibert, each in a process of its own."""

import json
import sys
from pathlib import Path

from tiny_folder import MEAN, write_encoder

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from bench import command, models, race, runners
from bench.engines import Engine


def test_a_tiny_model_is_raced_for_real(tmp_path, monkeypatch, capsys):
    folder = str(write_encoder(tmp_path / "tiny", ("Pooling", MEAN), ("Normalize", {})))
    monkeypatch.setattr(race, "FIRST_VECTORS", 1)
    monkeypatch.setitem(models.SIZES, folder, models.Sizes(large=80, calls=64, single=9, long=4))
    # Known to the command, but not to the process that is to open it.
    monkeypatch.setitem(command.ENGINES, "unheard-of", Engine("unheard-of", "int8", runners.Runner))
    raw = tmp_path / "raw.json"
    names = ["transformers", "sentence-transformers", "minibert", "unheard-of"]
    quick = ["--rounds", "1", "--threads", "1", "--no-peak", "--json", str(raw)]
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
