"""Sessions on engines beside those of ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.tensorrt.bundles import bundle
from tests.runtime.tensorrt.conftest import Machine


@pytest.mark.parametrize(
    ("version", "layout"),
    [("8.6.1", "trunk-heads"), ("11.4.0", "merged"), ("11.4.0", "trunk-heads")],
)
def test_both_backends_give_the_same(
    machine: Machine, tmp_path: Path, version: str, layout: str
) -> None:
    path = bundle(tmp_path)
    env = {"DOUBLE_VERSION": version}
    assert machine.repsimc("build", path, "--layout", layout, env=env).code == 0
    machine.session(
        path,
        f"""
ort = load(path).session()
with load(path).session(backend="tensorrt", layout="{layout}") as engines:
    for frame in (FRAMES[:1], FRAMES[1:], FRAMES[:1]):
        same(engines.run(frame), ort.run(frame))
        same(engines.run(frame, "b"), ort.run(frame, "b"))
""",
        **env,
    )
