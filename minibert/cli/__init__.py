"""`minibert ...`: the library from a shell. torch is imported only when a command needs it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from . import encode, evaluate, train

EXAMPLES = """\
examples:
  minibert embed "A man is eating food."                      a readable table
  minibert embed --input texts.txt --output vectors.npy       a line in, a row out; progress is shown
  cat texts.txt | minibert embed | head -1                    JSON lines with all the numbers
  minibert embed --model sentence-transformers/bert-base-nli-cls-token "A man is eating food."
  minibert similarity "A man eats." "Someone has lunch." "The sky is blue."
  minibert view "A man eats." "Someone has lunch." -o page.html     attention, in a page for the browser
  minibert inspect ./my-model                                 config, parameters, pooling, what was loaded
  minibert train run.toml --output runs/first                 train a model of your own
  minibert evaluate sts sts-dev.csv --model runs/first/model  and measure it

`minibert COMMAND --help` tells the rest."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Gives the exit status: 0, or 1 with one line on stderr, or 2 for a wrong command line."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError) as error:
        print(f"minibert: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("minibert: stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minibert",
        description="Embed text with BERT: published weights in, vectors out; and train your own.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"minibert {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add_commands in (encode.add_commands, train.add_commands, evaluate.add_commands):
        add_commands(commands)
    return parser
