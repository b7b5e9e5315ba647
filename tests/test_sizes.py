"""A file or a function that is longer than this is read by nobody; data files apart."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minibert"
FILES = sorted(PACKAGE.rglob("*.py"))


def text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def lines(folder: str) -> int:
    return sum(len(text(file).splitlines()) for file in (ROOT / folder).rglob("*.py"))


def long_functions(source: str) -> list[str]:
    """The functions above 50 lines, with signature and docstring."""
    kinds = ast.FunctionDef, ast.AsyncFunctionDef
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return [node.name for node in found if (node.end_lineno or 0) - node.lineno >= 50]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_file_is_above_300_lines_and_no_function_above_50(file):
    source = text(file)
    assert len(source.splitlines()) <= 300
    assert long_functions(source) == []


def test_a_long_function_would_be_noticed():
    body = "    pass\n" * 50
    assert long_functions(f"def long():\n{body}") == ["long"]


def test_the_fast_rooms_and_the_benchmark_stay_small():
    assert lines("minibert/fast") <= 1100
    assert lines("minibert/cuda") <= 350
    assert lines("tools/bench") <= 1000


def test_no_class_is_exchanged_in_the_package_but_that_of_parameters_which_count_their_changes():
    swaps = [line.strip() for file in FILES for line in text(file).splitlines() if "__class__ =" in line]
    assert swaps == ["weight.__class__ = TrackedParameter"]
