"""Is this checkpoint all right, and this machine? docs/models.md shows both answers."""

from ..checkpoint.contradictions import Check
from .checks import Verification, verify
from .machine import doctor

__all__ = ["Check", "Verification", "doctor", "verify"]
