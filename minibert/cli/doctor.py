"""Describe this machine in ten lines, for a report of a fault: versions, processor, cores, speed, GPU, cache.

It measures for two seconds, uses no network, and tells no token: of a variable that may be secret only that it is set.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from .options import terminal_columns

HELP = "versions, processor and speed of this machine"
EXAMPLES = """\
examples:
  minibert doctor
  minibert doctor --json"""


def add_flags(parser: ArgumentParser) -> None:
    """Add the form."""
    parser.add_argument("--json", action="store_true", help="an object with an object for each line")


def run(options: Namespace) -> None:
    """Print the facts."""
    from ..health import doctor

    found = doctor()
    print(json.dumps(found, indent=2) if options.json else found.table(terminal_columns()))
