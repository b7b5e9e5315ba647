"""Encoders in other libraries, one a file: docs/adapters.md. Only the file of a library imports it."""
