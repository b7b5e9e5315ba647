"""Assemble the documentation site, build it with Sphinx, and check every link.

    python tools/docs_site.py        writes build/docs/html; its index.html needs no server

The pages are copies of README.md, docs/*.md, CHANGELOG.md, CONTRIBUTING.md and the notebooks, at the same places, so
that their links hold. Findings, the command line and the API come from the scripts, the parsers and the docstrings. A
file of code that a page links to becomes a page. Notebooks have outputs if `make notebooks` left them in
build/notebooks.

Errors are: each warning of Sphinx, a link to a file or an anchor that does not exist, anything that a browser would
fetch from another site, and a public name without a page. Links to other sites are listed in build/docs/external.txt.
Needs pip install -e '.[docs]'.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "docs"
EXECUTED = ROOT / "build" / "notebooks"
PAGE = "minibert/model.py"

# The sidebar: caption -> pages, as patterns. A page is where it is named first, so docs/* is what is left.
SIDEBAR = {
    "Start": "docs/first-steps docs/install docs/models docs/from-sentence-transformers docs/comparison",
    "Understand": "docs/index minibert/model.py docs/values docs/swaps docs/exactness docs/speed",
    "Use": "docs/retrieval docs/corpora docs/machines docs/processes docs/stores docs/adapters docs/training docs/*",
    "Notebooks": "notebooks/*",
    "Reference": "api/index cli findings/README CHANGELOG CONTRIBUTING",
}
# The API, a page a line: its name, title and module; and the names, if not those of __all__ or all that are public.
API = """
encoders | Encoders | minibert | SentenceEncoder CrossEncoder SparseEncoder MultiVectorEncoder TokenVectors similarity \
quantize_embeddings
options | Keywords | minibert | call.CallOptions call.EncodeOptions call.PredictOptions drop_in.LoadOptions \
checkpoint.hub.HubOptions
model | The page and its heads | minibert | Bert BertConfig ClassifierConfig BertForMaskedLM BertForPreTraining \
BertForNextSentencePrediction BertForSequenceClassification BertForTokenClassification
loading | Tokenizer, reports, errors | minibert | Tokenizer LoadReport HubError CheckpointError WrongTensorsError \
ConfigError TooLongError
pooling | Pooling | minibert.pooling |
tokens | Pooling of tokens | minibert | HierarchicalTokenPooling
util | Utilities | minibert.util |
bulk | Corpora, search, mining | minibert.bulk |
training | Training | minibert.training |
research | Values and heads | minibert.research |
attribute | Attribution | minibert.research.attribute |
lens | Logit lens | minibert.research.lens |
corpus | Tokens of a corpus | minibert.research.corpus |
fused | Fused parts | minibert.fused |
"""


def cell(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def findings() -> str:
    """Return findings/README.md; its table is made anew, from the scripts' second lines and from its last column."""
    text = (ROOT / "findings/README.md").read_text(encoding="utf-8")
    answers = dict(re.findall(r"^\| \[\w+\]\((\w+)\.sh\).*\| (.*) \|$", text, re.MULTILINE))
    rows = ["| finding | library | behaviour | minibert's answer |", "| --- | --- | --- | --- |"]
    for script in sorted((ROOT / "findings").glob("*.sh")):
        library, _, behaviour = script.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ").partition(": ")
        link = f"[{script.stem.replace('_', ' ')}]({script.name})"
        rows.append(f"| {link} | {cell(library)} | {cell(behaviour)} | {answers[script.stem]} |")
    return re.sub(r"(?:^\|.*\n)+", lambda _: "\n".join(rows) + "\n", text, count=1, flags=re.MULTILINE)


def command_line() -> str:
    """Return the reference of `minibert` in a shell, from its parsers."""
    from minibert.cli import _parser

    os.environ["COLUMNS"] = "88"  # of the usages
    parser = _parser()
    verbs: dict[str, argparse.ArgumentParser] = next(x.choices for x in parser._actions if isinstance(x.choices, dict))
    parts = [f"# Command line\n\n{parser.description}\n\n```text\n{parser.epilog}\n```"]
    for name, verb in verbs.items():
        formatter, rows = verb._get_formatter(), ["| argument | meaning |", "| --- | --- |"]
        for action in verb._actions:
            if action.help != argparse.SUPPRESS:
                shown = formatter._format_action_invocation(action)
                rows.append(f"| `{cell(shown)}` | {cell(formatter._expand_help(action) if action.help else '')} |")
        usage = f"```text\n{verb.format_usage().rstrip()}\n```"
        parts += [f"## minibert {name}", verb.description or "", usage, "\n".join(rows)]
        parts += [f"```text\n{verb.epilog}\n```"] if verb.epilog else []
    return "\n\n".join(parts) + "\n"


def reference() -> Iterator[tuple[str, str]]:
    """Yield name and text of the API's pages. Raise SystemExit if a public name is on none."""
    named, index = set[str](), ["# API\n\nFrom the docstrings. Shapes use the letters at the top of the page.\n"]
    pages = [[part.strip() for part in line.split("|")] for line in API.strip().splitlines()]
    for page, title, module, names in pages:
        paths = [f"{module}.{name}" for name in names.split() or public_names(module)]
        named.update(paths)
        yield page, f"# {title}\n\n```{{eval-rst}}\n" + "\n".join(map(directive, paths)) + "```\n"
        rows = "".join(f"| {{py:obj}}`~{path}` | {summary(path)} |\n" for path in paths)
        index.append(f"## {title}\n\n| {module} | |\n| --- | --- |\n{rows}")
    if missing := {f"minibert.{name}" for name in import_module("minibert").__all__} - named:
        raise SystemExit(f"tools/docs_site.py: no line of API names {', '.join(sorted(missing))}")
    yield "index", "\n".join([*index, toctree("API", [f"api/{page}" for page, *_ in pages])])


def public_names(module: str) -> list[str]:
    """Return a module's __all__, or else the public functions and classes that it defines."""
    loaded = import_module(module)
    own = [name for name, value in vars(loaded).items() if getattr(value, "__module__", "") == module]
    return list(getattr(loaded, "__all__", [name for name in own if not name.startswith("_")]))


def resolve(path: str) -> Any:
    """Return what a dotted path names in its module."""
    return getattr(import_module(path.rpartition(".")[0]), path.rpartition(".")[2])


def summary(path: str) -> str:
    """Return the first sentence of a docstring."""
    value = resolve(path)
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split()) if callable(value) else ""
    return cell(re.split(r"(?<=\.) (?=[A-Z(])", text)[0].replace("``", "`"))


def directive(path: str) -> str:
    """Return autodoc's directive for an object, with those of its public members that this package defines."""
    value = resolve(path)
    if not inspect.isclass(value):
        short = repr(value) if len(repr(value)) < 100 else "..."
        return f".. autofunction:: {path}\n" if callable(value) else f".. py:data:: {path}\n   :value: {short}\n"
    bases = [vars(base) for base in value.__mro__ if base.__module__.startswith("minibert")]
    kinds = (property, classmethod, staticmethod)
    shown = {k for base in bases for k, x in base.items() if callable(x) or isinstance(x, kinds) if inspect.getdoc(x)}
    members = ", ".join(sorted(name for name in shown if not name.startswith("_") and name != "extra_repr"))
    bare = "()" if getattr(value.__init__, "__module__", "").startswith("torch") else ""  # which takes any arguments
    return f".. autoclass:: {path}{bare}\n" + (f"   :members: {members}\n" if members else "")


def notebook(path: Path) -> str:
    """Return a notebook with a note below its title, and with its outputs if it was executed as it is now."""
    book, note = json.loads(path.read_text(encoding="utf-8")), "Not executed: `make notebooks` before `make docs` does."
    if (copy := EXECUTED / path.name).is_file():
        executed = json.loads(copy.read_text(encoding="utf-8"))
        if [x["source"] for x in executed["cells"]] == [x["source"] for x in book["cells"]]:
            book, note = executed, "The outputs are those of `make notebooks`"
            note += ", which trains for few steps." if "STEPS" in str(book["cells"]) else "."
    text = f"*In the repository: `notebooks/{path.name}`. {note}*"
    book["cells"].insert(1, {"cell_type": "markdown", "id": "site-note", "metadata": {}, "source": text})
    return json.dumps(book)


def code_page(path: str) -> str:
    """Return a page, outside the sidebar, that shows a file of the repository; Markdown shows itself."""
    text, language = (ROOT / path).read_text(encoding="utf-8"), {".py": "python", ".sh": "bash"}.get(Path(path).suffix)
    if not language:  # a model card
        return text.replace("---\n", "---\norphan: true\n", 1)
    return f"---\norphan: true\n---\n\n# {path}\n\n``````{{code-block}} {language}\n:linenos:\n\n{text}``````\n"


def toctree(caption: str, pages: list[str]) -> str:
    """Return a part of the sidebar."""
    return "\n".join(["\n```{toctree}", ":hidden:", f":caption: {caption}", *(f"/{x}" for x in pages), "```\n"])


def assemble(source: Path) -> None:
    """Write the pages into a folder, at the places that their originals have in the repository."""
    pages = {path: (ROOT / path).read_text(encoding="utf-8") for path in ("CHANGELOG.md", "CONTRIBUTING.md")}
    pages |= {f"docs/{path.name}": path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
    pages |= {f"notebooks/{path.name}": notebook(path) for path in (ROOT / "notebooks").glob("*.ipynb")}
    pages |= {f"api/{name}.md": text for name, text in reference()}
    pages |= {"findings/README.md": findings(), "cli.md": command_line(), "minibert/model.py.md": code_page(PAGE)}
    pages |= {"index.md": (ROOT / "README.md").read_text(encoding="utf-8")}

    def linked(match: re.Match[str]) -> str:
        """Let a link to a file of code lead to a page that shows it, and a file's name give way to its page's title."""
        path = os.path.normpath(os.path.join(os.path.dirname(page), match[2]))
        if path not in pages and (ROOT / path).is_file() and Path(path).suffix in (".py", ".sh", ".md"):
            end = "" if path.endswith(".md") else ".md"
            pages.setdefault(path + end, code_page(path))
            return f"[{match[1]}]({match[2]}{end})"
        return f"[]({match[2]})" if match[2].endswith((match[1], f"/{match[1]}")) else match[0]

    for page in list(pages):
        pages[page] = re.sub(r"\[([^\]]+)\]\(([^)\s#:]+)\)", linked, pages[page])
    left = [page.rpartition(".")[0] for page in sorted(pages)]
    for caption, patterns in SIDEBAR.items():
        matching = [x for p in patterns.split() for x in left if re.fullmatch(p.replace("*", "[^/]+"), x)]
        pages["index.md"] += toctree(caption, list(dict.fromkeys(matching)))
        left = [page for page in left if page not in matching]
    for page, text in pages.items():
        (source / page).parent.mkdir(parents=True, exist_ok=True)
        (source / page).write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "docs/pictures", source / "docs/pictures", dirs_exist_ok=True)


def check_links(site: Path) -> list[str]:
    """Return what is wrong with the links of a site, and write those to other sites into external.txt beside it."""
    texts = {path.resolve(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    anchors = {path: {"", *re.findall(r"""\bid=["']([^"']+)""", text)} for path, text in texts.items()}
    wrong, external = [], set[str]()
    for path, text in texts.items():
        for tag, found in re.findall(r"""<(\w+)\b[^>]*?\s(?:href|src)=["']([^"']*)""", text):
            link = urlsplit(unescape(found))
            target = (path.parent / unquote(link.path)).resolve() if link.path else path
            if link.scheme or link.netloc:
                external.add(link.geturl())
                wrong += [f"{path}: fetches {found}"] if tag != "a" and link.scheme != "data" else []
            elif not target.is_file() or unquote(link.fragment) not in anchors.get(target, {""}):
                wrong.append(f"{path}: nothing is at {found}")
    for path in site.rglob("*.css"):
        fetched = re.findall(r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^)\s]+""", path.read_text(encoding="utf-8"))
        wrong += [f"{path}: fetches {link}" for link in fetched]
    external_links = sorted(link for link in external if not link.startswith("data:"))
    (site.parent / "external.txt").write_text("\n".join(external_links) + "\n", encoding="utf-8")
    return wrong


def main() -> int:
    """Assemble, build, check. Return the exit status."""
    shutil.rmtree(BUILD, ignore_errors=True)
    assemble(BUILD / "source")
    options = ["-q", "-W", "--keep-going", "-j", "auto", "-c", str(ROOT / "docs")]
    command = [sys.executable, "-m", "sphinx", *options, str(BUILD / "source"), str(BUILD / "html")]
    if status := subprocess.run(command, cwd=ROOT).returncode:
        return status
    for path in (BUILD / "html/_modules").rglob("*.html"):  # its links back are wrong where a name has two homes
        text = re.sub(r'<a class="viewcode-back"[^>]*>.*?</a>', "", path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")
    wrong = check_links(BUILD / "html")
    print("\n".join([*wrong, f"{BUILD / 'html/index.html'}: {len(wrong)} wrong links"]))
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
