"""`minibert ...`: the library from a shell. A command imports torch only when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from . import embed, evaluate, inspect, pretrain, similarity, train, view
from .options import read_toml

EXAMPLES = """\
examples:
  minibert embed "A man is eating food."                      a readable table
  minibert embed --input texts.txt --output vectors.npy       a line in, a row out; progress is shown
  cat texts.txt | minibert embed | head -1                    JSON lines with all the numbers
  minibert embed --model sentence-transformers/bert-base-nli-cls-token "A man is eating food."
  minibert similarity "A man eats." "Someone has lunch." "The sky is blue."
  minibert view "A man eats." "Someone has lunch." -o page.html     attention, in a page for the browser
  minibert inspect ./my-model                                 config, parameters, pooling, load report
  minibert train run.toml --output runs/first                 train a model of your own
  minibert evaluate sts sts-dev.csv --model runs/first/model  and measure it
  minibert pretrain text.txt --output runs/domain             adapt a model to another kind of text

`minibert COMMAND --help` shows its flags."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Return its exit status: 0; 1 after one line on stderr; 2 for a wrong command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if getattr(options, "toml", None):  # its values become defaults, so that flags win over them
            options.parser.set_defaults(**read_toml(options.parser, options.toml))
            options = parser.parse_args(arguments)
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed it
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
    text = "Embed text with BERT: published weights in, vectors out; and train your own."
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="minibert", description=text, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"minibert {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for verb in (embed, similarity, view, inspect, train, pretrain, evaluate):
        name, examples = verb.__name__.rpartition(".")[2], getattr(verb, "EXAMPLES", None)
        form = raw if examples else argparse.HelpFormatter  # examples keep their lines
        command = commands.add_parser(
            name, help=verb.HELP, description=verb.__doc__, epilog=examples, formatter_class=form
        )
        verb.add_flags(command)
        command.set_defaults(run=verb.run, parser=command)
    return parser
