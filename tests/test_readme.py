"""The README says what is so: its code runs and prints what it shows, its tree names every file."""

import re
import shlex
from pathlib import Path

import pytest

from minibert.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
# Each piece of Python, with the output that is shown right below it (nothing: it prints nothing).
PYTHON = re.findall(r"^```python\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", README, re.MULTILINE | re.DOTALL)


def test_there_is_code_to_test():
    assert len(PYTHON) >= 3


@pytest.mark.parametrize(("code", "shown"), PYTHON, ids=[code.splitlines()[0] for code, _ in PYTHON])
def test_code_runs_and_prints_what_is_shown(code, shown, capsys):
    exec(compile(code, "README.md", "exec"), {})  # the point is to run what the reader sees
    assert capsys.readouterr().out == shown


def test_the_shell_example_prints_what_is_shown(capsys):
    console = next(code for language, code in BLOCKS if language == "console")
    command, shown = re.match(r"\$ minibert (similarity .*)\n([^$]*)", console).groups()
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("file", sorted(path.name for path in (ROOT / "minibert").rglob("*.py")))
def test_the_tree_names_every_file(file):
    if not file.startswith("__"):
        assert file in README


@pytest.mark.parametrize("folder", ["tools", "notebooks"])
def test_the_tree_names_every_tool_and_notebook(folder):
    for path in (ROOT / folder).glob("*"):
        words = path.stem.replace("_", " ") if folder == "notebooks" else path.name
        if not path.name.startswith(("make_", "_", ".")):
            assert words.split(" ")[0] in README, path


@pytest.mark.parametrize("name", ["embed", "test"])
def test_the_commands_are_where_ci_looks_for_them(name):
    assert re.search(rf"<!-- run: {name} -->\n```bash\n.+\n```\n", README)
