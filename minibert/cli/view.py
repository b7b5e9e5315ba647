"""Write one HTML file that any browser opens without a network.

It shows attention in every layer and head, queries and keys, and the pooling; with two texts, which words make them
similar.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from .options import add_encoder, check_folder, load_encoder, output_file, report_truncation

HELP = "a page that shows where the heads attend"


def add_flags(parser: ArgumentParser) -> None:
    """Add texts, the page's path, and encoder."""
    parser.add_argument("text", metavar="TEXT")
    parser.add_argument("other", nargs="?", metavar="OTHER", help="a second text, to compare with the first")
    text = "the page, as page.html; - is stdout"
    parser.add_argument("-o", "--output", type=output_file, required=True, metavar="FILE", help=text)
    add_encoder(parser)
    parser.add_argument("--max-length", type=int, metavar="N", help="show the first N tokens of a text")
    text = "leave out which words make two texts alike, which takes 128 forwards and backwards"
    parser.add_argument("--no-shares", dest="shares", action="store_false", help=text)


def run(options: Namespace) -> None:
    """Write the page."""
    check_folder(options.output)
    from ..research.view import view

    encoder = load_encoder(options)
    if options.max_length is not None:
        encoder.max_seq_length = options.max_length
    shown = {"shares": options.shares, "show_progress_bar": sys.stderr.isatty()}
    view(encoder, options.text, options.other, path=options.output, **shown)
    report_truncation(encoder.truncation_report, options.truncation)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB, for any browser", file=sys.stderr)
