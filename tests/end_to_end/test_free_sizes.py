"""Models whose height and width are free: compiled for the frames' sizes, run on any."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import repsimc
from repsimc.compiler.driver import CompileResult, compile_models
from repsimc.compiler.errors import UsageError
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.units import parse_budget, parse_macs
from repsimc.runtime.bench import BenchOptions, bench
from repsimc.runtime.manifest import Manifest
from tests.nets.networks import Net, perturbed, smooth_images
from tests.programs import run


def detector(seed: int = 0) -> onnx.ModelProto:
    """A map as large as the image, by way of a Resize to a computed size."""
    net = Net(seed)
    x, channels = net.relu(net.conv("x", 3, 8, strides=[2, 2])), 8
    for _ in range(3):
        x = net.relu(net.conv(x, channels, 8))
    bounds = [net.weight(np.array([bound])) for bound in (0, 2, 4)]
    image, small = net.node("Shape", "x"), net.node("Shape", x)
    size = net.node(
        "Concat",
        net.node("Slice", small, bounds[0], bounds[1]),
        net.node("Slice", image, bounds[1], bounds[2]),
        axis=0,
    )
    net.conv(net.node("Resize", x, "", "", size, mode="nearest"), 8, 1, out="y")
    return net.model(x=("N", 3, "H", "W"))


def free(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with its sizes called by that name, both of them."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    del named.graph.value_info[:]
    for dim in list(named.graph.input[0].type.tensor_type.shape.dim)[2:]:
        dim.dim_param = name
    named.graph.output[0].type.tensor_type.ClearField("shape")
    return named


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("free")
    onnx.save(detector(), made / "a.onnx")
    onnx.save(free(perturbed(detector(), 0.01), "?"), made / "b.onnx")
    np.savez(made / "frames.npz", x=smooth_images(60, size=16))
    return made


def compiled(folder: Path, **wishes: object) -> CompileResult:
    models = tuple((name, folder / f"{name}.onnx") for name in "ab")
    return compile_models(CompileOptions(models=models, **wishes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def result(folder: Path) -> CompileResult:
    return compiled(
        folder,
        calibration=folder / "frames.npz",
        budget=parse_budget("70%"),
        only="share",
        output=folder / "bundle",
        min_fidelity=0.9,
    )


def macs(size: int) -> int:
    half = size // 2 * (size // 2)
    return half * 8 * 27 + 3 * half * 8 * 72 + size * size * 72


def test_sharing_sees_sizes_that_only_a_run_tells(result: CompileResult) -> None:
    assert result.report.budget_met and result.plan.actions
    assert [model.macs_before for model in result.report.models] == [macs(16), macs(16)]
    assert all(output.met for model in result.report.models for output in model.fidelity)
    assert result.report.sizes == {"a.x": (1, 3, 16, 16), "b.x": (1, 3, 16, 16)}


@pytest.mark.parametrize("size", [(16, 16), (9, 30), (40, 7)])
def test_the_bundle_takes_every_size_that_the_models_take(
    result: CompileResult, folder: Path, size: tuple[int, int]
) -> None:
    x = smooth_images(3, size=40)[..., : size[0], : size[1]]
    assert result.bundle is not None
    found = repsimc.load(result.bundle).run(x)
    for name in "ab":
        assert found[name]["y"].shape == run(folder / f"{name}.onnx", {"x": x})["y"].shape


def test_bench_feeds_frames_of_the_size_compiled_for(result: CompileResult) -> None:
    assert result.bundle is not None
    options = BenchOptions(runs=1, warmup=0, repeats=1)
    assert bench(result.bundle, options).frame.endswith("; x 1x3x16x16")
    assert bench(result.bundle, options, sizes={"x": (1, 3, 8, 24)}).frame.endswith("x 1x3x8x24")
    content = json.loads((result.bundle / "manifest.json").read_text())
    assert content["sizes"] == {"x": [1, 3, 16, 16]}
    del content["sizes"]  # as earlier versions wrote it
    assert Manifest.from_json(content).sizes == {}


def test_without_frames_figures_are_unknown_until_sizes_are_told(folder: Path) -> None:
    unknown = compiled(folder, dry_run=True).report
    assert unknown.sizes_unknown == ("a.x", "b.x") and unknown.sizes == {}
    told = compiled(folder, dry_run=True, size={"x": (1, 3, 32, 32)}).report
    assert told.sizes_unknown == () and told.models[0].macs_before == macs(32)


@pytest.mark.parametrize(
    "limits", [{"budget": parse_budget("2GB")}, {"max_macs": parse_macs("60%")}]
)
def test_no_limit_rests_on_sizes_that_nothing_tells(
    folder: Path, limits: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match="may have any size"):
        compiled(folder, dry_run=True, **limits)
