"""`minibert embed | similarity | view | inspect`: text to vectors, and a look inside."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.hub import DEFAULT_MODEL
from ..display import shorten, table
from .options import add_model, add_source, check_folder, encoder_of, say_truncation

if TYPE_CHECKING:
    import numpy as np


def add_commands(commands: Any) -> None:
    """Put them below the parser."""
    embed = commands.add_parser(
        "embed",
        help="texts -> vectors",
        description="Give a vector for each text: from the command line, a file or stdin, one text a line. Every line "
        "gets a row, empty ones too.",
    )
    _add_texts(embed)
    add_model(embed)
    embed.add_argument("-o", "--output", type=Path, metavar="FILE", help=".npy (an array) or .jsonl (JSON lines)")
    embed.add_argument(
        "--format",
        choices=("table", "jsonl", "npy"),
        help="of the output; by default as FILE ends, a table on a terminal, and otherwise JSON lines",
    )
    embed.add_argument("--normalize", action="store_true", help="scale vectors to length 1")
    embed.add_argument("--truncate-dim", type=int, metavar="N", help="keep the first N dimensions")
    embed.add_argument(
        "--precision",
        default="float32",
        choices=("float32", "int8", "uint8", "binary", "ubinary"),
        help="of the numbers",
    )
    embed.add_argument("--prompt", metavar="WORDS", help="put this in front of each text")
    embed.add_argument("--prompt-name", metavar="NAME", help="put the checkpoint's prompt of that name there")
    embed.set_defaults(run=_embed)

    similarity = commands.add_parser(
        "similarity",
        help="how alike texts are",
        description="Compare every text with every other, by the measure of the checkpoint (mostly the cosine).",
    )
    _add_texts(similarity)
    add_model(similarity)
    similarity.set_defaults(run=_similarity)

    view = commands.add_parser(
        "view",
        help="a page that shows what the heads look at",
        description="Write one HTML file, for any browser and without a network: attention in every layer and head, "
        "queries and keys, what the pooling takes; with two texts, which words make them alike.",
    )
    view.add_argument("text", metavar="TEXT")
    view.add_argument("other", nargs="?", metavar="OTHER", help="a second text, to compare with the first")
    view.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the page, as page.html")
    add_model(view)
    view.set_defaults(run=_view)

    inspect = commands.add_parser(
        "inspect",
        help="what a checkpoint is, and what was loaded of it",
        description="Show the config, the parameters of each part, the pooling, and the load report: every tensor "
        "used, or known and left aside.",
    )
    inspect.add_argument("model", nargs="?", default=DEFAULT_MODEL, metavar="MODEL", help="a folder or a hub id")
    add_source(inspect)
    inspect.set_defaults(run=_inspect)


def _add_texts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts; none: they are read from stdin")
    parser.add_argument("-i", "--input", metavar="FILE", help="one text a line, UTF-8; - is stdin")
    parser.add_argument("--batch-size", type=int, metavar="N", help="texts a batch, at most (default: by tokens)")


def _embed(options: argparse.Namespace) -> None:
    form = _form(options)
    texts = _texts(options)
    encoder = encoder_of(options)
    vectors = encoder.encode(
        texts,
        batch_size=options.batch_size,
        show_progress_bar=sys.stderr.isatty() and len(texts) > 100,
        normalize_embeddings=options.normalize,
        truncate_dim=options.truncate_dim,
        precision=options.precision,
        prompt=options.prompt,
        prompt_name=options.prompt_name,
    )
    say_truncation(encoder.truncation_report, options.truncation)
    if form == "table":
        sys.stdout.write(_vector_table(texts, vectors))
        return
    from ..checkpoint.atomic import replacing

    if options.output is None:
        _write(sys.stdout.buffer, form, texts, vectors)
        return
    with replacing(options.output) as temporary, temporary.open("wb") as file:
        _write(file, form, texts, vectors)
    print(f"{options.output}: {len(vectors)} vectors of {vectors.shape[1]}", file=sys.stderr)


def _similarity(options: argparse.Namespace) -> None:
    texts = _texts(options)
    if len(texts) < 2:
        raise ValueError("similarity needs at least two texts")
    encoder = encoder_of(options)
    vectors = encoder.encode(texts, batch_size=options.batch_size)
    say_truncation(encoder.truncation_report, options.truncation)
    scores = encoder.similarity(vectors, vectors)
    rows = [["", "", *range(1, len(texts) + 1)]]
    rows += [
        [i, shorten(text, 48), *(f"{score:.3f}" for score in scores[i - 1].tolist())] for i, text in enumerate(texts, 1)
    ]
    print(table(rows, left=(1,)))


def _view(options: argparse.Namespace) -> None:
    check_folder(options.output)
    from ..research.view import view

    encoder = encoder_of(options)
    view(encoder, options.text, options.other, path=options.output)
    say_truncation(encoder.truncation_report, options.truncation)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB, for any browser", file=sys.stderr)


def _inspect(options: argparse.Namespace) -> None:
    from ..checkpoint.wordpiece import NoTokenizerError
    from ..encoder import SentenceEncoder
    from ..model import Bert
    from .inspection import describe

    source = {"revision": options.revision, "local_files_only": options.local_files_only, "device": "cpu"}
    try:
        print(describe(SentenceEncoder.from_pretrained(options.model, **source)))
    except NoTokenizerError:
        print(describe(Bert.from_pretrained(options.model, **source)))


def _form(options: argparse.Namespace) -> str:
    """Settle the output before any work: a name that can't be written should not cost an hour of encoding."""
    if options.output is None:
        return options.format or ("table" if sys.stdout.isatty() else "jsonl")
    form = options.format or {".npy": "npy", ".jsonl": "jsonl"}.get(options.output.suffix)
    if form not in ("npy", "jsonl"):
        raise ValueError(f"{options.output}: an output file is .npy or .jsonl (or say --format)")
    check_folder(options.output)
    return form


def _texts(options: argparse.Namespace) -> list[str]:
    if options.texts and options.input:
        raise ValueError("give texts or --input, not both")
    if options.texts:
        return list(options.texts)
    if options.input in (None, "-"):
        if options.input is None and sys.stdin.isatty():
            raise ValueError('no text: minibert embed "a text", or --input FILE, or pipe lines in (see --help)')
        return _lines("stdin", sys.stdin.buffer.read())
    return _lines(options.input, Path(options.input).read_bytes())


def _lines(source: str, content: bytes) -> list[str]:
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
        lines.pop()  # the end of the last line, not a line after it
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            texts.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError as error:
            raise ValueError(f"{source}, line {number}: not UTF-8 ({error.reason} at byte {error.start})") from None
    return texts


def _write(file: Any, form: str, texts: Iterable[str], vectors: np.ndarray) -> None:
    if form == "npy":
        import numpy as np

        np.save(file, vectors)
        return
    for text, vector in zip(texts, vectors, strict=True):
        numbers = [float(str(number)) if vector.dtype.kind == "f" else int(number) for number in vector]
        file.write(json.dumps({"text": text, "embedding": numbers}, ensure_ascii=False).encode() + b"\n")


def _vector_table(texts: Sequence[str], vectors: np.ndarray) -> str:
    """The first numbers of each vector: enough to see that it works, and that two differ."""
    shown = min(6, vectors.shape[1])
    rows = [["text", *range(1, shown + 1), "", "length"]]
    for text, vector in zip(texts, vectors, strict=True):
        numbers = [f"{number:.4f}" if vector.dtype.kind == "f" else str(number) for number in vector[:shown].tolist()]
        length = float((vector.astype(float) ** 2).sum()) ** 0.5
        rows.append([shorten(text, 40), *numbers, f"… {vectors.shape[1]}", f"{length:.4f}"])
    return table(rows) + "\n"
