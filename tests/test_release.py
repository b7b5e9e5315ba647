"""What a release rests on: one name for pip everywhere, every extra explained, and workflows that store no secret."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
INSTALL = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
FOLDERS = ("minibert", "docs", "findings", "notebooks", "tests", "tools")
TEXTS = [
    path for folder in FOLDERS for end in ("md", "py", "ipynb", "sh") for path in (ROOT / folder).rglob(f"*.{end}")
]
TEXTS = [path for path in (*TEXTS, *ROOT.glob("*.md"), ROOT / "pyproject.toml") if path != Path(__file__)]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))  # a sdist has none


def test_pip_is_never_told_to_install_the_other_project():
    assert len(TEXTS) > 200
    for path in TEXTS:
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not re.search(r"(?<![-\w])minibert\[[a-z]", line), (path, line)
            if re.search(r"pip install (-\S+ )*minibert(?!-encoder)", line):
                assert "unrelated project" in line, (path, line)


def test_every_extra_is_explained():
    section = PROJECT.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = set(re.findall(r"^([a-z-]+) = \[", section, re.MULTILINE))
    table = INSTALL.split("## Extras")[1].split("\n## ")[0]
    assert len(extras) > 10
    assert extras == set(re.findall(r"`([a-z-]+)`", "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE))))


def test_the_table_of_versions_has_the_lower_bounds():
    table = INSTALL.split("## Versions")[1].split("\n## ")[0]
    for package, bound in re.findall(r"^([a-z-]+)==(\S+)", (ROOT / "constraints-lowest.txt").read_text(), re.MULTILINE):
        assert f"| {package} | {bound} |" in table


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_pins_its_actions_and_stores_no_secret(path):
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    uses = [step["uses"] for step in steps if "uses" in step]
    assert uses
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@(release/)?v\d+", action) for action in uses), uses
    assert "secrets." not in path.read_text(encoding="utf-8")
    assert workflow["permissions"] == {"contents": "read"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for verb in (verb for step in steps for verb in re.findall(r"^make (.+)", step.get("run", ""), re.MULTILINE)):
        assert all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in verb.split()), verb


@pytest.mark.skipif(not WORKFLOWS, reason="a sdist has no workflows")
def test_only_the_job_that_publishes_may_ask_for_a_token():
    jobs = pytest.importorskip("yaml").safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    publish = jobs.pop("publish")
    assert publish["needs"] == "build"
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == "pypi"
    assert not any("permissions" in job for job in jobs.values())
