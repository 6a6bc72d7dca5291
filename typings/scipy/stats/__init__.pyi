"""The part of scipy.stats that repsimc uses, typed."""

from typing import Any, NamedTuple

from numpy.typing import NDArray

class SignificanceResult(NamedTuple):
    statistic: float
    pvalue: float

def spearmanr(a: NDArray[Any], b: NDArray[Any] | None = None) -> SignificanceResult: ...
def rankdata(a: NDArray[Any]) -> NDArray[Any]: ...
