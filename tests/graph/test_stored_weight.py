"""Weights that are stored in few bits."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs
import pytest

from repsimc.compiler.errors import InternalFault
from repsimc.compiler.graph.program import Program
from repsimc.compiler.graph.stored_weight import StoredWeight, stored
from repsimc.compiler.graph.text import text
from repsimc.compiler.graph.verifier import verify
from repsimc.compiler.graph.weights import bits_of, digest, nbytes_of, unique_nbytes, values_nbytes
from tests.nets.few_bits import per_block, per_channel, per_tensor, put
from tests.programs import program_of

CODES = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
NET = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 2] y) <float[4, 2] w = {1,2,3,4,5,6,7,8}>
{ t = MatMul (x, w)  y = Relu (t) }
"""


def halves(count: int) -> np.ndarray:
    return np.float32([0.5 * (index + 1) for index in range(count)])


def test_values_are_codes_times_the_scale_of_their_tensor_channel_or_block() -> None:
    one = stored("w", CODES, np.float32(0.1).reshape(()), 0, 8)
    assert one.values.dtype == np.float32
    np.testing.assert_array_equal(one.values, CODES.astype(np.float32) * np.float32(0.1))
    np.testing.assert_array_equal(
        stored("w", CODES, halves(4), 1, 8).values, CODES * np.float32([0.5, 1, 1.5, 2])
    )
    blocks = np.float32([[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(
        stored("w", CODES, blocks, -1, 4, 2).values, CODES * blocks[:, [0, 0, 1, 1]]
    )


def test_bytes_are_those_of_codes_and_scales() -> None:
    eight, four = stored("w", CODES, halves(3), 0, 8), stored("w", CODES, halves(3), 0, 4)
    assert (nbytes_of(eight), nbytes_of(four)) == (12 + 12, 6 + 12)
    assert (values_nbytes(eight), values_nbytes(four)) == (48, 48)
    assert (bits_of(eight), bits_of(four), bits_of(gs.Constant("w", eight.values))) == (8, 4, 32)
    odd = stored("w", np.int8([1, 2, 3]), np.float32(1).reshape(()), 0, 4)
    assert nbytes_of(odd) == 2 + 4


def test_equal_storage_is_one_weight_whatever_its_name_and_form() -> None:
    one = stored("w", CODES, halves(4), 1, 4)
    for other in (
        stored("v", CODES.copy(), halves(4), -1, 4),
        stored("v", CODES.astype(ml_dtypes.int4), halves(4), 1, 4),
        stored("v", CODES.astype(np.int64), halves(4), 1, 4),
        one.copy(),
    ):
        assert digest(other) == digest(one)
    assert unique_nbytes([one, stored("v", CODES, halves(4), 1, 4)]) == nbytes_of(one)
    scale = np.float32(1).reshape(())
    assert digest(stored("w", CODES, scale, 0, 8)) == digest(stored("w", CODES, scale, 1, 8))


def test_other_storage_of_equal_values_is_another_weight() -> None:
    square = np.int8([[2, 0], [0, 2]])
    scales = np.float32([1, 1])
    ways = [
        stored("w", square, scales, 0, 8),
        stored("w", square, scales, 1, 8),
        stored("w", square, scales, 0, 4),
        stored("w", square * 2, scales / 2, 0, 8),
        stored("w", square, scales[:1].reshape(()), 0, 8),
        stored("w", square, np.ones((2, 1), np.float32), 1, 8, 2),
    ]
    plain = gs.Constant("w", ways[0].values)  # of the very same array
    assert len({digest(way) for way in [*ways, plain]}) == len(ways) + 1
    assert unique_nbytes([ways[0], plain]) == nbytes_of(ways[0]) + 16


@pytest.mark.parametrize(
    ("told", "arguments"),
    [
        ("3 bits", (CODES, halves(3), 0, 3)),
        ("float64", (CODES, halves(3).astype(np.float64), 0, 8)),
        ("no axis 2", (CODES, halves(3), 2, 8)),
        (r"scales are \[3\], not \[4\]", (CODES, halves(3), 1, 8)),
        (r"scales are \[3\], not \[3, 2\]", (CODES, halves(3), 1, 8, 2)),
        ("no whole number of blocks of 3", (CODES, np.ones((3, 1), np.float32), 1, 8, 3)),
        ("go from -8 to 7", (CODES + 8, halves(3), 0, 4)),
        ("go from -128 to 127", (CODES.astype(np.int64) + 2**32, halves(3), 0, 8)),
        ("not integers", (CODES.astype(np.float32), halves(3), 0, 8)),
        ("positive", (CODES, np.float32([1, 0, 1]), 0, 8)),
        ("positive", (CODES, np.float32([1, np.nan, 1]), 0, 8)),
        ("positive", (CODES, np.float32([1, np.inf, 1]), 0, 8)),
        ("finite", (CODES, np.full(3, 3e38, np.float32), 0, 8)),
    ],
)
def test_what_cannot_be_stored_is_refused(told: str, arguments: tuple) -> None:  # type: ignore[type-arg]
    with pytest.raises(InternalFault, match=f"'w' cannot be stored: .*{told}"):
        stored("w", *arguments)


def test_a_copied_program_keeps_the_storage_and_a_new_constant_gives_it_up() -> None:
    program = program_of(NET)
    weight = put(program, "a/w", per_channel(8, 1))
    before = text(program)
    copied = program.copy()
    verify(copied)
    kept = copied.weights()["a/w"]
    assert isinstance(kept, StoredWeight)
    assert kept is not weight
    assert kept.codes is weight.codes
    assert text(copied) == before
    assert "in 8 bits, a scale per channel of axis 1" in before
    replace(copied, gs.Constant("a/w.new", kept.values * 2))
    assert nbytes_of(copied.weights()["a/w.new"]) == 32
    assert nbytes_of(program.weights()["a/w"]) == 8 + 2 * 4


def replace(program: Program, new: gs.Constant) -> None:
    program.replace_uses(program.weights()["a/w"], new)


def test_values_cannot_be_written_to() -> None:
    weight = stored("w", CODES, halves(3), 0, 8)
    with pytest.raises(InternalFault, match="stored weight 'w'"):
        weight.values = np.zeros((3, 4), np.float32)


@pytest.mark.parametrize(
    ("make", "opset"),
    [
        (per_tensor(8), 10),
        (per_channel(8, 0), 13),
        (per_channel(4, 0), 21),
        (per_block(8, 0, 2), 21),
    ],
)
def test_the_opset_is_that_of_the_form(make: object, opset: int) -> None:
    assert make("w", np.ones((4, 2), np.float32)).opset == opset  # type: ignore[operator]
