"""Watch, change and prune a Bert from outside, by torch's hooks on the page's own parts."""

from .catalogue import CATALOGUE
from .heads import ablate_heads, mask_heads, prune_heads
from .hooks import capture, patch

__all__ = ["CATALOGUE", "ablate_heads", "capture", "mask_heads", "patch", "prune_heads"]
