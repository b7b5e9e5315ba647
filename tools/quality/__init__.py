"""Score encoders beside their teacher where people use them: see `command`."""
