"""`repsimc compile` on networks with transposed convolutions: every kind of action around them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from repsimc.compiler.actions.narrow_layer import NarrowLayerAction
from repsimc.compiler.actions.share_prefix import SharePrefixAction
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.actions.tie_weights import TieWeightsAction
from repsimc.compiler.driver import CompileResult, compile_models
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.units import parse_budget
from tests.nets.networks import Net, perturbed
from tests.nets.residual import unexplained
from tests.nets.unet import SIZE, images, unet, up
from tests.programs import run


def wide_decoder() -> onnx.ModelProto:
    """A transposed convolution behind another: 32 units r2, more than anybody needs."""
    net = Net()
    x = net.relu(net.conv("x", 3, 16, strides=[2, 2]))
    x = net.relu(up(net, x, 16, 32, 2, out="u1"), out="r2")
    up(net, x, 32, 2, 2, out="y")
    return net.model(x=("N", 3, SIZE, SIZE))


def decoders_alike() -> onnx.ModelProto:
    """Two transposed convolutions of nearly one weight: t0 keeps the size, t1 doubles it."""
    net = Net()
    x = net.relu(net.conv("x", 3, 8, strides=[2, 2]))
    weight = net.normal(8, 8, 3, 3, scale=1 / 6)
    for index in range(2):
        own = net.weight(weight + net.normal(8, 8, 3, 3, scale=0.02))
        bias = net.weight(net.normal(8, scale=0.1))
        strides = [index + 1] * 2
        x = net.relu(
            net.node("ConvTranspose", x, own, bias, out=f"t{index}", pads=[1] * 4, strides=strides)
        )
    net.conv(x, 8, 2, 1, out="y")
    return net.model(x=("N", 3, SIZE, SIZE))


MODELS = {
    "a": unet(),
    "b": perturbed(unet(), 0.05, 1),
    "wide": wide_decoder(),
    "alike": decoders_alike(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("unet")
    for name, model in MODELS.items():
        onnx.save(model, place / f"{name}.onnx")
    np.savez(place / "frames.npz", x=images(200))
    return place


def made(folder: Path, models: Sequence[str], output: Path, **wishes: Any) -> CompileResult:
    """Compiled, and held to its floor on frames that the compiler has not seen."""
    options = {"calibration": folder / "frames.npz", "min_fidelity": 0.9} | wishes
    paths = tuple((name, folder / f"{name}.onnx") for name in models)
    result = compile_models(CompileOptions(models=paths, output=output, **options))
    assert all(found.met for model in result.report.models for found in model.fidelity)
    merged = onnx.load(output / "merged.onnx")
    x = images(64, seed=3)
    found = run(merged, {value.name: x for value in merged.graph.input})
    for name, values in zip(models, found.values(), strict=True):
        lost = unexplained(values, run(MODELS[name], {"x": x})["y"])
        assert lost < 1 - options["min_fidelity"]
    return result


def kinds(result: CompileResult) -> set[type]:
    return {type(planned.action) for planned in result.plan.actions}


@pytest.mark.usefixtures("layers_keep_their_units")
def test_regions_of_a_unet_go(folder: Path, tmp_path: Path) -> None:
    result = made(folder, "a", tmp_path / "out", budget=parse_budget("60%"), only="depth")
    assert kinds(result) == {CollapseAction}
    assert result.report.weights_after_nbytes <= 0.6 * result.report.weights_before_nbytes


def test_sibling_unets_share(folder: Path, tmp_path: Path) -> None:
    result = made(folder, "ab", tmp_path / "out", only="share")
    assert kinds(result) == {SharePrefixAction}
    assert result.report.weights_after_nbytes < 0.7 * result.report.weights_before_nbytes


def test_a_layer_of_transposed_convolutions_becomes_narrower(folder: Path, tmp_path: Path) -> None:
    result = made(folder, ["wide"], tmp_path / "out", budget=parse_budget("82%"))
    assert kinds(result) == {NarrowLayerAction}
    assert result.report.macs_after < 0.8 * result.report.macs_before


def test_transposed_convolutions_of_other_strides_get_one_weight(
    folder: Path, tmp_path: Path
) -> None:
    result = made(folder, ["alike"], tmp_path / "out", budget=parse_budget("75%"))
    assert kinds(result) == {TieWeightsAction}
