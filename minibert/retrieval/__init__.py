"""Encoders whose texts are not one vector: weights of words (SPLADE), and a vector per token (ColBERT)."""
