"""Text that is too long loses its end. What was lost is always counted, and said unless the user asked for silence."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

MODES = ("warn", "error", "report", "silent")


class TooLongError(ValueError):
    """Text does not fit, and ``truncation="error"`` was asked for. ``report`` says which texts, and by how much."""

    def __init__(self, report: TruncationReport) -> None:
        first = next(iter(report.lost))
        super().__init__(f"{report}; the first is text {first}, {report.lost[first]} tokens too long")
        self.report = report


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


def check_mode(mode: str) -> str:
    """Give back a known mode. Raises ValueError for another."""
    if mode not in MODES:
        raise ValueError(f"truncation must be one of {', '.join(MODES)}, not {mode!r}")
    return mode
