"""The flags that several commands share, and what is made of them."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
from argparse import Action, ArgumentParser, BooleanOptionalAction, Namespace, _ActionsContainer
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.hub import DEFAULT_MODEL
from ..tables import FORMS, decoded_lines, form_of
from ..training.settings import AUTOCASTS, Settings

if TYPE_CHECKING:
    from ..encoder import SentenceEncoder
    from ..truncation import TruncationReport


def add_encoder(parser: ArgumentParser) -> None:
    """Add the flags of an encoder and its arithmetic."""
    add_model(parser)
    add_pooling(parser)
    parser.add_argument("--dtype", help="float32 (default), bfloat16, int8, float16, float64")
    text = "run a folder's machine code whoever compiled it (default: if you did, here), or never"
    parser.add_argument("--compiled", action=BooleanOptionalAction, help=text)
    text = "for a text that is too long: truncate and report, refuse, or truncate silently (default: %(default)s)"
    parser.add_argument("--truncation", default="report", choices=("report", "error", "silent"), help=text)


def add_pooling(parser: _ActionsContainer) -> None:
    """Add the flag of the pooling."""
    text = "cls, mean, max, ... instead of the checkpoint's own; with commas several, side by side"
    parser.add_argument("--pooling", type=lambda way: way.split(",") if "," in way else way, metavar="WAY", help=text)


def add_model(parser: _ActionsContainer) -> None:
    """Add the flags that say which model, and on which device."""
    text = "a folder or a hub id, as owner/name (default: %(default)s)"
    parser.add_argument("-m", "--model", default=DEFAULT_MODEL, help=text)
    add_source(parser)
    parser.add_argument("--device", help="cpu, cuda, mps (default: a GPU if there is one)")


def add_source(group: _ActionsContainer) -> None:
    """Add the flags of the hub."""
    group.add_argument("--revision", metavar="NAME", help="branch, tag or commit on the hub")
    group.add_argument("--local-files-only", action=BooleanOptionalAction, default=False, help="never use the network")


def load_encoder(options: Namespace) -> SentenceEncoder:
    """Load the encoder of `add_encoder`'s flags."""
    from ..encoder import SentenceEncoder

    names = ("revision", "local_files_only", "device", "dtype", "pooling", "truncation")
    compiled = getattr(options, "compiled", None)  # `train` lacks the flag
    return SentenceEncoder.from_pretrained(options.model, compiled=compiled, **keywords(options, *names))


def keywords(options: Namespace, *names: str) -> dict[str, Any]:
    """Return flags as the keywords of a call that have their names."""
    return {name: getattr(options, name) for name in names}


def terminal_columns() -> int | None:
    """Return the width of the terminal; None where stdout is not one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def report_truncation(report: TruncationReport, mode: str) -> None:
    """Print the report on stderr if something was truncated and the mode asks for it."""
    if report.lost and mode == "report":
        print(f"minibert: {report} (--truncation error refuses such texts)", file=sys.stderr)


def output_file(value: str) -> Path:
    """Take an output's path; - is stdout."""
    return Path("/dev/stdout" if value == "-" else value)


def check_folder(output: Path) -> None:
    """Raise ValueError if an output file is a folder, or the folder that it is in does not exist."""
    if output.is_dir():
        raise ValueError(f"{output}: this is a folder, and the output is a file")
    if not output.absolute().parent.is_dir():
        raise ValueError(f"{output}: there is no folder {output.absolute().parent}")


def is_stdout(output: Path) -> bool:
    """Tell if a path is one of stdout's names."""
    with suppress(OSError):  # there is no such file yet, or stdout is an object of Python's only
        return os.path.samestat(output.stat(), os.fstat(sys.stdout.fileno()))
    return False


@contextmanager
def writing(output: Path | None) -> Iterator[Any]:
    """Open an output as `replacing` does; None, or whatever name stdout has, is stdout."""
    from ..checkpoint.atomic import naming, replacing

    if output is None or is_stdout(output):  # opened anew it would be truncated, whatever the shell wrote before
        with naming("stdout"):
            yield sys.stdout.buffer
            sys.stdout.flush()
    else:
        with replacing(output) as path, naming(output), path.open("wb") as file:
            yield file


def add_texts(parser: ArgumentParser) -> None:
    """Add the flags that say where texts come from."""
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts (default: lines of stdin)")
    parser.add_argument("-i", "--input", metavar="FILE", help="one text per line, UTF-8, or a table; - is stdin")
    text = "of a table, the column of the texts: a name from its first line, or a number for a table without one"
    parser.add_argument("--texts", dest="column", type=column, metavar="COLUMN", help=text)
    parser.add_argument("--input-format", choices=FORMS, help="of the table (default: from its name)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="most texts per batch (default: by tokens)")


def read_texts(options: Namespace, *, piecewise: bool = False) -> Iterator[list[str]]:
    """Yield the texts of `add_texts`' flags in one list; or ``piecewise``, as many lines as have come each time.

    Raises ValueError if there are none, a line is not UTF-8, or FILE is a table and its column is not given.
    """
    from ..training.reading import read_examples

    if options.texts and options.input:
        raise ValueError("give texts or --input, not both")
    if not options.texts and options.input is None and sys.stdin.isatty():
        raise ValueError('no text: minibert embed "a text", or --input FILE, or pipe lines in (see --help)')
    name = options.input or ("-" if options.texts in ([], ["-"]) else None)
    if (options.column is not None or options.input_format) and name in (None, "-"):
        raise ValueError("--texts and --input-format are for a table in a file: give it with --input FILE")
    if name is None:
        yield list(options.texts)
        return
    path, shown = Path(name), "stdin" if name == "-" else name
    if options.column is not None:
        yield list(read_examples(path, texts=[options.column], form=options.input_format).columns[0])
        return
    if options.input_format or form_of(path) in {*FORMS, "json"}:
        raise ValueError(f"{path} is a table: --texts COLUMN says which column holds the texts")
    count = 0
    with nullcontext(sys.stdin.buffer) if name == "-" else path.open("rb") as file:
        for piece in _pieces(file) if piecewise else [file]:
            texts = [line for _, line in decoded_lines(piece, shown, start=count + 1)]
            count += len(texts)
            if texts:
                yield texts
    if not count:
        raise ValueError(f"{shown}: there is no text in it")


def _pieces(file: Any) -> Iterator[list[bytes]]:
    """Yield the lines that a pipe has so far, and so on until its end."""
    rest = b""
    while part := file.read1(2**20):
        *lines, rest = (rest + part).split(b"\n")
        yield lines
    yield [rest] if rest else []


class Several:
    """The type of a flag that takes values of one kind, with commas between them, or a list in a TOML file."""

    def __init__(self, kind: Callable[[str], Any], count: int | None = None) -> None:
        self.kind = kind
        self.count = count
        self.__name__ = f"{kind.__name__} list"  # for argparse's messages

    def __call__(self, value: str | list[Any]) -> list[Any]:
        """Convert each. Raises ValueError if one is not of the kind, or there are more or fewer than ``count``."""
        values = [self.kind(str(item)) for item in (value.split(",") if isinstance(value, str) else value)]
        if self.count not in (None, len(values)):
            raise ValueError(f"must be {self.count} values")
        return values


def column(value: str) -> str | int:
    """Take a column by its number, or else by its name."""
    return int(value) if value.isdecimal() else value


def add_columns(parser: _ActionsContainer, prefix: str = "", more: str = "") -> None:
    """Add the flags for the columns of a file, with a prefix such as "dev-"."""
    text = f"columns of the texts, as 1,2 or question,answer{more}"
    parser.add_argument(f"--{prefix}texts", type=Several(column), metavar="COLUMNS", help=text)
    parser.add_argument(f"--{prefix}label", type=column, metavar="COLUMN", help="column of the score or the class")
    parser.add_argument(f"--{prefix}format", choices=FORMS, help="of the file (default: from its name)")


def add_settings(group: _ActionsContainer) -> None:
    """Add a flag for each of the loop's `Settings`."""
    kinds: dict[str, dict[str, Any]] = {
        "bool": {"action": BooleanOptionalAction},
        "int": {"type": int, "metavar": "N"},
        "float": {"type": float, "metavar": "X"},
        "str": {"choices": AUTOCASTS},
    }
    for field in fields(Settings):
        kind = str(field.type).split(" | ")[0]
        text = field.metadata["help"] + ("" if field.default is None or kind == "bool" else " (default: %(default)s)")
        group.add_argument(f"--{field.name.replace('_', '-')}", default=field.default, help=text, **kinds[kind])


def read_toml(parser: ArgumentParser, path: Path) -> dict[str, Any]:
    """Return the values of a file whose keys are the parser's flags, for `parser.set_defaults`.

    Raises:
        ValueError: The file is not TOML, a key is not a flag, or a flag does not take the value. The message names file
            and key. OSError: The file can't be read.
    """
    try:
        tomllib: Any = import_module("tomllib")
    except ImportError:
        raise ValueError(f"{path}: TOML needs Python 3.11 or newer; with this one, use flags instead") from None
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    flags = {action.dest: action for action in parser._actions if action.option_strings and action.dest != "help"}
    found = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in flags:
            near = difflib.get_close_matches(name, flags, 1)
            advice = f"did you mean {near[0]!r}?" if near else "--help lists them"
            raise ValueError(f"{path}: there is no setting {key!r} ({advice})")
        try:
            found[name] = _checked(flags[name], value)
        except ValueError as error:
            raise ValueError(f"{path}: {key} = {value!r}: {error}") from None
    return found


def _checked(flag: Action, value: Any) -> Any:
    """Return the value as the flag's type. Raises ValueError if the flag does not take it."""
    if isinstance(value, bool) != isinstance(flag, BooleanOptionalAction):
        raise ValueError("true and false are for switches, which take nothing else")
    if isinstance(value, bool):
        return value
    kind: Any = flag.type or str
    if isinstance(value, dict) or (isinstance(value, list) and not isinstance(kind, Several)):
        raise ValueError("must be one value")
    value = kind(value if isinstance(value, list) else str(value))
    if flag.choices and value not in flag.choices:
        raise ValueError(f"must be one of {', '.join(flag.choices)}")
    return value
