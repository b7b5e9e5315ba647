"""Truncate long texts. The tokens cut off are always counted, and reported unless the user asks for silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .display import warn

MODES = ("warn", "error", "report", "silent")


class TooLongError(ValueError):
    """A text is too long, and ``truncation="error"`` was given. ``report`` lists the texts and their excess tokens."""

    def __init__(self, report: TruncationReport) -> None:
        first = next(iter(report.lost))
        super().__init__(f"{report}; the first is text {first}, {report.lost[first]} tokens too long")
        self.report = report

    def __reduce__(self) -> tuple[type[TooLongError], tuple[TruncationReport]]:
        return TooLongError, (self.report,)  # for pickling, from another process


@dataclass(frozen=True)
class TruncationReport:
    """The tokens that one call cut off."""

    limit: int | None = None  # in tokens, special ones included; None: no limit
    lost: dict[int, int] = field(default_factory=dict)  # index of each text that was cut -> its dropped tokens
    kept: int = field(default=0, compare=False)  # tokens of all texts, special ones included

    @property
    def texts(self) -> int:
        """The number of texts that were cut."""
        return len(self.lost)

    @property
    def tokens(self) -> int:
        """The number of tokens that were dropped, in all texts."""
        return sum(self.lost.values())

    def __str__(self) -> str:
        return f"texts longer than {self.limit} tokens: {self.texts}; tokens cut off at their ends: {self.tokens}"


def announce(report: TruncationReport, mode: str) -> None:
    """Warn once for the whole call if a text was cut, raise TooLongError, or stay silent, by the mode."""
    if report.lost and mode == "error":
        raise TooLongError(report)
    if report.lost and mode == "warn":
        advice = 'truncation="report" or "silent" stops this warning, "error" refuses such texts'
        warn(f"{report} ({advice})")


def kept_places(sequences: Sequence[int | None], limit: int, side: str) -> list[int]:
    """Choose the tokens to keep: special ones, and the beginning of each text (side "left": its end).

    The longer text of a pair is cut first, until both are equal: "longest_first", as in transformers. The `tokenizers`
    library isn't asked to truncate, because it keeps the overflow. For a pair it keeps every combination of pieces:
    two texts of 3000 words, cut to 16 tokens, took gigabytes.

    ``sequences`` has the text of each token: 0, 1, or None for a special token.
    """
    kept = [place for place, text in enumerate(sequences) if text is None]
    first, second = ([place for place, text in enumerate(sequences) if text == i] for i in (0, 1))
    short, long = sorted((first, second), key=len)
    room = limit - len(kept)
    if room < 0:  # of a template that has a text twice, the library calls one of them special
        raise ValueError(f"a text has {len(kept)} tokens that its template adds, above the limit of {limit}")
    few = min(len(short), room // 2)
    for places, count in ((short, few), (long, room - few)):
        kept += places[:count] if side == "right" else places[len(places) - count :]
    return sorted(kept)


def check_mode(mode: str) -> str:
    """Return the mode. Raise ValueError if it is unknown."""
    if mode not in MODES:
        raise ValueError(f"truncation must be one of {', '.join(MODES)}, not {mode!r}")
    return mode
