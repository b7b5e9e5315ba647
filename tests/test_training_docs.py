"""docs/training.md: its code prints what is shown, and its commands and settings are ones that there are."""

import argparse
import re
import shlex
import sys

import pytest
from documents import DOCS, blocks, run

from minibert.cli import _parser
from minibert.cli.options import read_toml
from minibert.cli.train import add_flags

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


def test_its_trainings_can_be_typed():
    commands = re.findall(r"^\$ minibert train (.*)$", TEXT.replace("\\\n", ""), re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        _parser().parse_args(["train", *shlex.split(command)])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python reads TOML from 3.11 on")
@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL))
def test_its_settings_are_taken(text, tmp_path):
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    parser = argparse.ArgumentParser()
    add_flags(parser)
    assert read_toml(parser, tmp_path / "run.toml")["scale"] == [0, 5]
