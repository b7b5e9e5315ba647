"""The model that ships inside the package: a folder in the published layout, made by `tools/make_builtin`.

Its README.md is the model card: what it was made of, how, how good it is, and at what.
"""

from pathlib import Path

NAME = "minibert-tiny"
FOLDER = Path(__file__).parent / NAME
