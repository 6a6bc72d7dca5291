"""The case of two independently trained networks: a third of one's depth, and the whole curve."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx
from classifiers import (
    Classifiers,
    accuracy_record,
    compile_case,
    finish,
    unmeasured,
    verification,
)
from compiling import Compiled, Models
from measuring import Outcome, Round
from records import Record, figure
from stitching import DONOR, RECEIVER, TASK, Point, Stitching

from repsimc.compiler.planning.plan import Plan, PlannedAction

# Blocks of resnet44's 21 that are to be replaced at least, and those that the curve looks at.
THIRD = 7
DEPTHS = (2, 4, 7, 10, 14)

# resnet20 is to stay what it is. Both networks were trained on the calibration images and are
# right about nearly all of them, so their top-1 agreement there says little: resnet20's last
# features in place of all of resnet44 agree on 99.6 % of held-out calibration images, and on 91.9 %
# of new ones. Explained variance carries over (0.979 and 0.978 with four blocks replaced).
PLANNED = Classifiers(
    "independent",
    "cifar10",
    {DONOR: TASK, RECEIVER: TASK},
    "resnet20 and resnet44, trained independently",
    {"metrics": {RECEIVER: "variance"}, "output_fidelity": {DONOR: 1.0, RECEIVER: 0.95}},
    cost=True,
)
REPLAYED = replace(
    PLANNED, name="independent-third", title="the same, a third replaced by a given plan"
)


def run_independent(round_: Round) -> Outcome:
    """resnet44 fed by resnet20: as planned, a third of the blocks by a plan, and the curve."""
    stitching = Stitching(round_)
    outcome = Outcome()
    if not round_.quick:
        _compiled(round_, PLANNED, outcome, None)
    plan = round_.scratch / "third.plan.json"
    action = PlannedAction(stitching.chosen(THIRD))
    sources = {name: m.source.sha256 for name, m in stitching.program.models.items()}
    plan.write_text(json.dumps(Plan(sources, (action,)).to_json()))
    floors = {DONOR: 1.0, RECEIVER: 0.9}
    wishes = {**PLANNED.wishes, "output_fidelity": floors, "plan": plan}
    _compiled(round_, replace(REPLAYED, wishes=wishes, points=0.6, cost=False), outcome, THIRD)
    if round_.quick:
        return outcome
    original = stitching.accuracy(stitching.program)
    points = [stitching.point(blocks) for blocks in DEPTHS]
    outcome.records += curve_records(original, points)
    outcome.curve = curve_lines(original, points)
    return outcome


def _compiled(round_: Round, case: Classifiers, outcome: Outcome, blocks: int | None) -> None:
    models = case.models(round_)
    part, found = compile_case(case, round_, models)
    name = f"{case.name}/blocks of resnet44 replaced"
    bar = None if blocks is None else f">= {blocks}"
    if found.bundle is None:
        part.records += [
            figure(name, None, "blocks", bar, found.refusal),
            unmeasured(case, found),
        ]
    else:
        checked = verification(case, round_, found)
        part.records += [
            figure(name, replaced_blocks(models, found), "blocks", bar),
            accuracy_record(case.name, checked, case.points),
        ]
        outcome.rows.append(finish(case, round_, models, found, checked, part))
    outcome.records += part.records


def replaced_blocks(models: Models, found: Compiled) -> int:
    """Residual sums of the receiver that the merged graph no longer computes."""
    assert found.bundle is not None
    before = _sums(dict(models)[RECEIVER], "")
    return before - _sums(found.bundle / "merged.onnx", f"{RECEIVER}/")


def _sums(path: Path, prefix: str) -> int:
    nodes = onnx.load(path, load_external_data=False).graph.node
    return sum(node.op_type == "Add" and node.name.startswith(prefix) for node in nodes)


def curve_records(original: float, points: Sequence[Point]) -> list[Record]:
    """Accuracy over the depth shared, a record per method and depth."""
    records = [figure("curve/unchanged", 100 * original, "%")]
    for point in points:
        share = f"{point.blocks} of 21 blocks"
        found = {
            "raw swap": point.raw,
            "adapter": point.adapter,
            "adapter + refit": point.refit,
            "random sites + refit": point.random_mean,
        }
        for method, accuracy in found.items():
            extra = ""
            if method.startswith("random"):
                extra = "each " + " ".join(f"{100 * one:.1f}" for one in point.random)
            records.append(figure(f"curve/{share}, {method}", 100 * accuracy, "%", None, extra))
    return records


def curve_lines(original: float, points: Sequence[Point]) -> list[tuple[str, ...]]:
    """The curve as lines of a table: depth, then each method's accuracy in percent."""
    lines = [("none", *[f"{100 * original:.1f}"] * 4)]
    for point in points:
        accuracies = (point.raw, point.adapter, point.random_mean, point.refit)
        lines.append(
            (f"{point.blocks} of 21", *(f"{100 * accuracy:.1f}" for accuracy in accuracies))
        )
    return lines
