"""Write one HTML file that any browser opens without a network.

It shows attention in every layer and head, queries and keys, and the pooling; with two texts, which words make them
similar, or with a late-interaction model which tokens of a document a query finds. With --mask it shows a text with and
without some words, and what a masked-LM head would put there. With --corpus it shows for each token the lines in which
the model computes nearly the same.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..config import check_count
from ..tables import decoded_lines
from ..truncation import TooLongError
from .options import Several, add_encoder, check_folder, keywords, load_encoder, output_file, report_truncation

if TYPE_CHECKING:
    from ..encoder import SentenceEncoder
    from ..heads import BertForMaskedLM
    from ..research.corpus import TokenIndex
    from ..retrieval.multi_vector_encoder import MultiVectorEncoder
    from ..text_model import TextModel

OF_CORPUS = "layer", "heads", "nearest", "index"
HELP = "a page that shows where the heads attend"


def add_flags(parser: ArgumentParser) -> None:
    """Add texts, the page's path, masks, corpus, and encoder."""
    parser.add_argument("text", metavar="TEXT")
    parser.add_argument("other", nargs="?", metavar="OTHER", help="a second text, to compare with the first")
    text = "the page, as page.html; - is stdout"
    parser.add_argument("-o", "--output", type=output_file, required=True, metavar="FILE", help=text)
    add_encoder(parser)
    parser.add_argument("--max-length", type=int, metavar="N", help="show the first N tokens of a text")
    text = "leave out which words make two texts alike, which takes 128 forwards and backwards"
    parser.add_argument("--no-shares", dest="shares", action="store_false", help=text)
    text = "show TEXT with and without this word, side by side; may be given several times"
    parser.add_argument("--mask", action="append", default=[], metavar="WORD", help=text)
    text = "show for each token the nearest ones in a file of one text per line, UTF-8"
    parser.add_argument("--corpus", metavar="FILE", help=text)
    text = "with --corpus: compare states after this layer, counted from 0 (default: the middle one)"
    parser.add_argument("--layer", type=int, metavar="N", help=text)
    text = "with --corpus: compare also the output of these heads of the layer, as 3 or 3,5; may be given several times"
    parser.add_argument("--heads", type=Several(int), action="append", metavar="LIST", help=text)
    text = "with --corpus: the nearest tokens that are shown for each (default: 12)"
    parser.add_argument("--nearest", type=int, metavar="N", help=text)
    text = "with --corpus: keep what was computed of it here, for the next time"
    parser.add_argument("--index", type=Path, metavar="FOLDER", help=text)


def run(options: Namespace) -> None:
    """Write the page."""
    check_folder(options.output)
    given = [f"--{flag}" for flag in OF_CORPUS if getattr(options, flag) is not None]
    if given and options.corpus is None:
        raise ValueError(f"there is no --corpus FILE for {', '.join(given)}")
    check_count("--nearest", options.nearest, optional=True)
    from ..research.view import view

    encoder = _load(options)
    for text in (options.text, options.other):
        _check_words(encoder, text)
    corpus = [] if options.corpus is None else _indexes(cast("SentenceEncoder", encoder), options)
    if options.max_length is not None:
        encoder.max_seq_length = options.max_length
        if (own := getattr(encoder, "document_length", None)) is not None:
            encoder.__dict__["document_length"] = min(own, encoder.max_seq_length)
    masked_lm = _masked_lm(cast("SentenceEncoder", encoder), options) if options.mask else None
    shown = {"shares": options.shares, "show_progress_bar": sys.stderr.isatty(), "nearest": options.nearest or 12}
    shown |= {"mask": options.mask, "masked_lm": masked_lm, "corpus": corpus}
    view(encoder, options.text, options.other, path=options.output, **shown)
    report_truncation(encoder.truncation_report, options.truncation)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB, for any browser", file=sys.stderr)


def _load(options: Namespace) -> SentenceEncoder | MultiVectorEncoder:
    """Load the encoder by the class that the checkpoint is for."""
    from ..checkpoint.hub import open_files
    from ..checkpoint.kinds import kind_of
    from ..retrieval.multi_vector_encoder import MultiVectorEncoder

    if kind_of(open_files(options.model, **keywords(options, "revision", "local_files_only"))) != "MultiVectorEncoder":
        return load_encoder(options)
    refused = {"--pooling": options.pooling, "--mask": options.mask, "--corpus": options.corpus}
    if given := [flag for flag, value in refused.items() if value]:
        raise ValueError(f"{options.model} is for MultiVectorEncoder, which takes no {', '.join(given)}")
    names = ("revision", "local_files_only", "device", "dtype", "truncation", "compiled")
    return MultiVectorEncoder.from_pretrained(options.model, **keywords(options, *names))


def _check_words(encoder: TextModel, text: str | None) -> None:
    """Raise ValueError, as `attribute` does, for a text of which there is nothing to show."""
    tokenize = encoder.tokenizer.encode
    template = tokenize([""]).ids
    if text is not None and set(tokenize([text]).ids) <= set(template):
        tokens = " ".join(encoder.tokenizer.convert_ids_to_tokens(template))
        raise ValueError(f"nothing to show: {text!r:.80} has no tokens besides {tokens}")


def _indexes(encoder: SentenceEncoder, options: Namespace) -> list[TokenIndex]:
    """Index the lines of the corpus by the states of a layer, and by each list of its heads."""
    from ..research.corpus import TokenIndex

    with Path(options.corpus).open("rb") as file:
        lines = [line for _, line in decoded_lines(file, options.corpus)]
    if not any(map(str.strip, lines)):
        raise ValueError(f"{options.corpus}: there is no text in it")
    layer = len(encoder.model.layers) // 2 if options.layer is None else options.layer
    indexes = []
    for heads in (None, *(options.heads or ())):
        name = f"layers.{layer}" if heads is None else f"layers.{layer}.heads.{'-'.join(map(str, heads))}"
        given = {"layer": layer, "heads": heads, "folder": options.index and options.index / name}
        try:
            indexes.append(TokenIndex.build(encoder, lines, show_progress_bar=sys.stderr.isatty(), **given))
        except TooLongError as error:
            line = next(iter(error.report.lost)) + 1
            raise ValueError(f"{options.corpus}, line {line}, is the first of {error.report}") from None
    report_truncation(indexes[0].truncation, options.truncation)
    return indexes


def _masked_lm(encoder: SentenceEncoder, options: Namespace) -> BertForMaskedLM | None:
    """Load the checkpoint's masked-LM head, if it has one."""
    from ..checkpoint.hub import open_files
    from ..checkpoint.load import WrongTensorsError, load_files
    from ..checkpoint.sentence_transformers import read_modules
    from ..heads import BertForMaskedLM

    files = open_files(options.model, **keywords(options, "revision", "local_files_only"))
    try:
        model = load_files(files.below(read_modules(files).transformer), into=BertForMaskedLM)
    except WrongTensorsError:  # the encoder was loaded from the same files, so it is the head that is missing
        return None
    return model.to(encoder.device)
