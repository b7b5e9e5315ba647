"""What is encoded: docstrings of Python's own standard library, or the lines of a file; short, and joined to long."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

SHORTEST_LONG, LONGEST_LONG = 256, 512  # tokens, with [CLS] and [SEP]


def docstrings(count: int) -> list[str]:
    """The first paragraphs of the standard library's docstrings, in the order of its files' names."""
    texts: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and (text := ast.get_docstring(node)):
                texts.append(" ".join(text.split("\n\n")[0].split()))
            if len(texts) == count:
                return texts
    return texts


def read_texts(path: Path | None, count: int) -> list[str]:
    """So many texts: the lines of the file that are not empty, or docstrings.

    Raises:
        ValueError: there are fewer. OSError: the file can't be read.
    """
    if path is None:
        texts = docstrings(count)
    else:
        texts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()][:count]
    if len(texts) < count:
        raise ValueError(f"{path or 'the standard library'} has {len(texts)} texts, and {count} are needed")
    return texts


def long_texts(texts: Sequence[str], count: int, lengths: Callable[[list[str]], Sequence[int]]) -> list[str]:
    """So many texts of 256 to 512 tokens, evenly spread and in mixed order, made of the words of ``texts`` in a row.

    Args:
        lengths: Of each word the tokens; BERT's tokenizer never joins words, so a text has the sum of its words' (+ 2).
    """
    words = [word for text in texts for word in text.split()]
    sizes = dict(zip(words, lengths(words), strict=True))
    stream = cycle(word for word in words if 0 < sizes[word] <= SHORTEST_LONG // 2)
    span = LONGEST_LONG - SHORTEST_LONG
    found = []
    for i in range(count):
        # Steps of about 0.618 of the span: neighbours differ, and any number of them is spread over the whole of it.
        wanted = SHORTEST_LONG + round(span * (i * 0.6180339887 % 1))
        text: list[str] = []
        tokens = 2
        while tokens < wanted:
            word = next(stream)
            if tokens + sizes[word] > LONGEST_LONG:
                break
            text.append(word)
            tokens += sizes[word]
        found.append(" ".join(text))
    return found
