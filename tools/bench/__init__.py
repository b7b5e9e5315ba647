"""Race minibert against the other ways to get sentence vectors: `python tools/bench --help`."""
