"""The part of scipy.linalg.lapack that repsimc uses, typed."""

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

def dpotri(c: Float64, lower: int = 0, overwrite_c: int = 0) -> tuple[Float64, int]: ...
