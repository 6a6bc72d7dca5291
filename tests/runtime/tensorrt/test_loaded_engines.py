"""Engines in the memory of a pretended device: arena, buffers, graphs, shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runtime.tensorrt.bundles import NET, bundle, pair
from tests.runtime.tensorrt.conftest import Machine


def test_one_arena_of_the_largest_need_and_nothing_left_after_close(
    machine: Machine, ready: Path, tmp_path: Path
) -> None:
    path = ready
    report = tmp_path / "live"
    said = machine.session(
        path,
        """
engines = load(path).session(backend="tensorrt", layout="trunk-heads")
engines.run(FRAMES[:1])
loaded = engines._execution.engines
print(json.dumps([loaded.scratch_nbytes, list(loaded.needs_nbytes), loaded.cuda.allocated_nbytes]))
engines.close()
assert loaded.cuda.allocated_nbytes == 0
""",
        STUB_CUDA_REPORT=str(report),
    )
    scratch, needs, allocated = json.loads(said)
    assert scratch == max(needs) < sum(needs)
    assert allocated >= scratch
    assert report.read_text() == "0"


def test_values_between_engines_stay_on_the_device(machine: Machine, ready: Path) -> None:
    path = ready
    machine.session(
        path,
        """
engines = load(path).session(backend="tensorrt", layout="trunk-heads")
engines.run(FRAMES[:1])
buffers = engines._execution.engines._buffers
inner = [name for name, buffer in buffers.items() if buffer.host is None]
assert inner == ["a/r"], inner
""",
    )


def test_one_model_runs_its_own_engines_only(machine: Machine, ready: Path) -> None:
    path = ready
    machine.session(
        path,
        """
engines = load(path).session(backend="tensorrt", layout="trunk-heads")
ran = []
for stage in engines._execution.engines._stages:
    def noted(stream, stage=stage, execute=stage.context.execute):
        ran.append("+".join(stage.file.models))
        execute(stream)
    stage.context.execute = noted
engines._execution.engines._graphs = False
engines.run(FRAMES[:1], "b")
assert ran == ["a+b", "b"], ran
""",
    )


@pytest.mark.parametrize(("env", "graphs"), [({}, 1), ({"STUB_CUDA_NO_CAPTURE": "1"}, 0)])
def test_the_second_run_is_a_cuda_graph_if_it_can_be_captured(
    machine: Machine, ready: Path, env: dict[str, str], graphs: int
) -> None:
    path = ready
    machine.session(
        path,
        f"""
ort, engines = load(path).session(), load(path).session(backend="tensorrt")
for frame in (FRAMES[:1], FRAMES[1:], FRAMES[:1]):
    same(engines.run(frame), ort.run(frame))
assert engines._execution.engines.captured == {graphs}
""",
        **env,
    )


def test_batches_within_the_profile_run_and_others_are_refused(
    machine: Machine, tmp_path: Path
) -> None:
    path = bundle(tmp_path, pair(NET))
    assert machine.repsimc("build", path, "--batch", "1:1:2").code == 0
    machine.session(
        path,
        """
from repsimc.runtime.errors import RepsimcError
ort, engines = load(path).session(), load(path).session(backend="tensorrt")
for frame in (FRAMES[:1], FRAMES, FRAMES[:1], FRAMES):
    same(engines.run(frame), ort.run(frame))
try:
    engines.run(np.concatenate([FRAMES, FRAMES]))
except RepsimcError as error:
    assert error.exit_code == 3 and "outside of what the engine was built for" in str(error)
else:
    raise AssertionError("a batch of four ran")
same(engines.run(FRAMES), ort.run(FRAMES))
""",
    )


PICK = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 4] x, int64[2] index) => (float[1, 2] y) { y = Gather <axis = 1> (x, index) }
"""


def test_64_bit_integers_go_in_where_the_engine_has_32(machine: Machine, tmp_path: Path) -> None:
    from tests.programs import joined

    path = bundle(tmp_path, joined(a=PICK), references=None)
    env = {"DOUBLE_VERSION": "8.6.1"}
    assert machine.repsimc("build", path, env=env).code == 0
    machine.session(
        path,
        """
from repsimc.runtime.errors import DataError
x = np.float32([[1, 2, 3, 4]])
with load(path).session(backend="tensorrt") as engines:
    found = engines.run({"x": x, "index": np.int64([3, 0])})
    np.testing.assert_array_equal(found["a"]["y"], [[4, 1]])
    try:
        engines.run({"x": x, "index": np.int64([2**40, 0])})
    except DataError as error:
        assert "do not fit int32" in str(error)
    else:
        raise AssertionError("it was cut off")
""",
        **env,
    )
