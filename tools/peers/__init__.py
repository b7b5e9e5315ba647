"""The other engines of the race in `tools/bench`: how each is converted, opened, driven and tuned."""
