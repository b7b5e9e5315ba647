"""Imports are held to the rooms: each file of the package may import only from files above it in this table."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "minibert"

# Room -> what it may import besides the standard library. A later room may import any earlier one.
ROOMS = {
    "config": set(),
    "pooling": {"torch"},
    "token_pooling": {"torch", "numpy"},
    "display": {"huggingface_hub"},
    "tables": {"pyarrow"},
    "checkpoint": {"torch", "numpy", "safetensors", "tokenizers", "huggingface_hub"},
    "model": {"torch"},
    "heads": {"torch"},
    "fused": {"torch"},
    "truncation": set(),
    "settings": set(),
    "vectors": {"torch", "numpy"},
    "call": {"torch", "numpy"},
    "tokenizer": {"tokenizers", "torch", "numpy"},
    "batches": {"torch", "numpy"},
    "fast": {"torch", "numpy"},
    "arithmetic": {"torch"},
    "compiled": {"torch", "numpy"},
    "cuda": {"torch", "numpy"},
    "portable": {"torch"},
    "processes": {"torch", "numpy"},
    "text_model": {"torch", "numpy"},
    "model_calls": {"torch"},
    "drop_in": {"torch", "numpy"},
    "pairs": {"torch", "numpy"},
    "encoder": {"torch", "numpy"},
    "cross_encoder": {"torch", "numpy"},
    "retrieval": {"torch", "numpy", "scipy"},
    "bulk": {"torch", "numpy", "pyarrow", "ray"},
    "research": {"torch", "numpy"},
    "training": {"torch", "numpy", "pyarrow", "matplotlib"},
    "util": {"torch", "numpy"},
    "health": {"torch", "numpy", "huggingface_hub"},
    "adapters": {
        *("torch", "numpy", "pydantic", "langchain_core", "llama_index", "haystack", "chromadb", "sklearn"),
        *("keybert", "bertopic"),
    },
    "cli": {"numpy", "torch"},
    "__main__": set(),
}


def imports(source: str, package: str) -> set[str]:
    """Dotted names of all that a file imports, `minibert.x` for its own package.

    typing_extensions is not a dependency of ours; type checkers have it, so it may stand under `if TYPE_CHECKING`.
    """
    found = set()
    nodes = list(ast.walk(ast.parse(source)))
    for block in [node for node in nodes if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]:
        for node in [node for node in block.body if getattr(node, "module", None) == "typing_extensions"]:
            nodes.remove(node)
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "minibert" else {module}
    return found


def faults(room: str, source: str, package: str = "minibert") -> list[str]:
    """What a file of that room imports and may not."""
    above = list(ROOMS)[: list(ROOMS).index(room) + 1]
    bad = []
    for name in imports(source, package):
        top, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if top == "minibert":
            if other not in (*above, "__version__"):
                bad.append(name)
        elif top not in sys.stdlib_module_names and top not in ROOMS[room]:
            bad.append(name)
    return bad


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_each_file_imports_only_from_the_rooms_above_it(file):
    place = file.relative_to(PACKAGE)
    if place.name == "__init__.py" and len(place.parts) == 1:
        return  # the door: it names every room, lazily
    package = ".".join(["minibert", *place.parts[:-1]])
    assert faults(place.parts[0].removesuffix(".py"), file.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("model", "import safetensors"),
        ("model", "from .hub import open_files"),
        ("config", "import torch"),
        ("pooling", "from .encoder import SentenceEncoder"),
        ("encoder", "import transformers"),
        ("tokenizer", "import huggingface_hub"),
        ("checkpoint", "def f():\n    from ..encoder import SentenceEncoder"),
        ("checkpoint", "from ..model import Bert"),
        ("heads", "from typing_extensions import Self"),
        ("heads", "if TYPE_CHECKING:\n    import huggingface_hub"),
    ],
)
def test_a_forbidden_import_would_be_noticed(room, line):
    assert faults(room, line, "minibert.checkpoint" if room == "checkpoint" else "minibert") != []


def arrows(files):
    """Room -> rooms that any of its files imports, lazily or not. `files` are (path in the package, source)."""
    found = {}
    for path, source in files:
        room = path.parts[0].removesuffix(".py")
        names = imports(source, ".".join(["minibert", *path.parts[:-1]]))
        others = {name.split(".")[1] for name in names if name.startswith("minibert.")}
        found.setdefault(room, set()).update(others & set(ROOMS) - {room})
    return found


def test_no_circle_of_rooms():
    files = [(path.relative_to(PACKAGE), path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")]
    graph = arrows(file for file in files if file[0] != Path("__init__.py"))
    assert {"checkpoint", "config"} <= graph["model"]
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_a_circle_of_rooms_would_be_noticed():
    files = [
        ("model.py", "def f():\n    from .checkpoint.load import g"),
        ("checkpoint/load.py", "from ..model import f"),
    ]
    with pytest.raises(CycleError, match="cycle"):
        TopologicalSorter(arrows((Path(path), source) for path, source in files)).prepare()


def file_names(source: str) -> list[str]:
    """Strings in the code (not parts of docstrings or messages) that name a file of a checkpoint."""
    pattern = re.compile(r"[\w./]*(config\w*|modules|tokenizer|vocab|model)(\.index)?\.(json|txt|bin|safetensors)")
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    return [node.value for node in nodes if isinstance(node.value, str) and pattern.fullmatch(node.value)]


def test_only_the_checkpoint_room_knows_the_names_of_its_files():
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] != "checkpoint":
            assert file_names(path.read_text(encoding="utf-8")) == [], path


@pytest.mark.parametrize("name", ["config.json", "1_Pooling/config.json", "pytorch_model.bin", "vocab.txt"])
def test_a_file_name_elsewhere_would_be_noticed(name):
    assert file_names(f"files.first(('{name}', 'x'))") == [name]


def test_every_room_is_in_the_table():
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert there - {"__init__", "__pycache__"} == set(ROOMS)


def modules_after(code: str) -> set[str]:
    """What a fresh interpreter has imported after running the code."""
    line = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout
    return set(line.split())


def test_importing_minibert_imports_neither_torch_nor_the_network():
    assert modules_after("import minibert").isdisjoint({"torch", "numpy", "tokenizers", "huggingface_hub"})


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["embed"],
        ["embed-corpus"],
        ["search"],
        ["similarity"],
        ["view"],
        ["inspect"],
        ["train"],
        ["pretrain"],
        ["evaluate"],
        ["verify"],
        ["doctor"],
    ],
)
def test_the_command_line_shows_its_help_without_torch(command):
    code = f"from minibert.cli import main\ntry: main({[*command, '--help']})\nexcept SystemExit: pass"
    assert modules_after(code).isdisjoint({"torch", "numpy", "tokenizers", "huggingface_hub"})


def test_encoding_from_a_folder_never_imports_what_could_reach_the_network():
    code = "import minibert; minibert.SentenceEncoder.from_pretrained().encode('hello')"
    assert modules_after(code).isdisjoint({"huggingface_hub", "transformers", "sentence_transformers", "requests"})


def test_encoding_never_imports_torchs_compiler():
    code = "import minibert; minibert.SentenceEncoder.from_pretrained().encode('hello')"
    assert modules_after(code).isdisjoint({"torch._dynamo", "sympy"})  # a second that nobody would get back


def test_this_test_would_see_torch():
    assert "torch" in modules_after("from minibert import Bert")


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import minibert

    with pytest.raises(AttributeError, match="Bird"):
        minibert.Bird  # noqa: B018


def test_the_page_imports_torch_math_and_config_only():
    top = ast.parse((PACKAGE / "model.py").read_text(encoding="utf-8")).body
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    sources = {node.module for node in top if isinstance(node, ast.ImportFrom)}
    assert names == {"math", "torch"}
    assert sources == {"__future__", "typing", "torch", "config"}


def test_nothing_in_the_package_prints_but_the_command_line():
    for file in PACKAGE.rglob("*.py"):
        if "cli" not in file.relative_to(PACKAGE).parts:
            assert not re.search(r"^\s*print\(", file.read_text(encoding="utf-8"), re.MULTILINE), file
