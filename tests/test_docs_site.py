"""tools/docs_site.py, without Sphinx: what must be there is there, and a link that leads nowhere is found."""

import argparse
import json
import re
import sys
from pathlib import Path

import pytest

import minibert

sys.path.append(str(Path(__file__).parent.parent / "tools"))

import docs_site

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    docs_site.assemble(folder)
    return folder


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_every_document_and_notebook_is_in_the_sidebar_and_once(source):
    entries = re.findall(r"^/(.+)$", text(source / "index.md"), re.MULTILINE)
    assert len(entries) == len(set(entries))
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    assert len(pages) > 20
    for path in pages:
        assert f"{path.parent.name}/{path.stem}" in entries
    for entry in entries:
        assert any((source / f"{entry}{end}").is_file() for end in (".md", ".ipynb")), entry


def test_every_public_name_has_its_place_in_the_reference(source):
    documented = re.findall(
        r"^\.\. auto\w+:: ([\w.]+)", "".join(map(text, (source / "api").glob("*.md"))), re.MULTILINE
    )
    assert len(documented) == len(set(documented))
    assert {f"minibert.{name}" for name in minibert.__all__} <= set(documented)
    encoders = text(source / "api/encoders.md")
    assert re.search(r"SentenceEncoder\n   :members: .*\bencode\b.*\bsave_pretrained\b.*\bsimilarity\b", encoders)
    assert "load_state_dict" not in encoders  # torch documents its own


def test_a_public_name_without_a_place_is_an_error(monkeypatch):
    monkeypatch.setattr(docs_site, "API", docs_site.API.replace("LoadReport ", ""))
    with pytest.raises(SystemExit, match=r"minibert\.LoadReport"):
        list(docs_site.reference())


def test_every_finding_has_a_row_of_its_own_words(source):
    page = text(source / "findings/README.md")
    scripts = sorted((ROOT / "findings").glob("*.sh"))
    assert len(scripts) > 10
    for script in scripts:
        library, _, behaviour = text(script).splitlines()[1].removeprefix("# ").partition(": ")
        assert re.search(rf"^\| \[[^]]+\]\({script.name}\.md\) \| {re.escape(library)} \| ", page, re.MULTILINE)
        assert re.search(r" \d+\.\d+", library)
        assert behaviour in page
        assert text(script) in text(source / f"findings/{script.name}.md")


def test_every_verb_and_flag_is_in_the_reference_of_the_command_line(source):
    from minibert.cli import _parser

    page = text(source / "cli.md")
    verbs = next(action.choices for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    for name, verb in verbs.items():
        section = page.split(f"## minibert {name}\n")[1].split("\n## ")[0]
        for flag in (flag for action in verb._actions for flag in action.option_strings):
            assert re.search(rf"^\| `.*{flag}\b", section, re.MULTILINE), (name, flag)


def test_a_notebook_has_the_outputs_of_its_execution_unless_it_has_changed_since(tmp_path, monkeypatch):
    monkeypatch.setattr(docs_site, "EXECUTED", tmp_path)
    path = ROOT / "notebooks/00_five_lines.ipynb"
    assert "Not executed" in json.loads(docs_site.notebook(path))["cells"][1]["source"]

    book = json.loads(text(path))
    book["cells"][-1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "ran"}]
    (tmp_path / path.name).write_text(json.dumps(book), encoding="utf-8")
    shown = json.loads(docs_site.notebook(path))["cells"]
    assert "outputs are those" in shown[1]["source"]
    assert shown[-1]["outputs"][0]["text"] == "ran"

    book["cells"][-1]["source"] = ["assert False"]
    (tmp_path / path.name).write_text(json.dumps(book), encoding="utf-8")
    assert "Not executed" in json.loads(docs_site.notebook(path))["cells"][1]["source"]


@pytest.mark.parametrize(
    ("link", "wrong"),
    [
        ('<a href="other.html#there">', 0),
        ('<a class="x" href="#here">', 0),
        ('<a href="https://example.org/x?a=1&amp;b=2">', 0),
        ('<img alt="" src="data:image/png;base64,AA">', 0),
        ('<a href="missing.html">', 1),
        ('<a href="other.html#nowhere">', 1),
        ('<a href="folder">', 1),
        ('<script src="https://cdn.example.org/x.js">', 1),
        ('<link rel="stylesheet" href="//cdn.example.org/x.css">', 1),
    ],
)
def test_links_are_checked(tmp_path, link, wrong):
    site = tmp_path / "html"
    (site / "folder").mkdir(parents=True)
    (site / "index.html").write_text(f'<p id="here">{link}', encoding="utf-8")
    (site / "other.html").write_text('<h2 id="there">', encoding="utf-8")
    assert len(docs_site.check_links(site)) == wrong
    assert ("https://example.org/x?a=1&b=2" in text(tmp_path / "external.txt")) == ("example.org/x?" in link)


def test_fonts_and_styles_of_other_sites_are_found(tmp_path):
    (tmp_path / "a.css").write_text(
        "@import 'https://fonts.example.org/x'; a { background: url(b.png) }", encoding="utf-8"
    )
    assert len(docs_site.check_links(tmp_path)) == 1


def test_the_comparison_shows_rows_of_the_race_as_they_are():
    race = text(ROOT / "docs/speed.md").splitlines()
    measured = text(ROOT / "docs/comparison.md").split("## Measured")[1]
    rows = [line for line in measured.splitlines() if line.startswith("|") and " x)" in line]
    assert len(rows) > 5
    assert set(rows) <= set(race)
