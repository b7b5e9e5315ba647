"""tools/short_text.py: the layers that it takes apart are the page's, in each dtype."""

import sys
from pathlib import Path

import pytest
from tiny_folder import write_encoder

sys.path.append(str(Path(__file__).parent.parent / "tools"))

import short_text


@pytest.mark.parametrize("dtype", short_text.DTYPES)
def test_every_line_is_measured(tmp_path, dtype):
    found = short_text.measure(str(write_encoder(tmp_path)), dtype, "the cat sat on the mat", seconds=0.05)
    assert found.pop("tokens") == 8
    assert list(found) == ["products", "operators", "encode", "page"]
    assert all(0 < milliseconds < 1000 for milliseconds in found.values())


def test_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["short_text.py", str(write_encoder(tmp_path)), "--seconds", "0.05"])
    assert short_text.main() == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in (*short_text.DTYPES, "operators", "milliseconds"))
