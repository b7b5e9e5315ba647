"""minibert raced against the other ways of getting sentence vectors: `python tools/bench --help`."""
