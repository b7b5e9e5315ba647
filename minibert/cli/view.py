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
    parser.add_argument(
        "-o", "--output", type=output_file, required=True, metavar="FILE", help="the page, as page.html; - is stdout"
    )
    add_encoder(parser)


def run(options: Namespace) -> None:
    """Write the page."""
    check_folder(options.output)
    from ..research.view import view

    encoder = load_encoder(options)
    view(encoder, options.text, options.other, path=options.output)
    report_truncation(encoder.truncation_report, options.truncation)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB, for any browser", file=sys.stderr)
