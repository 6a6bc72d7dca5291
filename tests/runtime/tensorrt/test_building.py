"""`repsimc build --backend tensorrt` on a pretended device: the logic, not TensorRT itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.tensorrt.bundles import NET, bundle, pair
from tests.runtime.tensorrt.conftest import Machine, Ran

KEY = "stub-gpu-sm87-8mp-tensorrt-10.3.0"


def built(machine: Machine, path: Path, *words: str, **env: str) -> Ran:
    return machine.repsimc("build", path, *words, "--format", "json", env=env)


def content(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_engines_are_built_checked_and_put_in_place(machine: Machine, tmp_path: Path) -> None:
    path = bundle(tmp_path)
    done = built(machine, path)
    assert done.code == 0, done.err
    folder = path / "engines" / KEY / "merged-fp32"
    record = json.loads((folder / "engines.json").read_text())
    assert record["key"] == KEY and record["device"]["gpu"]["name"] == "Stub GPU"
    [plan] = record["plans"]
    assert plan["models"] == ["a", "b"] and plan["scratch_nbytes"] == 5000
    assert (folder / plan["file"]).stat().st_size == plan["nbytes"]
    assert {(c["model"], c["output"]) for c in record["checked"]} == {
        *(("a", "y"), ("a", "best"), ("b", "y"), ("b", "best"))
    }
    assert all(c["difference"] <= c["tolerance"] and c["runs"] == 2 for c in record["checked"])
    assert "Total Weights Memory" in (folder / "build.log").read_text()
    [asked] = machine.asked()
    assert (asked["flags"], asked["typed"], asked["explicit"]) == ([], False, True)
    assert asked["aux_streams"] == 0  # each would take scratch memory of its own
    assert asked["workspace"] == 1 << 30 and asked["profile"] == {}


def test_building_again_does_nothing_until_something_changes(
    machine: Machine, tmp_path: Path
) -> None:
    path = bundle(tmp_path)
    assert built(machine, path).value["built"] is True
    [asked] = machine.asked()
    assert asked["cache"] == 0
    cache = tmp_path / "cache" / "repsimc" / "tensorrt" / f"{KEY}.timing"
    assert cache.read_bytes() == b"timings of 10.3.0"
    before = content(path)
    assert built(machine, path).value["built"] is False
    assert content(path) == before
    assert built(machine, path, "--workspace", "1MiB").value["built"] is True
    [asked] = machine.asked()
    assert asked["cache"] == len(cache.read_bytes())  # what was timed once is not timed again
    plan = next((path / "engines").rglob("*.plan"))
    plan.write_bytes(plan.read_bytes() + b"x")
    assert built(machine, path, "--workspace", "1MiB").value["built"] is True


def test_trunk_heads_builds_an_engine_for_each_segment(machine: Machine, tmp_path: Path) -> None:
    path = bundle(tmp_path)
    done = built(machine, path, "--layout", "trunk-heads")
    assert done.code == 0, done.err
    plans = done.value["plans"]
    assert [plan["models"] for plan in plans] == [["a", "b"], ["a"], ["b"]]
    assert plans[1]["inputs"] == plans[0]["outputs"]


@pytest.mark.parametrize("layout", ["merged", "trunk-heads"])
def test_a_free_batch_becomes_a_profile(machine: Machine, tmp_path: Path, layout: str) -> None:
    path = bundle(tmp_path, pair(NET))
    done = built(machine, path, "--batch", "2:4:8", "--layout", layout)
    assert done.code == 0, done.err  # the references' one frame is repeated to the least batch
    asked = machine.asked()
    assert asked[0]["profile"] == {"x": [[2, 1, 4, 4], [4, 1, 4, 4], [8, 1, 4, 4]]}
    if layout == "trunk-heads":
        [inner] = asked[1]["profile"].values()
        assert [shape[0] for shape in inner] == [2, 4, 8]


def test_without_a_batch_engines_take_one_frame(machine: Machine, tmp_path: Path) -> None:
    path = bundle(tmp_path, pair(NET))
    assert built(machine, path).code == 0
    assert machine.asked()[0]["profile"] == {"x": [[1, 1, 4, 4]] * 3}


# -- precision ---------------------------------------------------------------------------


def test_half_precision_by_flags_keeps_sensitive_layers_whole(
    machine: Machine, tmp_path: Path
) -> None:
    path = bundle(tmp_path)
    assert built(machine, path, "--precision", "fp16").code == 0
    [asked] = machine.asked()
    assert asked["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"] and not asked["typed"]
    assert {name.split("/")[0] for name in asked["whole"]} == {"a", "b"}
    assert len(asked["whole"]) == 4  # a ReduceMean and a Softmax each
    assert asked["halves"] == 0


@pytest.mark.parametrize("version", ["10.13.3", "11.4.0"])
def test_half_precision_in_the_graph_where_that_is_the_way(
    machine: Machine, tmp_path: Path, version: str
) -> None:
    path = bundle(tmp_path, precision="fp16")
    done = built(machine, path, DOUBLE_VERSION=version)
    assert done.code == 0, done.err
    [asked] = machine.asked()
    assert asked["flags"] == [] and asked["halves"] > 0
    assert asked["typed"] is True


def test_a_bundle_without_a_half_graph_says_what_to_do(machine: Machine, tmp_path: Path) -> None:
    path = bundle(tmp_path)
    done = built(machine, path, "--precision", "fp16", DOUBLE_VERSION="11.4.0")
    assert done.code == 6 and "compile it with --precision fp16" in done.err
    done = built(machine, path, "--precision", "fp16", DOUBLE_VERSION="10.13.3")
    assert done.code == 0  # flags still work there


def test_a_precision_that_the_device_lacks(machine: Machine, tmp_path: Path) -> None:
    done = built(machine, bundle(tmp_path), "--precision", "fp16", DOUBLE_NO_FP16="1")
    assert done.code == 2 and "Stub GPU has no fast fp16" in done.err


def test_int8_needs_quantised_nodes(machine: Machine, tmp_path: Path) -> None:
    done = built(machine, bundle(tmp_path), "--precision", "int8")
    assert done.code == 2 and "no quantised nodes" in done.err


# -- what goes wrong ---------------------------------------------------------------------


def test_an_output_that_differs_fails_with_4_and_keeps_the_old_engines(
    machine: Machine, tmp_path: Path
) -> None:
    path = bundle(tmp_path)
    assert built(machine, path).code == 0
    before = content(path)
    done = built(machine, path, "--workspace", "1MiB", DOUBLE_WRONG="1.5")
    assert done.code == 4
    assert "a/y by" in done.err and "tolerance 0.5 %" in done.err
    assert content(path) == before
    done = built(machine, path, "--workspace", "1MiB", "--tolerance", "2", DOUBLE_WRONG="1.5")
    assert done.code == 0


def test_a_bundle_that_was_changed_after_compiling(machine: Machine, tmp_path: Path) -> None:
    path = bundle(tmp_path)
    graph = path / "merged.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    done = built(machine, path)
    assert done.code == 3 and "merged.onnx" in done.err and "sha256 differs" in done.err
    assert not (path / "engines").exists()


def test_a_workspace_larger_than_free_memory(machine: Machine, tmp_path: Path) -> None:
    done = built(machine, bundle(tmp_path), "--workspace", "2GB", STUB_CUDA_FREE_MIB="1024")
    assert done.code == 2
    assert "1907 MiB is more than the 1024 MiB" in done.err


def test_unknown_layouts_and_precisions(machine: Machine, tmp_path: Path) -> None:
    path = bundle(tmp_path)
    assert "no layout 'halves'" in built(machine, path, "--layout", "halves").err
    done = built(machine, path, "--precision", "fp12")
    assert done.code == 2 and "no precision 'fp12'" in done.err


def test_a_disk_that_is_full_leaves_the_old_engines(machine: Machine, tmp_path: Path) -> None:
    path = bundle(tmp_path)
    assert built(machine, path).code == 0
    before = content(path)
    # In the child that writes the plan: a limit on file sizes is an OSError like a full disk.
    code = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
from repsimc.compiler.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
    done = machine.python(code, "build", path, "--workspace", "1MiB")
    assert done.code == 2, done.err
    assert "cannot be written" in done.err and "nothing was changed" in done.err
    assert content(path) == before
    assert not list((path / "engines").rglob(".*partial*"))


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"STUB_CUDA_INIT": "100"}, "CUDA_ERROR_NO_DEVICE"),
        ({"DOUBLE_CRASH": "builder"}, "SIGSEGV"),
    ],
)
def test_no_gpu_and_a_crash_are_told_and_end_with_6(
    machine: Machine, tmp_path: Path, env: dict[str, str], says: str
) -> None:
    done = built(machine, bundle(tmp_path), **env)
    assert done.code == 6 and says in done.err
    assert "Traceback" not in done.err


def test_an_engine_that_is_not_built_says_where_the_log_is(
    machine: Machine, tmp_path: Path
) -> None:
    done = built(machine, bundle(tmp_path), DOUBLE_FAIL="build")
    assert done.code == 6 and "built no engine" in done.err


def test_an_operator_that_is_refused_is_named(machine: Machine, tmp_path: Path) -> None:
    program = pair()
    program.graph.nodes[0].domain = "my.ops"
    from onnx import helper

    program.graph.import_domains = [helper.make_opsetid("", 17), helper.make_opsetid("my.ops", 1)]
    path = bundle(tmp_path, program, references=None)
    done = built(machine, path)
    assert done.code == 3 and "no importer for Conv" in done.err


def test_without_references_it_says_that_nothing_was_checked(
    machine: Machine, tmp_path: Path
) -> None:
    done = built(machine, bundle(tmp_path, references=None))
    assert done.code == 0
    assert done.value["checked"] == []
    assert "compiled without frames" in done.err


@pytest.mark.skipif(sys.platform != "linux", reason="the stub is for Linux")
def test_doctor_names_the_device(machine: Machine) -> None:
    done = machine.repsimc("doctor", "--format", "json")
    assert done.value["device"]["key"] == KEY
    assert [a["works"] for a in done.value["abilities"]][2] is True
    assert KEY in machine.repsimc("doctor").out


def test_plugin_libraries_are_loaded_by_every_process_that_needs_them(
    machine: Machine, tmp_path: Path
) -> None:
    path = bundle(tmp_path)
    source = "#include <stdio.h>\n#include <stdlib.h>\n__attribute__((constructor)) void ready() {"
    source += ' FILE *f = fopen(getenv("PLUGIN_MARK"), "a"); fputs("loaded\\n", f); fclose(f); }'
    library, mark = tmp_path / "libmine.so", tmp_path / "mark"
    command = ["gcc", "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=source, text=True, check=True)
    done = built(machine, path, "--plugin", str(library), PLUGIN_MARK=str(mark))
    assert done.code == 0, done.err
    assert mark.read_text() == "loaded\n" * 2  # building, and checking
    # Another library is another engine.
    assert built(machine, path).value["built"] is True
    done = built(machine, path, "--plugin", str(tmp_path / "none.so"))
    assert done.code == 2 and "there is no plugin library" in done.err
    (tmp_path / "text.so").write_text("not a library")
    done = built(machine, path, "--plugin", str(tmp_path / "text.so"))
    assert done.code == 6 and "cannot be loaded" in done.err
