"""The part of scipy.sparse that repsimc uses, typed."""

from typing import Any

from numpy.typing import NDArray

class csr_array:
    def __init__(
        self,
        arg1: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
        shape: tuple[int, int],
    ) -> None: ...
