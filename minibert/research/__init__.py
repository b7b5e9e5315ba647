"""Looking inside, and changing what is found there."""
