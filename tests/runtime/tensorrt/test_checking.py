"""How far an output is from its reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repsimc.runtime.errors import ModelError
from repsimc.runtime.session import load
from repsimc.runtime.tensorrt.checking import difference, read_references
from tests.runtime.tensorrt.bundles import bundle

X = np.float32([1, -2, 4])


@pytest.mark.parametrize(
    ("found", "expected", "share"),
    [
        (X, X, 0.0),
        (X * np.float32(1.01), X, 0.01),
        (X[::-1], X, 0.75),
        (X[:2], X, np.inf),
        (np.float32([1, np.nan, 4]), X, np.inf),
        (np.float32([1, np.nan, 4]), np.float32([1, np.nan, 4]), 0.0),
        (np.int64([1, 2]), np.int64([1, 3]), 0.5),
        (np.float32([]), np.float32([]), 0.0),
    ],
)
def test_difference_by_the_largest_value(found: object, expected: object, share: float) -> None:
    assert difference(np.asarray(found), np.asarray(expected)) == pytest.approx(share, rel=1e-4)


def test_references_are_read_run_by_run(tmp_path: Path) -> None:
    path = bundle(tmp_path)
    runs = read_references(path, load(path).manifest)
    assert [set(run["in"]) for run in runs] == [{"x"}, {"x"}]
    assert set(runs[0]["out"]) == {"a/y", "a/best", "b/y", "b/best"}
    (path / "references.npz").write_bytes(b"no archive")
    with pytest.raises(ModelError, match="cannot be read"):
        read_references(path, load(path).manifest)
