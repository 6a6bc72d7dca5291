from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repsimc.compiler.bundle.segments import segments_of
from repsimc.compiler.graph.dequantising import dequantising
from repsimc.compiler.graph.export import to_proto
from repsimc.compiler.graph.program import Program
from repsimc.runtime.errors import DataError, UsageError
from repsimc.runtime.manifest import Manifest
from repsimc.runtime.session import load
from repsimc.runtime.wire import GraphFile
from tests.nets.few_bits import per_channel, put
from tests.programs import assert_close, joined, run
from tests.runtime.bundles import bundled, share, tied_pair, trunk_and_pick

X = np.float32([[1, 2, 3], [4, 5, 6]])
EXTRA = np.ones((2, 3), np.float32)
INDEX = np.int64([2, 0])
FRAME = {"x": X, "extra": EXTRA, "index": INDEX}
LAYER = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 2] y)
<float[4, 4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}, float[4, 2] v = {1,2,3,4,5,6,7,8}>
{
  t = MatMul (x, w)
  y = MatMul (t, v)
}
"""


def four_models() -> Program:
    """a, b and c share the first layer of a; d has all of its own but the input."""
    names = ("a", "b", "c", "d")
    program = joined([[(name, "x") for name in names]], **dict.fromkeys(names, LAYER))
    for other in ("b", "c"):
        program = share(program, "a/t", f"{other}/t")
    return program


def test_a_trunk_for_what_several_models_need_and_a_head_for_each() -> None:
    found = segments_of(four_models())
    assert [segment.name for segment in found] == ["a+b+c", "a", "b", "c", "d"]
    trunk, head, alone = found[0], found[1], found[-1]
    assert (trunk.inputs, trunk.outputs) == (("x",), ("a/t",))
    assert (head.inputs, head.outputs) == (("a/t",), ("a/y",))
    assert (alone.inputs, alone.outputs) == (("x",), ("d/y",))
    assert (trunk.macs, head.macs, alone.macs) == (16, 8, 24)
    assert (trunk.weights_nbytes, head.weights_nbytes) == (64, 32)


def one_weight_in_few_bits() -> Program:
    """a to d of `four_models`, whose heads all read one weight that is stored in 8 bits."""
    program = four_models()
    weight = put(program, "a/v", per_channel(8, 1))
    for other in ("b", "c", "d"):
        program.replace_uses(program.weights()[f"{other}/v"], weight)
    return program


def its_file_read_again() -> Program:
    """The same, as a program read from a file: a node makes the weight."""
    return dequantising(one_weight_in_few_bits())


@pytest.mark.parametrize(
    "make", [four_models, tied_pair, trunk_and_pick, one_weight_in_few_bits, its_file_read_again]
)
def test_the_runtime_cuts_the_file_where_the_compiler_says(make: object) -> None:
    program = make()  # type: ignore[operator]
    wanted = {name: list(model.outputs.values()) for name, model in program.models.items()}
    parts = GraphFile(to_proto(dequantising(program)).SerializeToString()).parts(wanted)
    assert parts is not None
    told = [(set(s.models), set(s.inputs), set(s.outputs)) for s in segments_of(program)]
    assert told == [(set(p.models), set(p.inputs), set(p.outputs)) for p in parts]


@pytest.mark.parametrize("make", [one_weight_in_few_bits, its_file_read_again])
def test_a_weight_that_a_node_makes_is_no_value_between_segments(
    make: object, tmp_path: Path
) -> None:
    program = make()  # type: ignore[operator]
    found = {segment.name: segment for segment in segments_of(program)}
    assert list(found) == ["a+b+c", "a", "b", "c", "d"]
    assert found["a+b+c"].outputs == ("a/t",)
    assert found["b"].inputs == ("a/t",)
    assert found["b"].weights_nbytes == 8 + 2 * 4  # codes and scales, in each that reads them
    session = load(bundled(tmp_path, program)).session(layout="trunk-heads")
    x = np.float32([[1, 2, 3, 4]])
    for name in ("a", "d"):
        assert_close(session.run({"x": x}, name)[name]["y"], run(program, {"x": x})[f"{name}/y"])


def test_both_layouts_compute_the_same(tmp_path: Path) -> None:
    path = bundled(tmp_path, trunk_and_pick(), layout="trunk-heads")
    assert load(path).manifest.layout == "trunk-heads"
    apart, merged = load(path).session(), load(path).session(layout="merged")
    for models in (None, "trunk", "pick"):
        one, other = apart.run(FRAME, models), merged.run(FRAME, models)
        assert list(one) == list(other)
        for name, outputs in one.items():
            for output, array in outputs.items():
                assert_close(array, other[name][output])


def test_trunk_heads_opens_parts_at_once_and_merged_does_not(tmp_path: Path) -> None:
    path = bundled(tmp_path, trunk_and_pick())
    assert load(path).session()._execution._whole is not None
    session = load(path).session(layout="trunk-heads")
    assert session._execution._whole is None
    assert len(session._execution._parts) == 3


def test_one_model_runs_its_own_segments_only(tmp_path: Path) -> None:
    session = load(bundled(tmp_path, trunk_and_pick())).session(layout="trunk-heads")
    wrong = {**FRAME, "index": INDEX + 7}  # pick's Gather fails
    assert_close(session.run(wrong, "trunk")["trunk"]["z"], X * np.float32([1, -2, 3]) + 1)
    with pytest.raises(DataError):
        session.run(wrong, "pick")


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair())
    with pytest.raises(UsageError, match="no layout 'split'"):
        load(path).session(layout="split")


def test_bundles_of_the_first_schema_are_still_read(tmp_path: Path) -> None:
    path = bundled(tmp_path, trunk_and_pick())
    value = load(path).manifest.to_json() | {"schema": "repsimc.bundle/1"}
    for key in ("layout", "precision", "segments", "references", "lowered", "quantised"):
        del value[key]
    manifest = Manifest.from_json(value)
    assert (manifest.layout, manifest.segments) == ("merged", ())
    (path / "manifest.json").write_text(manifest.dumps())
    assert_close(
        load(path).session(layout="trunk-heads").run(FRAME, "pick")["pick"]["y"],
        (X * np.float32([1, -2, 3]))[:, INDEX],
    )


def test_an_interface_that_differs_is_found_in_parts_too(tmp_path: Path) -> None:
    from repsimc.runtime.errors import ModelError

    path = bundled(tmp_path, trunk_and_pick(), layout="trunk-heads")
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"trunk/extra"', '"trunk/other"'))
    with pytest.raises(ModelError, match="disagree about trunk/extra, trunk/other"):
        load(path).session()
