"""Cases of classifiers on the same frames: exact, related, five of a family, transformers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compiling import Compiled, Models, compiled
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
from records import Record, figure

from repsimc.compiler.bundle.verification import VerificationOptions, verify_bundle
from repsimc.compiler.reports.measurements import OutputVerification
from repsimc.runtime.session import load


@dataclass(frozen=True)
class Classifiers:
    """A case: models with the task that each solves, how to compile them, and what is asked.

    `points` is the most accuracy that any model may lose, `share` the weights allowed, as a share
    of the models apart; None where nothing is asked. `cost` says whether compile time is held
    against its bar.
    """

    name: str
    family: str
    tasks: Mapping[str, str]
    title: str
    wishes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    points: float | None = None
    share: float | None = None
    latency: float | None = None
    cost: bool = False
    exact: bool = False

    def models(self, round_: Round) -> Models:
        """(name, file) of each model."""
        return [(name, round_.zoo.model(name)) for name in self.tasks]


EXACT = Classifiers(
    "exact",
    "cifar10",
    {
        "cifar10_resnet20": "class10",
        "sib_head_animal2": "animal2",
        "sib_frozen_bright4": "bright4",
        "sib_frozen_habitat4": "habitat4",
    },
    "resnet20 and three siblings with frozen layers",
    share=0.63,
    latency=0.55,
    exact=True,
)
RELATED = Classifiers(
    "related",
    "cifar10",
    {
        "cifar10_resnet20": "class10",
        "sib_full_habitat4": "habitat4",
        "sib_full_animal2": "animal2",
    },
    "resnet20 and two siblings, every weight fine-tuned",
    {"budget": "40%"},
    points=0.5,
    share=0.40,
    cost=True,
)
WIDE = Classifiers(
    "wide",
    "cifar10",
    {
        "cifar10_resnet20": "class10",
        "sib_full_habitat4": "habitat4",
        "sib_full_animal2": "animal2",
        "sib_head_animal2": "animal2",
        "sib_full_bright4": "bright4",
    },
    "five of the family, one of another kind of task",
    points=1.0,
)
TRANSFORMERS = Classifiers(
    "transformers",
    "fashion",
    {
        "fashion_vit6_class10": "class10",
        "fashion_vit6_full_group4": "group4",
        "fashion_vit6_frozen_group4": "group4",
    },
    "a six-block ViT and two siblings",
    {"budget": "60%"},
    points=0.5,
    share=0.60,
    cost=True,
)


def run_exact(round_: Round) -> Outcome:
    """Siblings whose frozen layers are bit-identical: nothing may change."""
    return run(EXACT, round_)


def run_related(round_: Round) -> Outcome:
    """Siblings that are similar, not identical, under a budget."""
    return run(RELATED, round_)


def run_wide(round_: Round) -> Outcome:
    """Five models at the least memory within the default floor."""
    return run(WIDE, round_)


def run_transformers(round_: Round) -> Outcome:
    """Vision transformers under a budget."""
    return run(TRANSFORMERS, round_)


def run(case: Classifiers, round_: Round) -> Outcome:
    """Compile the case, beside doing nothing and beside exact-only, and judge it on labels."""
    models = case.models(round_)
    outcome, found = compile_case(case, round_, models)
    if found.bundle is None:
        outcome.records.append(unmeasured(case, found))
        return outcome
    checked = verification(case, round_, found)
    if case.exact:
        worst = max(item.max_difference for item in checked)
        outcome.records.append(
            figure(
                f"{case.name}/largest difference of an output",
                worst,
                "",
                "<= 1e-05",
                f"{round_.judged} frames",
            )
        )
    outcome.records.append(accuracy_record(case.name, checked, case.points))
    outcome.rows.append(finish(case, round_, models, found, checked, outcome))
    return outcome


def compile_case(case: Classifiers, round_: Round, models: Models) -> tuple[Outcome, Compiled]:
    """The compilation, and an outcome with its figures of weights and cost."""
    outcome = Outcome()
    frames = round_.zoo.frames(case.family, "calib2000", round_.frames(case.family))
    if case.exact:
        found = compiled(models, round_.scratch / case.name, exact_only=True)
    else:
        calibration = save_frames(round_.scratch / f"{case.name}.npz", frames)
        timed = timed_compile(
            models,
            frames,
            round_.scratch / case.name,
            calibration=calibration,
            **case.wishes,
        )
        calibration.unlink()
        found = timed.compiled
        judged = case.cost and not round_.quick
        outcome.records += cost_records(case.name, timed, len(frames), judged)
    bar = None if case.share is None else f"<= {case.share:.2f}"
    outcome.records.insert(
        0,
        figure(
            f"{case.name}/weights",
            found.share,
            "ratio",
            bar,
            found.refusal or described(case.wishes),
        ),
    )
    return outcome, found


def finish(
    case: Classifiers,
    round_: Round,
    models: Models,
    found: Compiled,
    checked: Sequence[OutputVerification],
    outcome: Outcome,
) -> Row:
    """Latency and memory go into the outcome; the README's row comes back."""
    assert found.report is not None and found.bundle is not None
    exact = found if case.exact else compiled(models, exact_only=True, dry_run=True)
    if exact.share is None:
        raise RuntimeError(f"exact sharing alone was refused: {exact.refusal}")
    results = benched(found.bundle, round_.runs, round_.times)
    bar = None if case.latency is None else f"<= {case.latency:.2f}"
    latency = latency_records(case.name, found.bundle, results, not round_.quick, bar)
    outcome.records += [
        figure(f"{case.name}/weights, exact only", exact.share, "ratio"),
        *latency,
        memory_record(case.name, results),
    ]
    shutil.rmtree(found.bundle)
    return Row(
        models=case.title,
        apart_nbytes=found.report.weights_before_nbytes,
        exact=exact.share,
        share=found.share,
        change=f"{worst_change(checked):+.2f}",
        latency=latency[0].value,
    )


def verification(case: Classifiers, round_: Round, found: Compiled) -> list[OutputVerification]:
    """Every output beside the original's on labelled frames."""
    assert found.bundle is not None
    data = save_frames(
        round_.scratch / f"{case.name}.dev.npz",
        round_.zoo.frames(case.family, "dev4000", round_.judged),
        **round_.zoo.labels(case.family, "dev4000", round_.judged),
    )
    # Accuracy is only told of outputs that are judged as class scores.
    metrics = dict.fromkeys(case.tasks, "top1")
    checked = verify_bundle(
        load(found.bundle), data, VerificationOptions(labels=case.tasks, metrics=metrics)
    )
    data.unlink()
    return checked


def accuracy_record(
    case: str, checked: Sequence[OutputVerification], points: float | None
) -> Record:
    """The change of accuracy of the model that lost most, in points, with all of them beside."""
    frames = max(item.fidelity.frames for item in checked)
    texts = [
        f"{item.model} {item.accuracy_original:.2%} -> {item.accuracy_compiled:.2%} "
        f"(agree on {item.fidelity.value:.2%})"
        for item in checked
        if item.accuracy_original is not None and item.accuracy_compiled is not None
    ]
    return figure(
        f"{case}/worst change of accuracy",
        worst_change(checked),
        "points",
        None if points is None else f">= {-points:g}",
        f"{'; '.join(texts)}; {frames} frames",
    )


def unmeasured(case: Classifiers, found: Compiled) -> Record:
    """The record of a case that was refused: what it would have been judged by is missed."""
    bar = "<= 1e-05" if case.exact else None if case.points is None else f">= {-case.points:g}"
    name = "largest difference of an output" if case.exact else "worst change of accuracy"
    return figure(f"{case.name}/{name}", None, "" if case.exact else "points", bar, found.refusal)


def worst_change(checked: Sequence[OutputVerification]) -> float:
    """The most negative change of accuracy of a model, in points."""
    changes = [
        100 * (item.accuracy_compiled - item.accuracy_original)
        for item in checked
        if item.accuracy_original is not None and item.accuracy_compiled is not None
    ]
    return round(min(changes), 9) + 0.0  # no -0.50000000001, no -0.00


def described(wishes: Mapping[str, Any]) -> str:
    """The options of a compilation as on the command line."""
    return " ".join(
        f"--{key.replace('_', '-')} {value}"
        for key, value in wishes.items()
        if isinstance(value, str | float | int)
    )
