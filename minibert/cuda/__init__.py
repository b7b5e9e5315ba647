"""The stack on a GPU (CUDA): packed tokens there, attention over them, and graphs for calls of one text."""
