"""Check a checkpoint without the network: what was loaded, what its files say against each other, what it computes.

It takes a folder, or a hub id that is in the cache, of any kind. Each line has "ok", "warning" or "FAILED", what was
seen, and after an arrow what to do. The exit status is 1 if a check failed. Only checks that apply are shown.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from ..checkpoint.hub import DEFAULT_MODEL
from .options import terminal_columns

HELP = "whether a checkpoint is all right"
EXAMPLES = """\
checks:
  kind             the class that opens it
  load             tensors missing, unexpected, left aside
  letters, longest text, special tokens, vocabulary, pooling, tokenizer
                   the files against each other
  weights          NaN, zeros, never trained
  published        the vectors of weights that are known
  meaning          English pairs in the order that people give them; for rankers, paraphrases first
  gaps             words that a masked language model puts into English sentences
  fast stack       its numbers against the page's
  bfloat16, int8   how far they are from float32

examples:
  minibert verify                                             the built-in model
  minibert verify ./my-model
  minibert verify sentence-transformers/bert-base-nli-cls-token --json"""


def add_flags(parser: ArgumentParser) -> None:
    """Add the model and the form."""
    text = "a folder, or a hub id in the cache (default: %(default)s)"
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, metavar="MODEL", help=text)
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit in the cache")
    parser.add_argument("--json", action="store_true", help="an object with a list of checks")


def run(options: Namespace) -> int:
    """Print the checks. Return 1 if one failed."""
    from ..health import verify

    found = verify(options.model, revision=options.revision)
    if options.json:
        checks = [check._asdict() for check in found.checks]
        print(json.dumps({"model": found.model, "failed": found.failed, "checks": checks}, indent=2))
    else:
        print(found.table(terminal_columns()))
    return int(found.failed)
