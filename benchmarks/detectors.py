"""Two face detectors on the same frame: compiled within their floor, or refused with the reason."""

from __future__ import annotations

import shutil

from compiling import Compiled, compiled
from measuring import (
    Outcome,
    Round,
    Row,
    benched,
    cost_records,
    latency_records,
    memory_record,
    save_frames,
    timed_compile,
)
from records import figure

from repsimc.compiler.bundle.verification import verify_bundle
from repsimc.runtime.session import load

CASE = "detectors"
NAMES = ("version-RFB-320", "version-slim-320")


def run_detectors(round_: Round) -> Outcome:
    """Two detectors at the least memory within the default floor.

    The zoo has no photographs of their kind: frames are mosaics of CIFAR-10 images.
    """
    models = [(name, round_.zoo.model(f"detect/{name}")) for name in NAMES]
    frames = round_.zoo.mosaics("calib2000", 24 if round_.quick else 128, seed=0)
    calibration = save_frames(round_.scratch / "detectors.npz", frames)
    timed = timed_compile(models, frames, round_.scratch / CASE, batch=1, calibration=calibration)
    calibration.unlink()
    found = timed.compiled
    exact = compiled(models, exact_only=True, dry_run=True)
    outcome = Outcome()
    why = reasons(found)
    explained = figure(
        f"{CASE}/compiled or refused with the reason", int(bool(why)), "", "== 1", why
    )
    outcome.records.append(explained)
    if found.report is None or found.bundle is None:
        return outcome
    if exact.share is None:
        raise RuntimeError(f"exact sharing alone was refused: {exact.refusal}")

    outputs = [(model.name, item) for model in found.report.models for item in model.fidelity]
    name, worst = min(outputs, key=lambda pair: pair[1].margin)
    fresh_frames = round_.zoo.mosaics("dev4000", 8 if round_.quick else 64, seed=1)
    fresh_data = save_frames(round_.scratch / "detectors.dev.npz", fresh_frames)
    fresh = min(
        verify_bundle(load(found.bundle), fresh_data), key=lambda item: item.fidelity.margin
    )
    fresh_data.unlink()
    results = benched(found.bundle, round_.runs, round_.times)
    latency = latency_records(CASE, found.bundle, results, not round_.quick)
    floor = f">= {worst.floor:g}"
    outcome.records += [
        figure(
            f"{CASE}/lowest fidelity, held-out frames",
            worst.value,
            "share",
            floor,
            f"{name}/{worst.output}, {worst.metric}, {worst.frames} frames",
        ),
        figure(
            f"{CASE}/lowest fidelity, fresh frames",
            fresh.fidelity.value,
            "share",
            floor,
            f"{fresh.model}/{fresh.fidelity.output}, {fresh.fidelity.frames} frames",
        ),
        figure(f"{CASE}/weights", found.share, "ratio"),
        figure(f"{CASE}/weights, exact only", exact.share, "ratio"),
        *cost_records(CASE, timed, len(frames), judged=False),
        *latency,
        memory_record(CASE, results),
    ]
    outcome.rows.append(
        Row(
            models="two face detectors (RFB, slim)",
            apart_nbytes=found.report.weights_before_nbytes,
            exact=exact.share,
            share=found.share,
            change=f"variance {worst.value:.4f}",
            latency=latency[0].value,
            remark="left alone" if not found.plan.get("actions") else "",
        )
    )
    shutil.rmtree(found.bundle)
    return outcome


def reasons(found: Compiled) -> str:
    """What was shared, and why the models beside were left alone; '' if some went unexplained."""
    if found.report is None:
        return found.refusal
    actions = found.plan.get("actions", ())
    roles = ("donor", "receiver", "model")
    busy = {action[role] for action in actions for role in roles if role in action}
    left_alone: dict[str, str] = found.plan.get("left_alone", {})
    if any(model.name not in busy | set(left_alone) for model in found.report.models):
        return ""
    lines = [f"{len(actions)} rewrites that hold on the frames"]
    return "; ".join(lines + [f"{name} is left alone: {why}" for name, why in left_alone.items()])
