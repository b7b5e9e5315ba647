"""Save a model with its layers as machine code for this processor: fastest where a call has one text, or long ones.

The folder is a checkpoint as any other, and loads without a compiler. Compiling needs Linux and GNU C++, and takes some
seconds. On a processor that lacks an instruction the code is not used, and `explain()` says so. A file in the user's
cache notes who compiled it: elsewhere the code runs with --compiled only.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..checkpoint.hub import DEFAULT_MODEL
from ..display import table
from .options import add_source, keywords

HELP = "machine code for this processor, beside a model"
EXAMPLES = """\
examples:
  minibert compile -o ./compiled                              the built-in model
  minibert compile sentence-transformers/bert-base-nli-cls-token -o ./bert
  minibert embed --model ./compiled --dtype int8 "A man is eating food.\""""


def add_flags(parser: ArgumentParser) -> None:
    """Add the model, the hub and the output."""
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, metavar="MODEL", help="a folder or a hub id")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER", help="where to save it")
    add_source(parser)


def run(options: Namespace) -> None:
    """Compile, and print what it is for and how fast it is."""
    from ..checkpoint.hub import open_files
    from ..checkpoint.kinds import kind_of
    from ..compiled.build import FOLDER, MANIFEST
    from ..config import read_json
    from ..health.checks import ENCODERS

    source = keywords(options, "revision", "local_files_only")
    kind = ENCODERS[kind_of(open_files(options.model, **source)) or "SentenceEncoder"]
    kind.from_pretrained(options.model, device="cpu", **source).compile(options.output)
    facts = read_json(options.output / FOLDER / MANIFEST)
    speeds = [(name, *(f"{times:.1f} x" for times in speed)) for name, speed in facts["speed"].items()]
    print(f"compiled by {facts['compiler']}")
    print(f"for {facts['machine']} with {', '.join(facts['features']) or 'any processor'}")
    print(table([("a layer's speed, of the stack's", "one short text", "32 texts"), *speeds]))
    print(f'use it: {kind.__name__}.from_pretrained("{options.output}", device="cpu")')
