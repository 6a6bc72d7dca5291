"""Weights by content."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs
import pytest

from repsimc.compiler.graph.weights import byte_chunks, chunks, digest, nbytes_of, unique_nbytes


def constant(array: np.ndarray, name: str = "w") -> gs.Constant:
    return gs.Constant(name, array)


BASE = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_equal_content_has_one_digest_whatever_the_name():
    assert digest(constant(BASE)) == digest(constant(BASE.copy(), "other"))


@pytest.mark.parametrize(
    "other",
    [
        BASE.reshape(4, 3),
        BASE.astype(np.float64),
        BASE.view(np.int32),
        BASE + 1,
        np.where(BASE == 0, np.float32(-0.0), BASE),
    ],
    ids=["shape", "dtype", "type of the same bytes", "values", "sign of zero"],
)
def test_other_content_has_another_digest(other: np.ndarray):
    assert digest(constant(other)) != digest(constant(BASE))


def test_digest_reads_through_strides():
    wide = np.zeros((3, 8), np.float32)
    wide[:, ::2] = BASE
    assert digest(constant(wide[:, ::2])) == digest(constant(BASE))
    assert digest(constant(np.asfortranarray(BASE))) == digest(constant(BASE))


def test_digest_of_a_replaced_weight_is_new():
    weight = constant(BASE)
    before = digest(weight)
    weight.values = BASE + 1
    assert digest(weight) != before


def test_digest_of_a_mapped_file_is_that_of_its_content(tmp_path: Path):
    array = np.random.default_rng(0).standard_normal(70_000).astype(np.float32)
    (tmp_path / "w").write_bytes(b"head" + array.tobytes())
    mapped = np.memmap(tmp_path / "w", np.uint8, "r")[4:].view(np.float32)
    assert digest(constant(mapped)) == digest(constant(array))


def test_pieces_are_the_whole(tmp_path: Path):
    array = np.arange(10_000, dtype=np.int64)
    array.tofile(tmp_path / "w")
    mapped = np.memmap(tmp_path / "w", np.int64, "r")
    for some in (array, mapped, array.reshape(100, 100).T):
        pieces = [piece.copy() for piece in chunks(some, 1000)]
        assert max(piece.nbytes for piece in pieces) <= 1000
        np.testing.assert_array_equal(np.concatenate(pieces), some.reshape(-1))


def test_packed_types_count_their_bits():
    four = np.arange(-8, 8).astype(ml_dtypes.int4)
    assert nbytes_of(constant(four)) == 8
    assert nbytes_of(constant(four[:5])) == 3
    assert b"".join(byte_chunks(four[:4])) == bytes([0x98, 0xBA])
    assert nbytes_of(constant(np.zeros(3, ml_dtypes.bfloat16))) == 6


def test_strings_count_their_bytes():
    texts = np.array(["ab", "c"], object)
    assert nbytes_of(constant(texts)) == 3
    assert digest(constant(texts)) != digest(constant(np.array(["a", "bc"], object)))


def test_unique_bytes_count_equal_weights_once():
    weights = [constant(BASE), constant(BASE.copy(), "v"), constant(BASE + 1, "u")]
    assert unique_nbytes(weights) == 2 * BASE.nbytes
    assert unique_nbytes([]) == 0


def test_empty_weight():
    assert nbytes_of(constant(np.zeros((0, 3), np.float32))) == 0
    assert digest(constant(np.zeros((0, 3), np.float32))) != digest(
        constant(np.zeros((3, 0), np.float32))
    )


DIGEST_A_LARGE_FILE = """
import sys
import numpy as np, onnx_graphsurgeon as gs
from pathlib import Path
from repsimc.compiler.graph.weights import digest

def resident():
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024

weight = gs.Constant("w", np.memmap(sys.argv[1], np.float32, "r"))
digest(gs.Constant("small", np.zeros(1000, np.float32)))
before = resident()
digest(weight)
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_a_mapped_weight_is_read_without_keeping_it(tmp_path: Path):
    with (tmp_path / "w").open("wb") as stream:
        stream.truncate(200 * 2**20)
    done = subprocess.run(
        [sys.executable, "-c", DIGEST_A_LARGE_FILE, str(tmp_path / "w")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 40 * 2**20
