"""Adapters without their libraries: the error names the extra. With them: tests/optional/test_adapters.py."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARIES = {
    "langchain": "langchain_core",
    "llama_index": "llama_index",
    "haystack": "haystack",
    "chroma": "chromadb",
    "sklearn": "sklearn",
    "keybert": "keybert",
    "bertopic": "bertopic",
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_without_its_library_an_adapter_names_the_extra(name, monkeypatch):
    for module in [module for module in sys.modules if module.split(".")[0] == LIBRARIES[name]]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, LIBRARIES[name], None)
    monkeypatch.delitem(sys.modules, f"minibert.adapters.{name}", raising=False)
    said = rf"needs {LIBRARIES[name]}.*pip install \"minibert-encoder\[[a-z-]+\]\""
    with pytest.raises(ImportError, match=said) as error:
        import_module(f"minibert.adapters.{name}")
    extra = re.search(r"\[(.*)\]", str(error.value))[1]
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_every_adapter_is_tried():
    files = {path.stem for path in (ROOT / "minibert" / "adapters").glob("*.py")}
    assert files - {"__init__", "shared"} == set(LIBRARIES)
