"""repsimc explore: the whole way, its files, its points compiled, and every kind of bad input."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import repsimc
from repsimc.compiler.cli.main import main
from repsimc.compiler.errors import UsageError
from tests.nets.networks import Net, perturbed
from tests.nets.residual import images, residual_net

Run = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Explored:
    """A front that was written: the JSON on stdout, and the folder."""

    value: dict[str, Any]
    folder: Path


def own_biases(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The model with biases that no other has: equal ones are stored once until they are fitted."""
    random = np.random.default_rng(seed)
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for tensor in found.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 1 and values.dtype == np.float32:
            moved = values + random.normal(0, 0.02, values.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.onnx, its sibling b.onnx, flat.onnx without sites; frames.npz, labelled.npz."""
    place = tmp_path_factory.mktemp("explore")
    base = residual_net(3, scale=0.3)
    onnx.save(own_biases(base, 2), place / "a.onnx")
    onnx.save(own_biases(perturbed(base, 0.05, 1), 3), place / "b.onnx")
    net = Net()
    net.head(net.node("Relu", "x"), 3, 5)
    onnx.save(net.model(x=["N", 3, 8, 8]), place / "flat.onnx")
    np.savez(place / "frames.npz", x=images(160))
    x = images(60, seed=2)
    np.savez(place / "labelled.npz", x=x, label=np.arange(60) % 5, large=np.full(60, 7))
    return place


@pytest.fixture(scope="module")
def explored(folder: Path, capfd_once: Callable[[list[str]], str]) -> Explored:
    """The front of a and b, with labels, in folder/out."""
    words = [
        *("explore", folder / "a.onnx", folder / "b.onnx", "--calib", folder / "frames.npz"),
        *("--points", 5, "--measure", 2, "--format", "json", "-o", folder / "out"),
        *("--data", folder / "labelled.npz", "--labels", "label"),
    ]
    return Explored(json.loads(capfd_once([*map(str, words)])), folder / "out")


@pytest.fixture(scope="module")
def capfd_once() -> Callable[[list[str]], str]:
    """Runs a command line that succeeds and gives its stdout; for fixtures of a whole module."""
    import contextlib
    import io

    def run(words: list[str]) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert main(words) == 0
        return out.getvalue()

    return run


@pytest.fixture
def explore(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`explore("--points", "3")` runs the command on a.onnx: exit code, stdout, stderr."""

    def run(*words: object, model: str = "a.onnx", calib: bool = True) -> tuple[int, str, str]:
        given = ["--calib", folder / "frames.npz"] if calib else []
        code = main(["explore", str(folder / model), *map(str, [*given, *words])])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_the_front_falls_in_size_from_the_exact_program(explored: Explored) -> None:
    value = explored.value
    assert value["schema"] == "repsimc.explore/1" and value["models"] == ["a", "b"]
    points = value["points"]
    assert [point["number"] for point in points] == [*range(len(points))]
    assert 2 <= len(points) <= 5
    sizes = [(point["weights_nbytes"], point["macs"]) for point in points]
    assert sizes == sorted(sizes, reverse=True)
    exact, *others = points
    assert not exact["actions"] and all(point["actions"] for point in others)
    assert [output["fidelity"]["value"] for output in exact["outputs"]] == [1.0, 1.0]
    assert exact["macs"] <= value["macs_apart"]
    measured = [p for p in others if all(output["fidelity"] for output in p["outputs"])]
    assert 1 <= len(measured) <= 2


def test_accuracy_is_measured_of_every_model_where_fidelity_is(explored: Explored) -> None:
    for point in explored.value["points"]:
        for output in point["outputs"]:
            assert (output["accuracy"] is None) == (output["fidelity"] is None)
            assert output["accuracy"] is None or 0 <= output["accuracy"] <= 1


def test_the_files_are_those_that_the_json_lists(explored: Explored) -> None:
    there = {
        path.relative_to(explored.folder).as_posix()
        for path in explored.folder.rglob("*")
        if path.is_file()
    }
    written = json.loads((explored.folder / "explore.json").read_text())
    plans = {f"plans/{point['number']:03}.json" for point in written["points"]}
    assert (
        there
        == {"explore.json", "explore.png", "index.html", *plans}
        == {
            *written.pop("files"),
            "explore.json",
        }
    )
    assert written == explored.value
    for point in written["points"]:
        plan = json.loads((explored.folder / f"plans/{point['number']:03}.json").read_text())
        assert plan == point["plan"]


def test_the_command_of_each_point_compiles_it_to_the_bytes_stated(
    explored: Explored, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for point in explored.value["points"]:
        measured = point["outputs"][0]["fidelity"] is not None
        program, *words = shlex.split(point["command"])
        assert program == "repsimc"
        # Of a point that was not measured nobody knows which floor it keeps.
        words += [] if measured else ["--min-fidelity", "0"]
        code = main([*words, "--format", "json", "--dry-run"])
        report = json.loads(capsys.readouterr().out)
        assert code == 0, report
        made = report["weights_after_nbytes"], report["macs_after"]
        stated = point["weights_nbytes"], point["macs"]
        # Biases have no equals here: what fits make of shared ones is on no bill.
        assert made == stated


def test_the_same_call_gives_the_same_bytes(explore: Run, tmp_path: Path) -> None:
    files: list[dict[str, bytes]] = []
    for name in ("one", "two"):
        assert explore("--points", 3, "--measure", 1, "-o", tmp_path / name)[0] == 0
        found = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        files.append(
            {
                path.relative_to(tmp_path / name).as_posix(): path.read_bytes().replace(
                    str(tmp_path / name).encode(), b"out"
                )
                for path in found
            }
        )
    assert files[0] == files[1]


def test_a_model_without_sites_is_one_point_and_says_so(explore: Run) -> None:
    code, out, _ = explore("--format", "json", model="flat.onnx")
    value = json.loads(out)
    assert code == 0 and len(value["points"]) == 1
    assert any("nothing was found that could be rewritten" in note for note in value["notes"])
    code, out, _ = explore(model="flat.onnx")
    assert code == 0 and "note: nothing was found" in out


def test_a_front_is_replaced_only_when_asked(explore: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert explore("--points", 4, "--measure", 0, "-o", out)[0] == 0
    before = {path.name for path in (out / "plans").iterdir()}
    assert len(before) > 1
    code, _, err = explore("--points", 1, "-o", out)
    assert code == 2 and "--overwrite" in err
    (out / "mine.txt").write_text("keep me")
    assert explore("--points", 1, "-o", out, "--overwrite")[0] == 0
    assert [path.name for path in (out / "plans").iterdir()] == ["000.json"]
    assert (out / "mine.txt").read_text() == "keep me"


def test_other_files_are_not_overwritten(explore: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    code, _, err = explore("-o", tmp_path)
    assert code == 2 and "holds other files" in err


def test_a_hostile_name_of_a_value_is_text_on_the_page(folder: Path, explore: Run) -> None:
    from tests.explore.test_page import Read

    evil = "<img src=x onerror=alert(1)>"
    model = residual_net(2, scale=0.3)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == "b0":
                    names[index] = evil
    onnx.save(model, folder / "evil.onnx")
    code, _, err = explore("--only", "depth", "-o", folder / "evil", model="evil.onnx")
    assert code == 0, err
    page = (folder / "evil" / "index.html").read_text()
    assert "<img" not in page
    read = Read(page)
    assert not read.open and any(evil in text for text in read.texts)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--points", 0), 2, "no number of points"),
        (("--points", 1001), 2, "no number of points"),
        (("--points", 3, "--measure", 3), 2, "not among the 2 points"),
        (("--measure", -1), 2, "not among the 11 points"),
        (("--only", "nothing"), 2, "is no means"),
        (("--without", "nothing"), 2, "is no kind of rewrite"),
        (("--min-fidelity", 1.5), 2, "is not a share"),
        (("--data", "{folder}/labelled.npz"), 2, "go together"),
        (("--labels", "label"), 2, "go together"),
        (("--data", "{folder}/labelled.npz", "--labels", "none"), 3, "no array 'none'"),
        (("--data", "{folder}/labelled.npz", "--labels", "c=label"), 2, "no model of this call"),
        (("--data", "{folder}/labelled.npz", "--labels", "large"), 3, "has 5 classes"),
        (("--data", "{folder}/none.npz", "--labels", "label"), 3, "none.npz"),
        (("--calib", "{folder}/none.npz"), 3, "none.npz"),
    ],
)
def test_impossible_wishes(
    explore: Run, folder: Path, tmp_path: Path, words: tuple[object, ...], code: int, told: str
) -> None:
    said = [str(word).replace("{folder}", str(folder)) for word in words]
    calib = "--calib" not in said
    got, out, err = explore(*said, "-o", tmp_path / "out", calib=calib)
    assert (got, out) == (code, ""), err
    assert told in err
    assert not (tmp_path / "out").exists()


def test_frames_and_models_are_needed(explore: Run, folder: Path) -> None:
    code, _, err = explore(calib=False)
    assert code == 2 and "--calib" in err
    assert explore(model="missing.onnx")[0] == 3


# -- from Python ---------------------------------------------------------------------------


def test_python_gives_the_same_front(explored: Explored, folder: Path) -> None:
    found = repsimc.explore(
        [folder / "a.onnx", folder / "b.onnx"],
        folder / "frames.npz",
        points=5,
        measure=2,
        data=folder / "labelled.npz",
        labels="label",
    )
    value = found.to_json()
    for point in (*value["points"], *explored.value["points"]):
        point.pop("command")
    assert value == explored.value
    exact = found.points[0]
    assert exact.worst is not None and math.isclose(exact.worst.value, 1.0)


def test_a_point_is_compiled_from_python(folder: Path, tmp_path: Path) -> None:
    found = repsimc.explore(
        folder / "a.onnx", images(160), points=2, measure=1, output=tmp_path / "out"
    )
    assert (tmp_path / "out" / "index.html").is_file()
    last = found.points[-1]
    assert last.plan.actions
    bundle = repsimc.compile(
        folder / "a.onnx",
        calibration=images(160),
        plan=last.plan,
        min_fidelity=0.0,
        output=tmp_path / "bundle",
    )
    assert bundle.run(images(1))["a"]["y"].shape == (1, 5)


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"points": "5"}, "points='5' is not a whole number"),
        ({"budget": "60%"}, "knows no option budget"),
        ({"data": "labelled.npz"}, "go together"),
        ({"data": 3, "labels": "label"}, "data=3 is not a path"),
        ({"min_fidelity": "high"}, "min_fidelity='high'"),
        ({"calibration": None}, "measures on frames"),
    ],
)
def test_wrong_types_are_named(folder: Path, wishes: dict[str, Any], told: str) -> None:
    calibration = wishes.pop("calibration", folder / "frames.npz")
    with pytest.raises(UsageError, match=told):
        repsimc.explore(folder / "a.onnx", calibration, **wishes)
