from __future__ import annotations

import pytest

from repsimc.compiler.bundle.writing import BundleContents, manifest_of
from repsimc.compiler.graph.export import to_proto
from repsimc.runtime.errors import ModelError, UsageError
from repsimc.runtime.manifest import Manifest
from repsimc.runtime.tensorrt.shapes import known_shapes, parse_batch, parse_shape
from repsimc.runtime.wire import GraphFile
from tests.programs import joined
from tests.runtime.bundles import trunk_and_pick

IMAGE = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { y = Relu (x) }
"""


def manifest(text: str = IMAGE) -> Manifest:

    return manifest_of(BundleContents(joined(a=text), {}, {}))


def test_the_file_tells_shapes_and_types_without_onnx() -> None:
    file = GraphFile(to_proto(joined(a=IMAGE)).SerializeToString())
    assert file.shape("a/x") == ("N", 3, "H", "W")
    assert file.element_type("a/x") == 1
    assert file.shape("nothing") is None and file.element_type("nothing") == 0
    file = GraphFile(to_proto(trunk_and_pick()).SerializeToString())
    assert file.shape("pick/index") == ("K",) and file.element_type("pick/index") == 7
    assert file.shape("trunk/t") == ("N", 3)


@pytest.mark.parametrize(
    ("text", "found"), [("4", (4, 4, 4)), ("1:2:8", (1, 2, 8)), (" 3 ", (3, 3, 3))]
)
def test_batches(text: str, found: tuple[int, int, int]) -> None:
    assert parse_batch(text) == found


@pytest.mark.parametrize("text", ["", "0", "a", "1:2", "8:2:1", "-1", "1:2:3:4"])
def test_batches_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_batch(text)


def test_shapes() -> None:
    assert parse_shape("a/x=1x3x8x8") == ("a/x", (1, 3, 8, 8))
    for text in ("x", "x=", "=1x2", "x=1x", "x=axb"):
        with pytest.raises(UsageError):
            parse_shape(text)


def test_the_batch_is_from_the_command_line_other_sizes_from_frames() -> None:
    known = known_shapes(manifest(), (1, 2, 4), {}, {"a/x": (1, 3, 8, 16)})
    assert known.profile("a/x", ("N", 3, "H", "W")) == (
        (1, 3, 8, 16),
        (2, 3, 8, 16),
        (4, 3, 8, 16),
    )
    # A value between two engines has the symbols of the inputs.
    assert known.profile("a/t", ("N", 5, "H")) == ((1, 5, 8), (2, 5, 8), (4, 5, 8))
    assert known.profile("fixed", (1, 3)) is None


def test_the_command_line_wins_over_frames() -> None:
    known = known_shapes(manifest(), None, {"x": (1, 3, 32, 32)}, {"a/x": (1, 3, 8, 8)})
    assert known.profile("a/x", ("N", 3, "H", "W")) == ((1, 3, 32, 32),) * 3


def test_a_size_that_nobody_knows_is_asked_for() -> None:
    known = known_shapes(manifest(), None, {}, {})
    with pytest.raises(UsageError, match="axis 2 of 'a/x' is free"):
        known.profile("a/x", ("N", 3, "H", "W"))
    with pytest.raises(ModelError, match="number of axes"):
        known.profile("a/x", None)


def test_shapes_that_fit_no_input_are_refused() -> None:
    with pytest.raises(UsageError, match="no model has an input 'q'"):
        known_shapes(manifest(), None, {"q": (1,)}, {})
    with pytest.raises(UsageError, match="has 4 axes, and 1 were given"):
        known_shapes(manifest(), None, {"x": (1,)}, {})
