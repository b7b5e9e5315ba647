"""Is this checkpoint all right, and this machine? docs/models.md shows both answers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..checkpoint.contradictions import Check as Check
    from .checks import Verification as Verification
    from .checks import verify as verify
    from .machine import doctor as doctor

_FILES = {"Check": "checks", "Verification": "checks", "verify": "checks", "doctor": "machine"}

__all__ = sorted(_FILES)


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module 'minibert.health' has no attribute {name!r}")
    value = getattr(import_module(f".{_FILES[name]}", __name__), name)
    globals()[name] = value
    return value
