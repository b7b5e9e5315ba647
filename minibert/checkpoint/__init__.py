"""A published folder, in and out: nothing outside this room knows the name of a file in a checkpoint."""
