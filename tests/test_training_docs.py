"""docs/training.md: its code prints what is shown, and its commands and settings are ones that there are."""

import argparse
import re
import shlex
import sys

import pytest
from documents import DOCS, blocks, run

from minibert.cli.train_flags import add_flags, read_toml

FILE = DOCS / "training.md"
TEXT = FILE.read_text(encoding="utf-8")


SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("section", ["Files", "Evaluators"])
def test_its_code_prints_what_is_shown(section, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    found = blocks(SECTIONS[section])
    assert any(shown for _, shown in found)
    for code, shown in found:
        run(code, names, FILE)
        assert capsys.readouterr().out == shown, code


def test_its_trainings_can_be_typed(tmp_path):
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("toml", nargs="?")
    add_flags(parser)
    commands = re.findall(r"^\$ minibert train (.*)$", TEXT.replace("\\\n", ""), re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        parser.parse_args(shlex.split(command))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python reads TOML from 3.11 on")
@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL))
def test_its_settings_are_taken(text, tmp_path):
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    assert read_toml(tmp_path / "run.toml")["scale"] == (0, 5)
