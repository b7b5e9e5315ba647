"""Published weights in and out: the name table, the readers of every file format, the account of what was used."""

from .load import WrongTensorsError, float_dtype, load_bert, load_from, read_again, read_config
from .names import PUBLISHED_NAMES
from .report import LoadReport
from .save import save_bert, save_model
from .stored import CheckpointError

__all__ = [
    "PUBLISHED_NAMES",
    "CheckpointError",
    "LoadReport",
    "WrongTensorsError",
    "float_dtype",
    "load_bert",
    "load_from",
    "read_again",
    "read_config",
    "save_bert",
    "save_model",
]
