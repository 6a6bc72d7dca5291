"""Inputs that are made up where no frames are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from repsimc.compiler.errors import ModelError
from repsimc.compiler.execution.agreement import Probe
from repsimc.compiler.execution.given import GivenModels
from repsimc.compiler.execution.synthetic import Making, made_up, synthetic_probes
from repsimc.compiler.frontends.join import join
from repsimc.compiler.frontends.read import read_model
from repsimc.compiler.isolation.allowance import ParseLimits
from tests.nets.costly import ENDLESS, WIDENS
from tests.programs import joined, model_of_text


def probed(
    folder: Path, sizes: dict[str, int] | None = None, /, **texts: str
) -> tuple[list[Probe], dict[str, str]]:
    for name, text in texts.items():
        onnx.save(model_of_text(text), folder / f"{name}.onnx")
    program = join([read_model(folder / f"{name}.onnx", name) for name in texts])
    return synthetic_probes(program, GivenModels(program.models), list(texts), sizes)


def net(inputs: str, nodes: str, outputs: str = "float[A] y", opset: int = 17) -> str:
    head = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    return f"{head} g ({inputs}) => ({outputs}) {{ {nodes} }}"


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [("float", -8, 8), ("int8", -128, 127), ("uint8", 0, 255), ("int64", 0, 1), ("bool", 0, 1)],
)
def test_values_suit_their_type_and_are_the_same_again(kind: str, least: int, most: int) -> None:
    program = joined(a=net(f"{kind}[N,50] x", "y = Identity(x)", f"{kind}[N,50] y"))
    (value,) = program.graph.inputs
    found = made_up(value, Making(8, 2, 2), {}, 0)
    assert found.shape == (2, 50)
    assert found.dtype == value.dtype
    assert found.min() >= least
    assert found.max() <= most
    assert len(np.unique(found)) > 1
    np.testing.assert_array_equal(found, made_up(value, Making(8, 2, 2), {}, 0))
    assert not np.array_equal(found, made_up(value, Making(8, 2, 2), {}, 1))


def test_texts_scalars_and_known_sizes() -> None:
    program = joined(a=net("string[T] s, float x, float[N,H] z", "y = Neg(z)", "float[N,H] y"))
    texts, scalar, sized = program.graph.inputs
    assert {type(text) for text in made_up(texts, Making(8, 2, 2), {}, 0)} == {str}
    assert made_up(scalar, Making(8, 2, 2), {}, 0).shape == ()
    sizes = {str(sized.shape[1]): 7}
    assert made_up(sized, Making(8, 2, 2), sizes, 0).shape == (2, 7)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (net("float[N,3,H,W] x", "y = GlobalMaxPool(x)", "float[N,3,1,1] y"), (2, 3, 8, 8)),
        (net("float[N,1,H,H] x", "y = MaxPool<kernel_shape=[30,30]>(x)"), (2, 1, 32, 32)),
        (net("float[N,S] x, int64[2] t", "y = Reshape(x, t)", "float[A,B] y"), (2, 8)),
        (net("float[P,Q] x, int64[K] k", "y = Gather<axis=1>(x, k)", "float[A,B] y"), (2, 8)),
    ],
)
def test_free_sizes_are_those_the_file_accepts(
    tmp_path: Path, text: str, shape: tuple[int, ...]
) -> None:
    probes, unverified = probed(tmp_path, a=text)
    assert not unverified
    assert probes[0].feeds["a/x"].shape == shape
    assert probes[0].expected["a"]["y"].size


def test_what_counts_frames_does_so_on_any_axis(tmp_path: Path) -> None:
    text = net("float[B,4] x, float[2,B,4] state", "y = Add(state, x)", "float[2,B,4] y")
    probes, unverified = probed(tmp_path, a=text)
    assert not unverified
    assert probes[0].feeds["a/state"].shape == (2, 2, 4)


def test_models_that_accept_the_same_have_a_probe_together(tmp_path: Path) -> None:
    one, other = (net("float[N,4] x", f"y = {op}(x)", "float[N,4] y") for op in ("Neg", "Exp"))
    probes, unverified = probed(tmp_path, a=one, b=other)
    assert not unverified
    assert [sorted(probe.expected) for probe in probes] == [["a", "b"]] * len(probes)
    for probe in probes:
        np.testing.assert_allclose(probe.expected["a"]["y"], -probe.feeds["a/x"])


def test_what_is_random_is_said_to_be(tmp_path: Path) -> None:
    noisy = net("float[N,4] x", "r = RandomNormalLike(x) y = Add(x, r)", "float[N,4] y")
    plain = net("float[N,4] x", "y = Neg(x)", "float[N,4] y")
    probes, unverified = probed(tmp_path, a=noisy, b=plain)
    assert list(unverified) == ["a"]
    assert "random" in unverified["a"]
    assert all(list(probe.expected) == ["b"] for probe in probes)


@pytest.mark.parametrize(
    ("text", "limits", "said"),
    [
        (WIDENS, ParseLimits(memory_nbytes=64 << 20), "takes more than 64 MiB of memory"),
        (ENDLESS, ParseLimits(seconds=0.5), "takes more than 0.5 s of processor time"),
    ],
)
def test_what_takes_too_much_of_made_up_inputs_is_refused(
    tmp_path: Path, text: str, limits: ParseLimits, said: str
) -> None:
    onnx.save(model_of_text(text), tmp_path / "a.onnx")
    program = join([read_model(tmp_path / "a.onnx", "a")])
    with pytest.raises(ModelError, match=f"on made-up inputs {said}"):
        synthetic_probes(program, GivenModels(program.models), ["a"], limits=limits)


def test_inputs_that_end_the_process_are_not_the_ones_that_are_taken(tmp_path: Path) -> None:
    # A divisor of 0 does.
    text = net("int64[N,50] x, int64[50] z", "y = Div(x, z)", "int64[N,50] y")
    probes, unverified = probed(tmp_path, a=text)
    assert not unverified
    assert [probe.feeds["a/z"].all() for probe in probes] == [True]


def test_a_file_that_does_not_open_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="default settings, cannot open"):
        probed(
            tmp_path,
            a="""<ir_version: 8, opset_import: ["" : 17]> g (double[3] x) => (double[3] y)
            <double low = {-1}, double high = {1}> { r = Relu(x) y = Clip(r, low, high) }""",
        )
