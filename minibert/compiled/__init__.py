"""The stack's layers as machine code, for `encoder.compile` and `minibert compile`: C++ that this machine compiles."""
