"""Landmarks: a fit and a look that start from kept values come out as if all had been run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from repsimc.compiler.actions.action import Action
from repsimc.compiler.actions.carry_out import passes_of
from repsimc.compiler.actions.evidence import Evidence
from repsimc.compiler.actions.narrow_layer import NarrowLayerAction
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.case import case_of, read_models
from repsimc.compiler.execution.executable import Executable
from repsimc.compiler.execution.feeds import FrameSet, fit_feeds, run_on
from repsimc.compiler.fitting.effort import LOOK
from repsimc.compiler.fitting.landmarks import Landmarks, values_alike
from repsimc.compiler.fitting.operators import linear_operator
from repsimc.compiler.fitting.reference import FitSize, Reference
from repsimc.compiler.graph.program import Program
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.progress import NoProgress
from tests.nets.by_kind import EXAMPLES
from tests.nets.foldable import attention_net
from tests.nets.networks import Array, ArrayFrames, smooth_images
from tests.nets.residual import residual_net
from tests.programs import program_of

SIZES = {
    "near": FitSize(4, 256, 0.3, pools_behind=False, reach=4),
    "all": FitSize(4, 256, 0.3, pools_behind=False),
    "pools": FitSize(4, 256, 0.3),
}


def net() -> Program:
    return program_of(residual_net(4, scale=0.4))


def frames(count: int = 40) -> ArrayFrames:
    """Of batches that do not divide them evenly."""
    return ArrayFrames({"a/x": smooth_images(count)})


def fitted(
    program: Program,
    given: FrameSet,
    actions: Sequence[Action],
    size: FitSize,
    marks: Landmarks | None,
) -> Program:
    """A copy after the actions, fitted from the landmarks or (None) from the frames."""
    reference = Reference(program, given, size=size, landmarks=marks)
    rewritten = program.copy()
    for step in passes_of(actions, lambda action: reference):
        step.run(rewritten)
    return rewritten


def assert_alike(found: Program, wanted: Program) -> None:
    """Fails unless they have the same weights, up to the rounding of values run in other parts."""
    weights, others = found.weights(), wanted.weights()
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        values, expected = np.asarray(tensor.values), np.asarray(others[name].values)
        assert values.shape == expected.shape, name
        if values.dtype.kind == "f":
            size = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
            np.testing.assert_allclose(values, expected, rtol=0, atol=2e-3 * size, err_msg=name)


def all_of(batches: Sequence[Array]) -> Array:
    return np.concatenate(batches)


def made(program: Program, given: FrameSet, value: str) -> Array:
    """A value on all frames, run from the beginning."""
    segment = Executable(program, None, [value])
    return all_of([arrays[value] for _, arrays in run_on(given, segment)])


# -- what is kept ------------------------------------------------------------------------------


def test_outputs_and_what_operators_read_are_kept() -> None:
    program, given = net(), frames()
    marks = Landmarks(program, given, ["a"])
    kept = marks.before(program)
    read = {op.source.name for op in map(linear_operator, program.graph.nodes) if op is not None}
    assert set(kept) == {*(read - program.input_names), "a/y"}
    for name, batches in kept.items():
        assert [len(batch) for batch in batches] == [16, 16, 8]
        np.testing.assert_allclose(all_of(batches), made(program, given, name), atol=1e-5)


def test_a_limit_thins_them_and_outputs_stay() -> None:
    program, given = net(), frames()
    full = set(Landmarks(program, given, ["a"]).before(program))
    sizes = [len(Landmarks(program, given, ["a"], limit).before(program)) for limit in (0, 250_000)]
    assert sizes[0] == 1 < sizes[1] < len(full)
    assert set(Landmarks(program, given, ["a"], 0).before(program)) == {"a/y"}


def test_what_a_rewrite_moves_is_not_known() -> None:
    program, given = net(), frames()
    marks = Landmarks(program, given, ["a"])
    rewritten = program.copy()
    assert values_alike(rewritten, program) == set(program.values()) - set(program.weights())
    operator = linear_operator(rewritten.node("a/n_b2_c"))
    assert operator is not None
    operator.write(rewritten, operator.affine())  # the same numbers, in an array of their own
    known = marks.before(rewritten)
    assert {"a/b0_h", "a/b1", "a/b1_h"} <= set(known)
    assert not {"a/b2_h", "a/b3_h", "a/y"} & set(known)


def test_a_value_of_a_node_with_other_attributes_is_not_known() -> None:
    program = net()
    rewritten = program.copy()
    rewritten.node("a/n_b1_d").attrs["pads"] = [2, 2, 0, 0]
    alike = values_alike(rewritten, program)
    assert {"a/b1_h", "a/b1_c"} <= alike and not {"a/b1_d", "a/b1", "a/y"} & alike


# -- runs, rows and fits -----------------------------------------------------------------------


@pytest.mark.parametrize("limit", [384 << 20, 250_000, 0])
def test_a_rewritten_program_runs_as_it_does_from_the_frames(limit: int) -> None:
    program, given = net(), frames()
    marks = Landmarks(program, given, ["a"], limit)
    rewritten = fitted(program, given, [CollapseAction("a", "a/b1", "a/b2")], SIZES["near"], None)
    wanted = ["a/b3_h", "a/y", "a/b0_h"]
    batches = list(marks.run(rewritten, wanted))
    assert [(batch.start, batch.stop) for batch, _ in batches] == [(0, 16), (16, 32), (32, 40)]
    for name in wanted:
        found = all_of([arrays[name] for _, arrays in batches])
        np.testing.assert_allclose(found, made(rewritten, given, name), atol=1e-5)


def test_a_reference_has_the_rows_of_one_without_landmarks() -> None:
    program, given = net(), frames()
    wanted = {"a/b0_d": (300, False), "a/b3": (200, False), "a/y": (40, True)}
    one, other = (
        Reference(program, given, seed=3, landmarks=marks)
        for marks in (Landmarks(program, given, ["a"]), None)
    )
    for reference in (one, other):
        reference.collect(wanted)
    for value in wanted:
        assert one.has(value)
        np.testing.assert_array_equal(
            one.positions(value, slice(16, 32)), other.positions(value, slice(16, 32))
        )
        np.testing.assert_allclose(one.rows(value), other.rows(value), atol=1e-5)


GAP = CollapseAction("a", "a/b1", "a/b2")
PLANS: dict[str, tuple[Action, ...]] = {
    "a gap": (GAP,),
    "two gaps": (CollapseAction("a", "a/stem", "a/b0"), GAP),
    "a narrower layer": (NarrowLayerAction("a", "a/b2_h", 3),),
    "a narrower layer behind a gap": (GAP, NarrowLayerAction("a", "a/b3_h", 3)),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("plan", PLANS)
def test_a_fit_comes_out_as_it_does_from_the_frames(plan: str, size: str) -> None:
    """Pools and gaps too: what a fit writes anew is behind no landmark that it goes on from."""
    program, given = net(), frames(64)
    marks = Landmarks(program, given, ["a"])
    wanted = fitted(program, given, PLANS[plan], SIZES[size], None)
    assert_alike(fitted(program, given, PLANS[plan], SIZES[size], marks), wanted)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_kind_is_looked_at_as_it_is_from_the_frames(kind: str) -> None:
    example = EXAMPLES[kind]
    program = example.program()
    given, models = example.frames(program), list(program.models)
    marks = Landmarks(program, given, models)
    found, wanted = (
        fitted(program, given, [example.action], SIZES["near"], one) for one in (marks, None)
    )
    model = example.action.models[-1]
    (output,) = program.models[model].outputs.values()
    after = found.models[model].outputs[next(iter(program.models[model].outputs))]
    from_marks = all_of([arrays[after] for _, arrays in marks.run(found, [after])])
    expected = made(wanted, given, after)
    before = made(program, given, output)
    # Next to what the rewrite itself does, where its values are run in parts makes no difference.
    assert np.abs(from_marks - expected).max() <= 2e-3 * np.abs(before).max()


# -- groups of models --------------------------------------------------------------------------


def saved(folder: Path, batch: int | None) -> CompileOptions:
    """Images for a, whose batch may be fixed, and tokens for b."""
    images = residual_net(3)
    if batch is not None:
        images.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
        del images.graph.value_info[:]
        images.graph.output[0].type.tensor_type.shape.dim[0].dim_value = batch
    for name, model in {"a": images, "b": attention_net()}.items():
        onnx.save(model, folder / f"{name}.onnx")
    tokens = np.random.default_rng(0).normal(size=(96, 6, 10)).astype(np.float32)
    return CompileOptions(
        models=tuple((name, folder / f"{name}.onnx") for name in "ab"),
        calibration={"a": smooth_images(120), "b": tokens},
    )


@pytest.mark.parametrize("batch", [None, 8])
def test_groups_of_other_frames_have_landmarks_of_their_own(
    tmp_path: Path, batch: int | None
) -> None:
    options = saved(tmp_path, batch)
    case = case_of(read_models(options, NoProgress()), options, NoProgress())
    evidence = Evidence(case)
    assert evidence.groups == (("a",), ("b",)) and case.frames is not None
    for group in evidence.groups:
        (name,) = group
        reference = evidence.reference(name, LOOK)
        assert reference.landmarks is not None
        kept = reference.landmarks.before(case.program)
        assert kept and all(value.startswith(f"{name}/") for value in kept)
        (output,) = case.program.models[name].outputs.values()
        sizes = [len(array) for array in reference.landmarks.batches(output)]
        assert sizes == list(reference.frames.counts) and sum(sizes) == 48
        assert batch is None or name != "a" or set(sizes) == {batch}
        feeds = fit_feeds(case.program, case.frames, name, LOOK.frames)
        np.testing.assert_allclose(
            all_of(reference.landmarks.batches(output)),
            made(case.program, feeds, output),
            atol=1e-5,
        )
