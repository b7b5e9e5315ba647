"""Try a tokenizer on a few words before it is called good: its file may be damaged, or its rules without bound."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import normalizers

from ..config import ConfigError
from .added_tokens import HIGHEST
from .hub import first_line

# In the last are letters that hardly any vocabulary has.
TRIAL = ("", "a", "The cats' na\u00efve \u4f60 \ua66e\U0001f63b")
SECONDS = 5.0  # for the trial; 0.001 is usual
GROWTH = 2**16  # times longer that the rules may make a text
LONGEST = 256  # letters that they may make of TRIAL
PLAIN = json.loads(tokenizers.Tokenizer(tokenizers.models.WordPiece({}, unk_token="")).to_str())


def steps(part: Any) -> Iterator[Any]:
    """Yield the steps of a normalizer or pre-tokenizer one by one, however deep they are nested.

    They are read from its JSON: in tokenizers 0.21.0 a Sequence that was loaded from a file holds itself.
    """
    kind = "normalizer" if isinstance(part, normalizers.Normalizer) else "pre_tokenizer"
    rest = [] if part is None else [json.loads(part.__getstate__())]
    while rest:
        rule = rest.pop(0)
        if rule["type"] == "Sequence":
            rest = [*rule.get("normalizers", rule.get("pretokenizers")), *rest]
            continue
        yield getattr(tokenizers.Tokenizer.from_str(json.dumps({**PLAIN, kind: rule})), kind)


def try_out(backend: tokenizers.Tokenizer, path: Path, types: int) -> int:
    """Return the highest id. Raise ConfigError unless a few words are tokenised in bounded time and memory.

    A single text may have token types below ``types`` only: the model has no others. The library can't be interrupted,
    so its steps run one by one. Its regular expressions give up by themselves.
    """
    growth, end, texts = 1, time.monotonic() + SECONDS, list(TRIAL)
    try:
        for step in (*steps(backend.normalizer), *steps(backend.pre_tokenizer)):
            growth *= _growth(json.loads(step.__getstate__()))
            if growth > GROWTH or max(map(len, texts)) > LONGEST:
                raise ConfigError(f"{path}: the normalizer makes texts very much longer")
            normalizes = hasattr(step, "normalize_str")
            results = [step.normalize_str(text) if normalizes else step.pre_tokenize_str(text) for text in texts]
            texts = results if normalizes else texts
            if time.monotonic() > end:
                raise ConfigError(f"{path}: its rules take longer than {SECONDS} s for a few words")
        single, pair = [backend.encode(text) for text in TRIAL], backend.encode(TRIAL[-1], TRIAL[-1])
    except BaseException as error:
        raise ConfigError(f"{path}: a few words can't be tokenised ({reason(error)})") from None
    highest = max(backend.get_vocab().values(), default=0)
    if (worst := max(highest, *(number for encoding in (*single, pair) for number in encoding.ids))) > HIGHEST:
        raise ConfigError(f"{path}: the vocabulary or post_processor has the id {worst}; ids must be below 2^31")
    kind = max([0, *(kind for encoding in single for kind in encoding.type_ids)])
    if kind >= types or (kind := max([0, *pair.type_ids])) > 127:
        raise ConfigError(f"{path}: the post_processor gives the token type {kind}, and type_vocab_size is {types}")
    return highest


def _growth(rule: Mapping[str, Any]) -> int:
    """Return how many times longer a step can make a text, at most."""
    if rule["type"] == "Replace":
        length = len(rule["pattern"].get("String", ""))  # a regular expression may match nothing, between all letters
        return max(1, -(-len(rule["content"]) // length) if length else 1 + len(rule["content"]))
    if rule["type"] == "Prepend":
        return 1 + len(rule["prepend"])
    return 4 if rule["type"] in ("ByteLevel", "Precompiled") else 1


def encode_batch(backend: tokenizers.Tokenizer, inputs: list[Any], start: int) -> list[tokenizers.Encoding]:
    """Tokenise texts or pairs. Raise ValueError, with the index of the text counted from ``start``, if one fails."""
    try:
        return backend.encode_batch_fast(inputs)
    except BaseException as error:
        if len(inputs) == 1:
            raise ValueError(f"text {start} can't be tokenised ({reason(error)})") from None
    return [encoding for i, one in enumerate(inputs, start) for encoding in encode_batch(backend, [one], i)]


def reason(error: BaseException) -> str:
    """Say in one line why the library failed. Raise again what is not its own: its panics are a BaseException."""
    if isinstance(error, ConfigError) or not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
        raise error
    return f"{first_line(error):.200}"
