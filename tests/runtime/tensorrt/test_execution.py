"""Sessions on engines of a pretended device: arena, buffers, graphs, foreign plans."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.runtime.tensorrt.bundles import NET, bundle, pair
from tests.runtime.tensorrt.conftest import Machine

PRELUDE = """
import json, sys
import numpy as np
import repsimc
from repsimc.runtime.session import load
from tests.runtime.tensorrt.bundles import FRAMES
path = sys.argv[1]
def same(one, other):
    assert list(one) == list(other)
    for model in one:
        for name, array in one[model].items():
            assert array.dtype == other[model][name].dtype
            np.testing.assert_allclose(array, other[model][name], rtol=1e-4, atol=1e-5)
"""
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def ready(stub_cuda: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with engines of both layouts for the default version."""
    folder = tmp_path_factory.mktemp("ready")
    path = bundle(folder)
    for layout in ("merged", "trunk-heads"):
        done = Machine(stub_cuda, folder).repsimc("build", path, "--layout", layout)
        assert done.code == 0, done.err
    return path


def session(machine: Machine, path: Path, code: str, **env: str) -> str:
    """What a process on the device prints; it must end well."""
    import os

    places = os.pathsep.join([machine.environment()["PYTHONPATH"], str(ROOT)])
    done = machine.python(PRELUDE + code, path, env={"PYTHONPATH": places, **env})
    assert done.code == 0, done.err
    return done.out


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
    session(
        machine,
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


def test_one_arena_of_the_largest_need_and_nothing_left_after_close(
    machine: Machine, ready: Path, tmp_path: Path
) -> None:
    path = ready
    report = tmp_path / "live"
    said = session(
        machine,
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
    session(
        machine,
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
    session(
        machine,
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
    session(
        machine,
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
    session(
        machine,
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


# -- foreign and damaged plans -----------------------------------------------------------

REFUSED = """
from repsimc.runtime.errors import RepsimcError
try:
    load(path).session(backend="tensorrt")
except RepsimcError as error:
    print(error.exit_code, error)
else:
    raise AssertionError("it opened")
"""


def test_engines_of_another_device_or_version_are_never_loaded(
    machine: Machine, ready: Path, tmp_path: Path
) -> None:
    assert "no engines for this device" in session(machine, bundle(tmp_path), REFUSED)
    path = ready
    for env in ({"STUB_CUDA_MP": "16"}, {"DOUBLE_VERSION": "10.4.0"}, {"STUB_CUDA_NAME": "X"}):
        said = session(machine, path, REFUSED, **env)
        assert said.startswith("6 ")
        assert "stub-gpu-sm87-8mp-tensorrt-10.3.0 (merged-fp32), " in said
        assert "which do not run here" in said
        assert f"repsimc build {path} --backend tensorrt" in said


def test_a_folder_that_was_renamed_does_not_help(
    machine: Machine, ready: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(ready, tmp_path / "bundle"))
    [folder] = (path / "engines").iterdir()
    shutil.move(folder, folder.with_name(folder.name.replace("8mp", "16mp")))
    said = session(machine, path, REFUSED, STUB_CUDA_MP="16")
    assert said.startswith("6 ") and "were built for stub-gpu-sm87-8mp" in said


def test_a_plan_that_was_changed_is_refused(machine: Machine, ready: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(ready, tmp_path / "bundle"))
    [plan] = (path / "engines").rglob("merged-fp32/*.plan")
    plan.write_bytes(plan.read_bytes() + b"x")
    said = session(machine, path, REFUSED)
    assert said.startswith("3 ") and "sha256 differs" in said
    plan.unlink()
    assert "is missing" in session(machine, path, REFUSED)


def test_a_bundle_compiled_again_needs_new_engines(
    machine: Machine, ready: Path, tmp_path: Path
) -> None:
    other = bundle(tmp_path / "other", pair(NET.replace("[N,", "[1,").replace("3.3", "4.4")))
    shutil.copytree(ready / "engines", other / "engines")
    said = session(machine, other, REFUSED)
    assert said.startswith("6 ") and "built from other files" in said


def test_memory_that_runs_out_is_told(machine: Machine, ready: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(ready, tmp_path / "bundle"))
    said = session(machine, path, REFUSED, STUB_CUDA_FREE_MIB="0")
    assert said.startswith("6 ") and "CUDA_ERROR_OUT_OF_MEMORY" in said


# -- measuring ---------------------------------------------------------------------------


def test_bench_measures_engines_beside_the_originals(machine: Machine, tmp_path: Path) -> None:
    import hashlib

    import onnx

    from repsimc.compiler.graph.program import Source
    from tests.programs import model_of_text

    path = tmp_path / "a.onnx"
    onnx.save(model_of_text(NET.replace("[N,", "[1,")), path)
    program = pair()
    content = path.read_bytes()
    for model in program.models.values():
        model.source = Source(path, len(content), hashlib.sha256(content).hexdigest())
    made = bundle(tmp_path, program)
    done = machine.repsimc("bench", made, "--backend", "tensorrt")
    assert done.code == 6 and "no engines for this device" in done.err
    assert machine.repsimc("build", made, "--layout", "trunk-heads").code == 0
    words = ["--backend", "tensorrt", "--layout", "trunk-heads", "--runs", "3"]
    done = machine.repsimc("bench", made, *words, "--format", "json")
    assert done.code == 0, done.err
    ours, apart = done.value["sides"]
    assert (ours["name"], apart["name"]) == ("repsimc, trunk-heads", "originals apart")
    # One arena of the largest need; apart each engine has its own.
    assert ours["memory"]["scratch_nbytes"] == 3000
    assert apart["memory"]["scratch_nbytes"] == 6000
    assert (ours["latency"]["p50_seconds"] > 0 and "INFO" in apart["log"]) or apart["log"] == ""
    assert done.value["frame"] == "a held-out frame"
    path.unlink()
    done = machine.repsimc("bench", made, *words)
    assert done.code == 0 and "originals apart: not measured" in " ".join(done.out.split())


def test_bench_on_engines_takes_no_options_of_the_other_backend(
    machine: Machine, tmp_path: Path
) -> None:
    path = bundle(tmp_path)
    done = machine.repsimc("bench", path, "--backend", "tensorrt", "--threads", "1")
    assert done.code == 2
    assert machine.repsimc("bench", path, "--layout", "merged").code == 2
    assert machine.repsimc("bench", path, "--backend", "trt").code == 2


PICK = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 4] x, int64[2] index) => (float[1, 2] y) { y = Gather <axis = 1> (x, index) }
"""


def test_64_bit_integers_go_in_where_the_engine_has_32(machine: Machine, tmp_path: Path) -> None:
    from tests.programs import joined

    path = bundle(tmp_path, joined(a=PICK), references=None)
    env = {"DOUBLE_VERSION": "8.6.1"}
    assert machine.repsimc("build", path, env=env).code == 0
    session(
        machine,
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
