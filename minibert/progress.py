"""A progress bar, asked for."""

from __future__ import annotations

from typing import Any


def progress_bar(total: int, unit: str, shown: bool, *, done: int = 0) -> Any:
    """A context manager with ``update(n)``, on stderr or in the notebook; one that does nothing if not ``shown``.

    It begins at ``done``, and ``set_postfix(name=text)`` says more after the bar.

    huggingface_hub brings tqdm along, so the bar of a download and that of an encoding look alike.
    """
    if not shown:
        return _Silent()
    from huggingface_hub.utils.tqdm import tqdm

    return tqdm(total=total, initial=done, unit=f" {unit}", smoothing=0.1)  # type: ignore[no-untyped-call]


class _Silent:
    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, n: int) -> None:
        """Show nothing."""

    def set_postfix(self, **_: object) -> None:
        """Show nothing."""
