"""Train a sentence encoder, and measure what it has learnt."""
