"""The texts that the student learns from: their sources, their licences, and how many sentences of each are used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Corpus:
    """One file in the folder of corpora: a sentence a line, or several with tabs between them (.tsv.gz)."""

    file: str
    most: int  # sentences, so that no one kind of text outweighs the others
    what: str
    source: str
    licence: str


CORPORA = (
    Corpus(
        "common_voice/sentences.en.txt.gz",
        40_000,
        "Common Voice prompts",
        "Mozilla, github.com/mozilla/voice-web",
        "CC0",
    ),
    Corpus(
        "grade_school_math/questions.en.txt.gz",
        3_000,
        "GSM8K train questions",
        "OpenAI, github.com/openai/grade-school-math",
        "MIT",
    ),
    Corpus(
        "image_captions/coco_testall.captions5.tsv.gz",
        25_000,
        "COCO captions",
        "COCO Consortium, cocodataset.org",
        "CC BY 4.0",
    ),
    Corpus(
        "nltk/state_union_inaugural.en.txt.gz",
        12_000,
        "addresses of presidents of the USA",
        "NLTK corpora, github.com/nltk/nltk_data",
        "public domain",
    ),
    Corpus(
        "openstax_ccby/sentences.en.txt.gz",
        90_000,
        "six OpenStax textbooks (anthropology, business, intellectual property, Python, nursing, economics)",
        "OpenStax, Rice University, openstax.org",
        "CC BY 4.0",
    ),
    Corpus(
        "schema_guided_dialogue/utterances.en.txt.gz",
        30_000,
        "turns of task dialogues (DSTC8)",
        "Google, github.com/google-research-datasets/dstc8-schema-guided-dialogue",
        "CC BY-SA 4.0",
    ),
    Corpus(
        "scitldr/tldr_abstract.tsv.gz",
        20_000,
        "SciTLDR, summaries and abstracts of papers",
        "Allen Institute for AI, github.com/allenai/scitldr",
        "Apache-2.0",
    ),
    Corpus(
        "specs/eips.sentences.en.txt.gz",
        4_000,
        "Ethereum Improvement Proposals",
        "github.com/ethereum/EIPs",
        "CC0",
    ),
    Corpus(
        "specs/peps.sentences.en.txt.gz",
        4_000,
        "Python Enhancement Proposals",
        "github.com/python/peps",
        "public domain or CC0; older ones Open Publication License",
    ),
    Corpus(
        "specs/rust_rfcs.sentences.en.txt.gz",
        4_000,
        "Rust RFCs",
        "github.com/rust-lang/rfcs",
        "MIT or Apache-2.0",
    ),
    Corpus(
        "tatoeba_laser/sentences.en.txt.gz",
        50_000,
        "Tatoeba, everyday sentences (English sides)",
        "Tatoeba, tatoeba.org, by way of github.com/facebookresearch/LASER",
        "CC BY 2.0 FR",
    ),
    Corpus(
        "tldr_pages/sentences.en.txt.gz",
        5_000,
        "descriptions of shell commands",
        "tldr-pages contributors, github.com/tldr-pages/tldr",
        "CC BY 4.0",
    ),
    Corpus(
        "wikitext2/valid_test.sentences.en.txt.gz",
        5_000,
        "WikiText-2, Wikipedia prose",
        "Wikipedia contributors and Salesforce, by way of github.com/pytorch/examples",
        "CC BY-SA 3.0",
    ),
    Corpus(
        "wordnet/definitions_examples.en.tsv.gz",
        90_000,
        "definitions and examples of Open English WordNet",
        "Global WordNet Association, github.com/globalwordnet/english-wordnet",
        "CC BY 4.0 and the WordNet licence",
    ),
)
