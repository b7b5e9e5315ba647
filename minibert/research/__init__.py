"""To watch, change and cut what a Bert computes, from outside, by real hooks of torch on the page's own parts."""

from .ablate import ablate_heads, mask_heads, prune_heads
from .hooks import capture, patch
from .values import CATALOGUE

__all__ = ["CATALOGUE", "ablate_heads", "capture", "mask_heads", "patch", "prune_heads"]
