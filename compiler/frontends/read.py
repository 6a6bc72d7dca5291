"""Model files of every kind as programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ..graph.program import Program
from ..isolation.allowance import ParseLimits
from .onnx import read_onnx

# The front end of each kind of file, by suffix. A file of any other name is taken for ONNX, whose
# front end looks into it and says where it is none.
FRONT_ENDS: Mapping[str, Callable[[Path, str, ParseLimits | None], Program]] = {".onnx": read_onnx}


def read_model(path: Path, name: str, limits: ParseLimits | None = None) -> Program:
    """The program of one model file, called `name`, opened within `limits`.

    Raises ModelError if the file is missing, of no known kind, or a model that cannot be used.
    """
    return FRONT_ENDS.get(path.suffix.lower(), read_onnx)(path, name, limits)
