"""Text that is too long loses its end. What was lost is always counted, and said unless the user asked for silence."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

MODES = ("warn", "error", "report", "silent")


class TooLongError(ValueError):
    """Text does not fit, and ``truncation="error"`` was asked for. ``report`` says which texts, and by how much."""

    def __init__(self, report: TruncationReport) -> None:
        first = next(iter(report.lost))
        super().__init__(f"{report}; the first is text {first}, {report.lost[first]} tokens too long")
        self.report = report

    def __reduce__(self) -> tuple[type[TooLongError], tuple[TruncationReport]]:
        return TooLongError, (self.report,)  # so that it gets whole out of another process


@dataclass(frozen=True)
class TruncationReport:
    """What a call cut off.

    ``limit`` is in tokens, with the special ones, None where nothing limits; ``lost`` maps the index of each text
    that was cut to the number of its tokens that were dropped.
    """

    limit: int | None = None
    lost: dict[int, int] = field(default_factory=dict)

    @property
    def texts(self) -> int:
        """How many texts were cut."""
        return len(self.lost)

    @property
    def tokens(self) -> int:
        """How many tokens were lost, in all of them."""
        return sum(self.lost.values())

    def __str__(self) -> str:
        return f"texts longer than {self.limit} tokens: {self.texts}; tokens cut off at their ends: {self.tokens}"


def announce(report: TruncationReport, mode: str, stacklevel: int = 3) -> None:
    """Warn once for the whole call, raise, or keep quiet.

    Raises:
        TooLongError: something was cut and the mode is "error".
    """
    if not report.lost:
        return
    if mode == "error":
        raise TooLongError(report)
    if mode == "warn":
        warnings.warn(
            f'{report} (truncation="report" or "silent" stops this warning, "error" refuses such texts)',
            stacklevel=stacklevel,
        )


def kept_places(sequences: Sequence[int | None], limit: int, side: str) -> list[int]:
    """Which tokens stay when ``limit`` may: the special ones, and of each text its beginning (side "left": its end).

    ``sequences`` says of each token to which text it belongs: 0, 1, or None for a special one. Of a pair the longer
    text is cut first, until both are alike: "longest_first", as in transformers. The `tokenizers` library could do it
    too, but it keeps what it cuts off, and of a pair every piece of one text with every piece of the other: two texts
    of 3000 words each, cut to 16 tokens, took gigabytes.
    """
    special = [place for place, text in enumerate(sequences) if text is None]
    first, second = ([place for place, text in enumerate(sequences) if text == i] for i in (0, 1))
    short, long = sorted((first, second), key=len)
    room = limit - len(special)
    few = min(len(short), room // 2)
    parts = [(short, few), (long, room - few)]
    kept = [places[:count] if side == "right" else places[len(places) - count :] for places, count in parts]
    return sorted([*special, *kept[0], *kept[1]])


def check_mode(mode: str) -> str:
    """Give back a known mode. Raises ValueError for another."""
    if mode not in MODES:
        raise ValueError(f"truncation must be one of {', '.join(MODES)}, not {mode!r}")
    return mode
