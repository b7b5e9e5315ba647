"""`minibert ...`: the library from a shell. A command imports torch only when it runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .. import __version__
from ..checkpoint.atomic import naming
from . import compile as compile_verb
from . import doctor, embed, embed_corpus, evaluate, inspect, pretrain, search, similarity, train, verify, view
from .options import read_toml

EXAMPLES = """\
examples:
  minibert embed "A man is eating food."                      a readable table
  minibert embed --input texts.txt --output vectors.npy       a line in, a row out; progress is shown
  minibert embed --input faq.csv --texts question --output vectors.npy      a column of a table
  cat texts.txt | minibert embed | head -1                    JSON lines with all the numbers, as lines come
  minibert embed --model sentence-transformers/bert-base-nli-cls-token "A man is eating food."
  minibert similarity "A man eats." "Someone has lunch." "The sky is blue."
  minibert similarity --input texts.txt --top 10              the most similar pairs
  minibert embed-corpus "*.txt" -o vectors                    whole corpora: resumed after a crash
  minibert search "Is lunch ready?" --index index -k 5        the most similar texts of such a corpus
  minibert view "A man eats." "Someone has lunch." -o page.html     attention, in a page for the browser
  minibert inspect ./my-model                                 config, parameters, pooling, load report
  minibert verify ./my-model                                  is it all right? its files, weights and vectors
  minibert doctor                                             versions, processor, speed: ten lines for a bug report
  minibert compile -o ./compiled                              machine code for this processor, beside a model
  minibert train run.toml --output runs/first                 train a model of your own
  minibert evaluate sts sts-dev.csv --model runs/first/model  and measure it
  minibert pretrain text.txt --output runs/domain             adapt a model to another kind of text

`minibert COMMAND --help` shows its flags."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Return its exit status: 0; 1 after one line on stderr, or by `verify`; 2 for a wrong command."""
    before = warnings.formatwarning
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115  # they are None where the shell has closed them
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    # A warning is one line, as an error is.
    warnings.formatwarning = lambda message, *_, **__: f"minibert: {message}\n"
    try:
        with _ended_by_sigterm():
            parser = _parser()
            options, unknown = parser.parse_known_args(arguments)
            if unknown:  # with the usage of the command, and not of all
                options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
            if getattr(options, "toml", None):  # its values become defaults, so that flags win over them
                options.parser.set_defaults(**read_toml(options.parser, options.toml))
                options = parser.parse_args(arguments)
            status = options.run(options)
            with naming("stdout"):
                sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed it
        return 1
    except (OSError, ValueError) as error:
        name, cause = getattr(error, "filename", None), getattr(error, "strerror", None)
        print(f"minibert: {name}: {cause}" if name and cause else f"minibert: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("minibert: stopped", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = before
        try:
            sys.stdout.flush()
        except OSError:  # what can't be written would be tried again, and complained of, at the process's end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(status or 0)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise SystemExit, so that temporary files are removed. A process of torchrun ends at once."""
    if threading.current_thread() is not threading.main_thread() or "LOCAL_RANK" in os.environ:
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _parser() -> argparse.ArgumentParser:
    text = "Embed text with BERT: published weights in, vectors out; and train your own."
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="minibert", description=text, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"minibert {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    looking = view, inspect, verify, doctor
    for verb in (embed, embed_corpus, search, similarity, *looking, compile_verb, train, pretrain, evaluate):
        name, examples = verb.__name__.rpartition(".")[2].replace("_", "-"), getattr(verb, "EXAMPLES", None)
        command = commands.add_parser(name, help=verb.HELP, description=verb.__doc__, epilog=examples)
        command.formatter_class = raw if examples else argparse.HelpFormatter  # examples keep their lines
        verb.add_flags(command)
        command.set_defaults(run=verb.run, parser=command)
    return parser
