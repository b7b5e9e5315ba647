"""Search a corpus that embed-corpus has written in the format npy: exact, by the model that made its vectors.

The exit status is 1 for an index of no vectors.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..config import check_count
from ..display import shorten, table
from .options import add_encoder, load_encoder, report_truncation

HELP = "a question -> the most similar texts of a corpus"
OWN = "the index's"


def add_flags(parser: ArgumentParser) -> None:
    """Add queries, index and encoder."""
    parser.add_argument("queries", nargs="+", metavar="QUERY", help="texts to search for")
    parser.add_argument("--index", required=True, type=Path, metavar="FOLDER", help="what embed-corpus has written")
    parser.add_argument("-k", "--top", type=int, default=10, metavar="N", help="results (default: %(default)s)")
    text = "of int8 with a copy, and of bits, score so many times N again by floats (default: %(default)s)"
    parser.add_argument("--rescore-multiplier", type=int, default=4, metavar="M", help=text)
    parser.add_argument("--prompt", metavar="WORDS", help="put this before each query (default: the checkpoint's)")
    parser.add_argument("--json", action="store_true", help="print a JSON object a result")
    add_encoder(parser)
    parser.set_defaults(model=OWN)


def run(options: Namespace) -> None:
    """Print the most similar texts of each query."""
    check_count("top", options.top)
    from ..bulk.job import describe_model
    from ..bulk.search import Index

    index = Index(options.index)
    if not len(index):
        raise ValueError(f"{options.index} holds no vectors: the files that embed-corpus was given have no text")
    model = index.manifest["model"]
    options.model = model["name"] if options.model == OWN else options.model
    options.dtype = options.dtype or model["arithmetic"]
    encoder = load_encoder(options)
    if describe_model(encoder)["sha256"] != model["sha256"]:
        advice = "give the --model and --pooling that embed-corpus had"
        raise ValueError(f"{options.index}: the vectors are of another model than {options.model} is now: {advice}")
    vectors = encoder.encode_query(options.queries, truncate_dim=index.width, prompt=options.prompt)
    report_truncation(encoder.truncation_report, options.truncation)
    found = index.search(vectors, options.top, rescore_multiplier=options.rescore_multiplier)
    for query, hits in zip(options.queries, found, strict=True):
        if options.json:
            for hit in hits:
                print(json.dumps({"query": query, **hit}, ensure_ascii=False))
            continue
        if len(found) > 1:
            print(shorten(query, 80))
        rows = [[f"{hit['score']:.3f}", shorten(hit["id"], 40), shorten(hit.get("text", ""), 80)] for hit in hits]
        print(table([["score", "id", "text"], *rows], left=(1, 2)))
