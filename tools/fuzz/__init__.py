"""Damaged checkpoints: what loads, what is refused, and what should not happen."""
