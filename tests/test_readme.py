"""README and some of docs: their code prints what they show, and the tree names every room."""

import re
import shlex
from pathlib import Path

import pytest

from minibert import __version__
from minibert.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
OTHERS = "".join(
    (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("first-steps.md", "models.md", "speed.md")
)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
# Each piece of Python, with the output that is shown right below it (nothing: it prints nothing).
PYTHON = re.findall(r"^```python\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", README + OTHERS, re.MULTILINE | re.DOTALL)
TREE = next(code for language, code in BLOCKS if language == "text" and "fast/" in code)


def test_there_is_code_to_test():
    assert len(PYTHON) >= 5


@pytest.mark.parametrize(("code", "shown"), PYTHON, ids=[code.splitlines()[0] for code, _ in PYTHON])
def test_code_runs_and_prints_what_is_shown(code, shown, capsys):
    exec(compile(code, "README.md", "exec"), {})  # the point is to run what the reader sees
    assert capsys.readouterr().out == shown


def test_the_shell_example_prints_what_is_shown(capsys):
    console = next(code for language, code in BLOCKS if language == "console" and "similarity" in code)
    command, shown = re.match(r"\$ minibert (similarity .*)\n([^$]*)", console).groups()
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out == shown


def test_the_readme_is_short_enough_to_be_read():
    assert len(README.splitlines()) <= 140


def test_the_tree_names_every_room():
    rooms = {path.name for path in (ROOT / "minibert").iterdir() if any(path.glob("*.py"))}
    assert len(rooms) >= 5
    for room in (*rooms, "docs", "findings", "notebooks", "tests", "tools"):
        assert re.search(rf"^ *{room}/ ", TREE, re.MULTILINE), room


@pytest.mark.parametrize(("folder", "document"), [("tools", "CONTRIBUTING.md"), ("notebooks", "docs/index.md")])
def test_every_tool_and_notebook_is_named(folder, document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for path in (ROOT / folder).glob("*"):
        if not path.name.startswith((".", "_")) and path.name != "data":
            assert path.name in text, path


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / document).read_text(encoding="utf-8")):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("name", ["embed", "test"])
def test_the_commands_are_where_ci_looks_for_them(name):
    assert re.search(rf"<!-- run: {name} -->\n```bash\n.+\n```\n", README)


@pytest.mark.parametrize(("file", "pattern"), [("CITATION.cff", r"^version: (\S+)"), ("CHANGELOG.md", r"^## (\S+)")])
def test_the_version_is_everywhere_the_same(file, pattern):
    assert re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)[1] == __version__
