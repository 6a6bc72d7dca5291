"""The part of scipy.optimize that repsimc uses, typed."""

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from ..sparse import csr_array

class Bounds:
    def __init__(self, lb: NDArray[Any], ub: NDArray[Any]) -> None: ...

class LinearConstraint:
    def __init__(self, A: csr_array, lb: NDArray[Any], ub: NDArray[Any]) -> None: ...

class OptimizeResult:
    status: int
    message: str
    x: NDArray[Any] | None
    fun: float | None

def milp(
    c: NDArray[Any],
    *,
    integrality: NDArray[Any] | None = None,
    bounds: Bounds | None = None,
    constraints: LinearConstraint | None = None,
    options: Mapping[str, Any] | None = None,
) -> OptimizeResult: ...
def least_squares(
    fun: Callable[[NDArray[Any]], NDArray[Any]],
    x0: NDArray[Any],
    *,
    bounds: tuple[NDArray[Any], NDArray[Any]] = ...,
    method: str = "trf",
) -> Solution: ...

class Solution:
    x: NDArray[Any]
