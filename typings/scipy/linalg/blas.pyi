"""The part of scipy.linalg.blas that repsimc uses, typed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

def ssyrk(alpha: float, a: NDArray[Any]) -> NDArray[np.float32]: ...
