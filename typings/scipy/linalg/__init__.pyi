"""The part of scipy.linalg that repsimc uses, typed for float64 (upstream ships no annotations)."""

import numpy as np
from numpy.typing import NDArray

from . import blas as blas
from . import lapack as lapack

Float64 = NDArray[np.float64]

def cho_factor(
    a: Float64, lower: bool = False, overwrite_a: bool = False, check_finite: bool = True
) -> tuple[Float64, bool]: ...
def cho_solve(
    c_and_lower: tuple[Float64, bool],
    b: Float64,
    overwrite_b: bool = False,
    check_finite: bool = True,
) -> Float64: ...
def solve(
    a: Float64,
    b: Float64,
    lower: bool = False,
    overwrite_a: bool = False,
    overwrite_b: bool = False,
    check_finite: bool = True,
    assume_a: str | None = None,
    transposed: bool = False,
) -> Float64: ...
def cholesky(
    a: Float64, lower: bool = False, overwrite_a: bool = False, check_finite: bool = True
) -> Float64: ...
def solve_triangular(a: Float64, b: Float64, lower: bool = False) -> Float64: ...
def eigh(a: Float64, check_finite: bool = True) -> tuple[Float64, Float64]: ...
def svd(
    a: Float64, full_matrices: bool = True, check_finite: bool = True
) -> tuple[Float64, Float64, Float64]: ...
def svdvals(a: Float64, check_finite: bool = True) -> Float64: ...
