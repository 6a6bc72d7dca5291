"""Sessions: opened, run, closed; and what that imports."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import repsimc
from repsimc.runtime.errors import UsageError
from repsimc.runtime.session import Bundle, Session, load
from tests.programs import assert_close
from tests.runtime.bundles import (
    X,
    bundled,
    in_child,
    tied_pair,
)


def test_one_array_feeds_tied_models(tied: Path) -> None:
    bundle = repsimc.load(tied)
    assert bundle.models == ("a", "b")
    found = bundle.run(X)
    assert set(found) == {"a", "b"}
    assert_close(found["a"]["y"], np.tanh(X))
    assert_close(found["b"]["y"], -X)


def test_a_closed_session_says_so(tied: Path) -> None:
    with load(tied).session() as session:
        session.run(X)
    with pytest.raises(UsageError, match="closed"):
        session.run(X)
    with pytest.raises(UsageError, match="closed"):
        session.run(X, "a")


def test_an_unknown_backend_and_no_threads_are_refused(tied: Path) -> None:
    with pytest.raises(UsageError, match="no backend 'tensorflow'"):
        load(tied).session(backend="tensorflow")
    with pytest.raises(UsageError, match="0 threads"):
        load(tied).session(threads=0)


def test_first_calls_of_several_threads_open_one_session(
    tied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Session] = []
    real = Bundle.session

    def slow(bundle: Bundle) -> Session:
        time.sleep(0.05)
        opened.append(real(bundle))
        return opened[-1]

    monkeypatch.setattr(Bundle, "session", slow)
    bundle = load(tied)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: bundle.run(X), range(8)):
            assert_close(found["b"]["y"], -X)
    assert len(opened) == 1


def test_hashes_can_be_trusted(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair())
    (path / "plan.json").write_text("{ }")
    assert_close(load(path).session(verify_hashes=False).run(X)["b"]["y"], -X)


def test_the_runtime_imports_neither_onnx_nor_torch_nor_the_compiler(tied: Path) -> None:
    done = in_child(
        """
import sys, numpy, repsimc
assert "onnxruntime" not in sys.modules
repsimc.load(sys.argv[1]).run(numpy.zeros((1, 3), numpy.float32), models="a")
unwanted = ("onnx", "torch", "onnx_graphsurgeon", "repsimc.compiler", "repsimc.passes")
print([name for name in unwanted if name in sys.modules])
""",
        tied,
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
