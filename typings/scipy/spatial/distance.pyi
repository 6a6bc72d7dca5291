"""The part of scipy.spatial.distance that repsimc uses, typed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

def pdist(x: NDArray[Any], metric: str = "euclidean") -> NDArray[np.float64]: ...
def squareform(X: NDArray[np.float64]) -> NDArray[np.float64]: ...
