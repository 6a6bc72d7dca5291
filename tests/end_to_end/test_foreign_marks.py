"""Models whose nodes carry our own marks already, of an earlier compile or by somebody's hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from repsimc.compiler.actions.share_prefix import SharePrefixAction
from repsimc.compiler.actions.take_out_region import CollapseAction
from repsimc.compiler.driver import CompileResult, compile_models
from repsimc.compiler.graph.program import PASS_KEY, REPLACES_KEY, SOURCE_KEY
from repsimc.compiler.graph.text import text
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.units import parse_budget
from tests.end_to_end.conftest import save_all, siblings
from tests.nets.networks import smooth_images
from tests.nets.residual import residual_net


def marked(model: onnx.ModelProto, value: str) -> onnx.ModelProto:
    """The model, of whose nodes each says that a collapse put it where `value` was."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    for node in copied.graph.node:
        for key, entry in (
            (PASS_KEY, "collapse"),
            (REPLACES_KEY, value),
            (SOURCE_KEY, f"elsewhere/{node.name}"),
        ):
            node.metadata_props.add(key=key, value=entry)
    return copied


def compiled(folder: Path, models: Mapping[str, onnx.ModelProto], **wishes: Any) -> CompileResult:
    """The models compiled, on smooth images."""
    save_all(folder, models)
    np.savez(folder / "frames.npz", x=smooth_images(160))
    return compile_models(
        CompileOptions(
            models=tuple((name, folder / f"{name}.onnx") for name in models),
            calibration=folder / "frames.npz",
            **wishes,
        )
    )


def assert_same_compile(
    folder: Path, models: Mapping[str, onnx.ModelProto], value: str, kind: type, **wishes: Any
) -> None:
    """Fails unless marks change neither the plan nor the graph nor any of its weights."""
    wanted = compiled(folder / "plain", models, **wishes)
    assert any(isinstance(planned.action, kind) for planned in wanted.plan.actions)
    strangers = {name: marked(model, value) for name, model in models.items()}
    found = compiled(folder / "marked", strangers, **wishes)
    assert found.plan.actions == wanted.plan.actions
    assert found.plan.left_alone == wanted.plan.left_alone
    assert text(found.program) == text(wanted.program)


def test_a_marked_model_loses_the_same_regions(tmp_path: Path) -> None:
    assert_same_compile(
        tmp_path,
        {"a": residual_net(scale=0.1)},
        "a/stem",
        CollapseAction,
        budget=parse_budget("60%"),
        min_fidelity=0.6,
        metrics={"a": "variance"},
        only="depth",
    )


def test_marked_models_share_the_same_prefixes(tmp_path: Path) -> None:
    models = siblings()
    assert_same_compile(
        tmp_path,
        {name: models[name] for name in "ab"},
        "a/s2",
        SharePrefixAction,
        budget=parse_budget("75%"),
        min_fidelity=0.8,
        only="share",
    )
