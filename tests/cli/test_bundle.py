from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.cli.conftest import MAP, SCORES, SHIFTED, Ran, bundle_of
from tests.programs import model_of_text

Call = Callable[..., Ran]


def outputs(ran: Ran) -> dict[str, dict[str, Any]]:
    return {item["model"]: item for item in json.loads(ran.out)["outputs"]}


def swap_graph(bundle: Path, text: str) -> None:
    """Let the merged graph compute something else, as a bad rewrite would."""
    from repsimc.compiler.bundle.writing import BundleContents, write_bundle
    from repsimc.compiler.frontends.join import join
    from repsimc.compiler.frontends.onnx import import_model
    from repsimc.compiler.frontends.read import read_model

    folder = bundle.parent
    kept = [read_model(folder / f"{name}.onnx", name) for name in ("a", "b")]
    changed = import_model(model_of_text(text), "a", kept[0].models["a"].source)
    entries = json.loads((bundle / "manifest.json").read_text())["models"]
    write_bundle(
        bundle,
        BundleContents(
            join([changed, kept[1]], [[("a", "x"), ("b", "x")]]),
            plan={},
            report={},
            fidelity={entry["name"]: entry["fidelity"] for entry in entries},
        ),
        overwrite=True,
    )


def test_an_unchanged_bundle_is_perfect(repsimc: Call, bundle: Path, frames: Path) -> None:
    ran = repsimc("verify", bundle, "--data", frames, "--format", "json")
    assert ran.code == 0, ran.err
    found = outputs(ran)
    assert json.loads(ran.out)["met"] is True
    assert [found[m]["value"] for m in ("a", "b")] == [1.0, 1.0]
    assert [found[m]["metric"] for m in ("a", "b")] == ["top-1 agreement", "explained variance"]
    assert found["a"]["frames"] == 48 and found["a"]["floor"] == 0.9
    assert found["a"]["max_difference"] == 0.0
    assert found["a"]["accuracy_original"] is None


def test_accuracy_stands_beside_the_originals(repsimc: Call, bundle: Path, frames: Path) -> None:
    swap_graph(bundle, SHIFTED)
    x = np.load(frames)["x"]
    shifted = (x * [1, 1, 4]).argmax(-1)
    agreement = float(np.mean(shifted == x.argmax(-1)))
    assert agreement < 0.9

    ran = repsimc("verify", bundle, "--data", frames, "--labels", "a=label", "--format", "json")
    assert ran.code == 4
    found = outputs(ran)
    assert found["a"]["value"] == pytest.approx(agreement)
    assert found["a"]["accuracy_original"] == 1.0
    assert found["a"]["accuracy_compiled"] == pytest.approx(agreement)
    assert found["a"]["max_difference"] == pytest.approx(3 * np.abs(x[:, 2]).max(), rel=1e-5)
    assert found["a"]["met"] is False and found["b"]["met"] is True
    assert json.loads(ran.out)["error"]["exit_code"] == 4
    assert "output 'y' of model 'a' has a fidelity of" in ran.err

    ran = repsimc("verify", bundle, "--data", frames, "--labels", "label")
    assert ran.code == 4
    assert "MISSED" in ran.out and f"100.00 -> {100 * agreement:.2f} %" in ran.out


@pytest.mark.parametrize(
    ("stated", "said"), [(0.2, "within"), (0.9, "below"), (None, None), ("x", None)]
)
def test_a_miss_is_held_against_the_bound_that_compile_stated(
    repsimc: Call, bundle: Path, frames: Path, stated: object, said: str | None
) -> None:
    swap_graph(bundle, SHIFTED)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["models"][0]["fidelity"][0]["lower"] = stated
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    ran = repsimc("verify", bundle, "--data", frames, "--format", "json")
    assert ran.code == 4
    found = outputs(ran)["a"]
    assert found["as_stated"] is (None if said is None else said == "within")
    assert 0 < found["lower"] < found["value"]
    table = repsimc("verify", bundle, "--data", frames)
    assert (f"MISSED, {said}" in table.out) is (said is not None)
    assert ("the bound that compile stated" in table.err) is (said is not None)


def test_originals_that_moved(repsimc: Call, bundle: Path, frames: Path) -> None:
    moved = bundle.parent / "moved"
    moved.mkdir()
    for name in ("a.onnx", "b.onnx"):
        (bundle.parent / name).rename(moved / name)
    ran = repsimc("verify", bundle, "--data", frames)
    assert ran.code == 3 and "--originals FOLDER" in ran.err
    assert repsimc("verify", bundle, "--data", frames, "--originals", moved).code == 0


def test_an_original_that_changed(repsimc: Call, bundle: Path, frames: Path) -> None:
    onnx.save(model_of_text(SHIFTED), bundle.parent / "a.onnx")
    ran = repsimc("verify", bundle, "--data", frames)
    assert ran.code == 3
    assert "not the file that model 'a' was compiled from" in ran.err


@pytest.mark.parametrize(
    ("labels", "code", "said"),
    [
        (["a=nothing"], 3, "no array 'nothing' for labels"),
        (["c=label"], 2, "--labels c=label is for no model"),
        (["b=label"], 2, "none of its outputs holds class scores"),
        (["a=other"], 3, "a label is 7, and output 'y' of model 'a' has 3 classes"),
        (["a=short"], 3, "has 5 labels 'short' for 48 frames"),
        (["a=x"], 3, "labels are one integer per frame"),
    ],
)
def test_labels_that_can_not_be_used(
    repsimc: Call, bundle: Path, frames: Path, labels: list[str], code: int, said: str
) -> None:
    options = [word for text in labels for word in ("--labels", text)]
    ran = repsimc("verify", bundle, "--data", frames, *options)
    assert ran.code == code
    assert said in ran.err


def test_own_sets_for_models_with_own_inputs(repsimc: Call, tmp_path: Path, frames: Path) -> None:
    bundle = bundle_of(tmp_path, tied=False, a=SCORES, b=MAP)
    np.savez(tmp_path / "b.npz", x=np.ones((5, 3), np.float32))
    ran = repsimc(
        *("verify", bundle, "--data", f"a={frames}", "--data", f"b={tmp_path / 'b.npz'}"),
        *("--format", "json", "--frames", "20"),
    )
    assert ran.code == 0, ran.err
    assert [outputs(ran)[m]["frames"] for m in ("a", "b")] == [20, 5]


def test_models_of_different_fixed_batches(repsimc: Call, tmp_path: Path, frames: Path) -> None:
    bundle = bundle_of(
        tmp_path, tied=False, a=SCORES.replace("N,", "4,"), b=MAP.replace("N,", "6,")
    )
    ran = repsimc("verify", bundle, "--data", frames, "--format", "json")
    assert ran.code == 0, ran.err
    assert [outputs(ran)[m]["frames"] for m in ("a", "b")] == [48, 48]


def test_the_metric_can_be_chosen_in_the_config(
    repsimc: Call, bundle: Path, frames: Path, tmp_path: Path
) -> None:
    (tmp_path / "repsimc.toml").write_text('[metrics]\na = "variance"\n')
    ran = repsimc("verify", bundle, "--data", frames, "--format", "json")
    assert outputs(ran)["a"]["metric"] == "explained variance"


def test_no_bundle(repsimc: Call, tmp_path: Path, frames: Path) -> None:
    ran = repsimc("verify", tmp_path, "--data", frames)
    assert ran.code == 3 and "is not a bundle" in ran.err


# -- run ---------------------------------------------------------------------------------


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    path = tmp_path / "frame.npy"
    np.save(path, np.array([[0.5, -1.0, 2.0]], np.float32))
    return path


def test_run_prints_shapes_and_top_values(repsimc: Call, bundle: Path, frame: Path) -> None:
    ran = repsimc("run", bundle, "--model", "a", "--input", frame)
    assert ran.code == 0, ran.err
    assert "float32 [1, 3]" in ran.out and "2: 2, 0: 0.5, 1: -1" in ran.out


def test_run_as_json(repsimc: Call, bundle: Path, frame: Path) -> None:
    data = json.loads(repsimc("run", bundle, "--input", frame, "--format", "json").out)
    a, b = data["outputs"]
    assert a["values"] == [[0.5, -1.0, 2.0]]
    assert a["top"][0] == {"index": 2, "value": 2.0}
    assert (b["model"], b["shape"], b["top"]) == ("b", [1, 3, 1], [])
    assert b["values"][0][0] == [pytest.approx(np.tanh(0.5))]


def test_a_frame_without_the_batch_axis(repsimc: Call, bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "bare.npy", np.array([0.5, -1.0, 2.0], np.float32))
    ran = repsimc("run", bundle, "--input", "x=bare.npy", "--format", "json")
    assert json.loads(ran.out)["outputs"][0]["values"] == [[0.5, -1.0, 2.0]]


def test_run_writes_the_same_bytes_each_time(
    repsimc: Call, bundle: Path, frame: Path, tmp_path: Path
) -> None:
    assert repsimc("run", bundle, "--input", frame, "-o", "out.npz").code == 0
    first = (tmp_path / "out.npz").read_bytes()
    ran = repsimc("run", bundle, "--input", frame, "-o", "out.npz")
    assert "outputs written to out.npz" in ran.out
    assert (tmp_path / "out.npz").read_bytes() == first
    with np.load(tmp_path / "out.npz") as arrays:
        assert sorted(arrays) == ["a/y", "b/y"]
        assert arrays["a/y"].tolist() == [[0.5, -1.0, 2.0]]


def test_run_takes_an_npz_keyed_by_input(repsimc: Call, bundle: Path, frames: Path) -> None:
    with np.load(frames) as arrays:
        np.savez(frames.with_name("one.npz"), x=arrays["x"][:1])
    assert repsimc("run", bundle, "--input", "one.npz").code == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--input", "none.npy"], 3, "none.npy"),
        (["--input", "frame.npy", "--model", "c"], 2, "no model 'c'"),
        (["--input", "z=frame.npy"], 3, "'z' is neither a model nor an input"),
        (["--input", "x=frame.npy", "--input", "x=frame.npy"], 2, "given twice"),
        (["--input", "frame.npy", "--input", "frame.npy"], 2, "does not say which input"),
        (["--input", "wide.npy"], 3, "needs float32"),
        (["--input", "pickled.npy"], 3, "unpickling runs code"),
        (["--input", "frame.txt"], 3, "frame.txt is no frame"),
        ([], 2, "--input"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_run_refuses(
    repsimc: Call,
    bundle: Path,
    frame: Path,
    tmp_path: Path,
    words: list[str],
    code: int,
    said: str,
) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((1, 3)))
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    ran = repsimc("run", bundle, *words)
    assert ran.code == code
    assert said in ran.err and "Traceback" not in ran.err


# -- bench -------------------------------------------------------------------------------


def test_bench_sets_merged_beside_apart(repsimc: Call, bundle: Path) -> None:
    ran = repsimc("bench", bundle, "--runs", 2, "--warmup", 0, "--threads", 1)
    assert ran.code == 0, ran.err
    assert "merged / apart" in ran.out and "p99" in ran.out
