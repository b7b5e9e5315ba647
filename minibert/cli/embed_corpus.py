"""Embed whole files into a folder of shards. The same command goes on where a crash, or Ctrl-C, has ended it.

Files without a text are a valid corpus of no vectors: the exit status is 0, and the report says so.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from ..bulk.settings import ENGINES, FORMATS, PRECISIONS, CorpusOptions
from ..bulk.sources import find_sources
from ..checkpoint.atomic import refuse_file
from ..display import table
from ..tables import FORMS
from .options import add_encoder, column, keywords, load_encoder

HELP = "files -> a folder of vectors, for days if need be"
EXAMPLES = """\
examples:
  minibert embed-corpus texts.txt -o vectors                  a line is a text
  minibert embed-corpus "pai*.jsonl" --field sentence1 --on-error skip -o vectors      rejects.jsonl has the rest
  minibert embed-corpus faq.csv --column question --id answer --keep-texts -o vectors
  minibert embed-corpus texts.txt --precision ubinary --copy float16 -o vectors        search in bits, then rescore
  cat texts.txt | minibert embed-corpus - -o vectors"""
NAMES = tuple(CorpusOptions.__dataclass_fields__)


def add_flags(parser: ArgumentParser) -> None:
    """Add sources, encoder, and what is stored."""
    text = "files (also .gz and .zst) or glob patterns; - is stdin"
    parser.add_argument("sources", nargs="+", metavar="FILE", help=text)
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER", help="for the shards")
    text = "of the texts, in tables: a name, or a number for a TSV or CSV file without a line of names"
    parser.add_argument("--column", "--field", "--texts", type=column, metavar="NAME", help=text)
    text = "column of the ids (default: file and line, as texts.txt:1)"
    parser.add_argument("--id", dest="id_column", type=column, metavar="NAME", help=text)
    text = "of the files (default: from each name)"
    parser.add_argument("--input-format", choices=("text", *FORMS), help=text)
    add_encoder(parser)
    text = "of the shards (default: npy; with Ray parquet)"
    parser.add_argument("--format", dest="output_format", choices=FORMATS, help=text)
    text = "of the numbers (default: %(default)s)"
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help=text)
    text = "keep such vectors too, by which a search in int8 or ubinary rescores"
    parser.add_argument("--copy", choices=("float32", "float16"), help=text)
    parser.add_argument("--keep-texts", action="store_true", help="write the texts beside the ids")
    text = "vectors of a shard (default: %(default)s)"
    parser.add_argument("--shard-rows", type=int, default=CorpusOptions.shard_rows, metavar="N", help=text)
    text = "for a row that is not a text (default: %(default)s)"
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop", help=text)
    parser.add_argument("--normalize", dest="normalize_embeddings", action="store_true", help="to length 1")
    parser.add_argument("--truncate-dim", type=int, metavar="N", help="keep the first N dimensions")
    parser.add_argument("--prompt", metavar="WORDS", help="put this before each text")
    parser.add_argument("--prompt-name", metavar="NAME", help="put the checkpoint's prompt before each text")
    parser.add_argument("--batch-size", type=int, metavar="N", help="most texts per batch (default: by tokens)")
    text = "that encode side by side, each on its share of the cores, or a GPU (default: %(default)s)"
    parser.add_argument("--processes", type=int, default=1, metavar="N", help=text)
    text = "ray: Ray Data, on the cluster of RAY_ADDRESS or of this machine, as many actors as cores or --processes"
    parser.add_argument("--engine", choices=ENGINES, default="local", help=text)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(options: Namespace) -> None:
    """Embed the corpus, and print the report."""
    options.output_format = options.output_format or ("parquet" if options.engine == "ray" else "npy")
    chosen = keywords(options, *NAMES)
    CorpusOptions(**chosen)
    refuse_file(options.output)
    find_sources(options.sources, options.column, options.input_format, options.id_column)  # before torch is imported
    from ..bulk.corpus import embed_corpus

    report = embed_corpus(
        load_encoder(options),
        options.sources,
        options.output,
        on_error=options.on_error,
        show_progress_bar=sys.stderr.isatty(),
        **chosen,
    )
    if not report.texts:
        print("minibert: there is no text in these files: the index has no vectors", file=sys.stderr)
    if options.json:
        print(json.dumps(asdict(report)))
        return
    rows = ((name.replace("_", " "), value, isinstance(value, int)) for name, value in asdict(report).items())
    print(table([[name, f"{value:,.{0 if whole else 1}f}"] for name, value, whole in rows]))
