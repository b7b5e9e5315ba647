"""The model inside the package: a folder in the published layout, made by `tools/make_builtin`.

Its README.md is the model card: its data, its training and its scores.
"""

from pathlib import Path

NAME = "minibert-tiny"
FOLDER = Path(__file__).parent / NAME
