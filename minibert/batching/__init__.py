"""How a call of `encode` or `predict` runs: its options, which texts go together, and on which core."""
