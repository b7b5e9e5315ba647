"""Read and write published folders. Nothing outside this package knows the name of a file in a checkpoint."""
