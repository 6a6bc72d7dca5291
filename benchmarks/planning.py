"""What finding a plan costs, and what the plan loses: `python benchmarks/planning.py [--quick]`.

Compiles in plain passes, points lost on labelled frames or variance explained on others, and peak
memory, each beside its bar; other ways to narrow the same layers beside ours; how well the damage
of combinations is predicted; what another budget costs that resumes. Models and frames come from
the zoo (REPSIMC_ZOO).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import shallow
from baselines import baseline_records
from classifiers import Classifiers, verification, worst_change
from combined_damage import damage_records
from compiling import Compiled, Models
from deployed import write_frames
from independent import replaced_blocks
from measuring import Round, run_cases, save_frames
from plain_passes import Counted, cost_in_words, counted_compile, passes_records
from planning_cases import (
    CASES,
    DAMAGES,
    RANDOM,
    REAL,
    REFUSALS,
    RESUMES,
    SHORT,
    SHORT_DAMAGES,
    SHORT_RESUMES,
    Bars,
    Case,
)
from records import Record, figure, grid, missed
from siblings import write_sibling
from zoo import ZooMissingError, find_zoo

from repsimc.compiler.bundle.verification import VerificationOptions, verify_bundle
from repsimc.compiler.reports.measurements import OutputVerification
from repsimc.compiler.reports.table import print_grid
from repsimc.runtime.session import load

# Frames of the short round, by family.
FEW = {"cifar10": 128, "fashion": 256, REAL: 32, RANDOM: 24}
COMBINATIONS, FEW_COMBINATIONS = 60, 6
# The stages in which a search looks at frames before it fits anything: see planning/catalogue.
EVIDENCE = ("looking for what could be rewritten", "looking at single rewrites")


# -- models and frames -----------------------------------------------------------------------------


def models_of(case: Case, round_: Round) -> Models:
    """(name, file) of the case's models; those that are made up are written first."""
    if case.family == RANDOM:
        models = [(name, round_.scratch / f"{name}.onnx") for name in case.tasks]
        for seed, (_, path) in enumerate(models):
            if not path.is_file():
                write_sibling(path, seed)
        return models
    if case.family == REAL:
        return [(name, real(round_) / "models" / f"{name}.onnx") for name in case.tasks]
    return [(name, round_.zoo.model(name)) for name in case.tasks]


def real(round_: Round) -> Path:
    """The folder of models as people deploy them. Raises ZooMissingError."""
    folder = round_.zoo.root / "real"
    if not folder.is_dir():
        raise ZooMissingError(f"zoo not found: {folder} is missing")
    return folder


def frames_of(name: str, case: Case, models: Models, round_: Round) -> Path:
    """An .npz of frames to compile with, as many as the case and the round ask for."""
    path = round_.scratch / f"{name}.calib.npz"
    count = FEW[case.family] if round_.quick else case.frames
    if case.family == RANDOM:
        np.savez(path, allow_pickle=False, image=smooth_frames(count or FEW[RANDOM], 224))
    elif case.family == REAL:
        write_frames(models[0][1], real(round_), "calib", path)
        if count is not None:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {key: stored[key][:count] for key in stored.files}
            np.savez(path, allow_pickle=False, **arrays)
    else:
        count = round_.frames(case.family) if count is None else count
        save_frames(path, round_.zoo.frames(case.family, "calib2000", count))
    return path


def smooth_frames(count: int, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Noise [N, 3, size, size] of scales up to 56, which divides `size`: frames are smooth."""
    random = np.random.default_rng(0)
    total = np.zeros((count, 3, size, size), np.float32)
    for scale in (1, 4, 14, 56):
        coarse = random.standard_normal((count, 3, size // scale, size // scale), np.float32)
        total += np.repeat(np.repeat(coarse, scale, axis=2), scale, axis=3) / 2
    return total


# -- compiling and judging -------------------------------------------------------------------------


def run_case(name: str, case: Case, round_: Round) -> list[Record]:
    """One compilation in plain passes, what came of it, and other ways beside it."""
    models = models_of(case, round_)
    calibration = frames_of(name, case, models, round_)
    counted = counted_compile(models, calibration, round_.scratch / name, **case.wishes)
    records = [
        *passes_records(name, counted, case.bars.passes, case.bars.peak_mib),
        *result_records(name, case, models, counted.compiled, round_),
    ]
    calibration.unlink()
    if case.baselines:
        [(model, task)] = case.tasks.items()
        net = shallow.Case(model, case.family, task, {})
        frames = FEW[case.family] if round_.quick else case.frames
        records += baseline_records(name, net, case.wishes, round_, frames)
    return records


def result_records(
    name: str, case: Case, models: Models, found: Compiled, round_: Round
) -> list[Record]:
    """What the plan leaves of weights and outputs; each bar is missed where there is no plan."""
    bars = case.bars
    share_bar = None if bars.share is None else f"<= {bars.share:g}"
    records = [figure(f"{name}/weights", found.share, "ratio", share_bar, plan_in_words(found))]
    if found.bundle is None:
        asked = (
            ("points lost", "points", bars.points, "<="),
            ("variance explained", "", bars.explained, ">="),
            ("variance lost by what is saved", "ratio", bars.price, "<="),
            ("blocks of resnet44 replaced", "blocks", bars.blocks, ">="),
        )
        records += [
            figure(f"{name}/{title}", None, unit, f"{sign} {bar:g}", found.refusal)
            for title, unit, bar, sign in asked
            if bar is not None
        ]
        return records
    if bars.blocks is not None:
        blocks = replaced_blocks(models, found)
        title = f"{name}/blocks of resnet44 replaced"
        records.append(figure(title, blocks, "blocks", f">= {bars.blocks}"))
    if all(case.tasks.values()):
        checked = verification(Classifiers(name, case.family, case.tasks, name), round_, found)
        bar = None if bars.points is None else f"<= {bars.points:g}"
        lost = 0.0 - worst_change(checked)
        records.append(figure(f"{name}/points lost", lost, "points", bar, changes(checked)))
    elif case.family == REAL:
        data = round_.scratch / f"{name}.dev.npz"
        write_frames(models[0][1], real(round_), "dev", data)
        metrics = dict.fromkeys(case.tasks, "variance")
        checked = verify_bundle(load(found.bundle), data, VerificationOptions(metrics=metrics))
        data.unlink()
        records += variance_records(name, bars, found, checked)
    shutil.rmtree(found.bundle)
    return records


def changes(checked: Sequence[OutputVerification]) -> str:
    """Each model's accuracy before and after."""
    return ", ".join(
        f"{one.model} {100 * one.accuracy_original:.2f} -> {100 * one.accuracy_compiled:.2f} %"
        for one in checked
        if one.accuracy_original is not None and one.accuracy_compiled is not None
    )


def variance_records(
    name: str, bars: Bars, found: Compiled, checked: Sequence[OutputVerification]
) -> list[Record]:
    """Variance of the worst output that is explained on dev frames, and what losing it saved."""
    worst = min(checked, key=lambda one: one.fidelity.value)
    explained = worst.fidelity.value
    bar = None if bars.explained is None else f">= {bars.explained:g}"
    extra = f"{worst.model}/{worst.fidelity.output}, {worst.fidelity.frames} frames"
    records = [figure(f"{name}/variance explained", explained, "", bar, extra)]
    if bars.price is not None:
        price = price_of(1.0 - explained, saved_share(found), len(found.plan["actions"]))
        title = f"{name}/variance lost by what is saved"
        records.append(figure(title, price, "ratio", f"<= {bars.price:g}"))
    return records


def saved_share(found: Compiled) -> float:
    """The share of the weight bytes, or of the MACs, that the plan's actions save: the larger one.

    What is exact is saved without them, and not counted.
    """
    report = found.report
    assert report is not None
    expected = [action["expected"] for action in found.plan["actions"]]
    nbytes = sum(one["weights_saved_nbytes"] for one in expected)
    macs = sum(one["macs_saved"] for one in expected)
    return max(nbytes / max(report.weights_before_nbytes, 1), macs / max(report.macs_before, 1))


def price_of(lost: float, saved: float, actions: int) -> float:
    """Variance lost by the share that was saved; nothing where nothing inexact was done."""
    if not actions:
        return 0.0
    return lost / saved if saved > 0 else float("inf")


def plan_in_words(found: Compiled) -> str:
    """The refusal, or which actions there are and what is left of the MACs."""
    if found.report is None:
        return found.refusal
    kinds = Counter(str(action["kind"]) for action in found.plan["actions"])
    plan = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    macs = found.report.macs_after / max(found.report.macs_before, 1)
    return f"MACs {100 * macs:.1f} %; {plan or 'nothing inexact'}"


# -- predictions, and compiling again --------------------------------------------------------------


def run_damages(name: str, case: Case, round_: Round) -> list[Record]:
    """Damage of random combinations, predicted and measured."""
    models = models_of(case, round_)
    calibration = frames_of(name, case, models, round_)
    count = FEW_COMBINATIONS if round_.quick else COMBINATIONS
    return damage_records(name, models, calibration, count)


def run_resume(name: str, case: Case, again: str, round_: Round) -> list[Record]:
    """What the evidence of a second compilation with another limit costs, beside the first's.

    Raises RuntimeError where the first one has no evidence: then its stages are called otherwise.
    """
    models = models_of(case, round_)
    calibration = frames_of(name, case, models, round_)
    output = round_.scratch / name
    first = counted_compile(models, calibration, output, **case.wishes)
    wishes = {**case.wishes, "max_macs": again, "resume": True, "overwrite": True}
    second = counted_compile(models, calibration, output, **wishes)
    if not first.in_stages(EVIDENCE[0]) > 0:
        raise RuntimeError(f"no stage is called {EVIDENCE[0]!r}: {sorted(first.compiled.stages)}")
    shutil.rmtree(output, ignore_errors=True)
    return resume_records(name, first, second, case.bars.passes)


def resume_records(name: str, first: Counted, second: Counted, most: float | None) -> list[Record]:
    """Evidence of the second compilation, and all of either, in plain passes."""
    found, looked = (second.in_stages(title) for title in EVIDENCE)
    refusal = second.compiled.refusal or first.compiled.refusal
    extra = f"finding {found:.2f}, looks {looked:.2f}; at first {first.in_stages(*EVIDENCE):.1f}"
    bar = None if most is None else f"<= {most:g}"
    evidence = None if refusal else found + looked
    title = f"{name}/evidence of the second compile"
    records = [figure(title, evidence, "passes", bar, refusal or extra)]
    for which, counted in (("first", first), ("second", second)):
        records += passes_records(f"{name}, {which}", counted)
    return records


def run_refusal(name: str, case: Case, round_: Round) -> list[Record]:
    """What it costs to say that a budget is out of reach, in plain passes."""
    models = models_of(case, round_)
    calibration = frames_of(name, case, models, round_)
    counted = counted_compile(models, calibration, round_.scratch / name, **case.wishes)
    return [refusal_record(name, counted, case.bars.passes)]


def refusal_record(name: str, counted: Counted, most: float | None) -> Record:
    """The passes until the refusal; none where there was a plan."""
    bar = None if most is None else f"<= {most:g}"
    why = counted.compiled.refusal
    passes, extra = (counted.passes, why) if why else (None, "a plan was found")
    extra = f"{extra} ({cost_in_words(counted)})"
    return figure(f"{name}/refusing by plain passes", passes, "passes", bar, extra)


# -- the command -----------------------------------------------------------------------------------


def jobs(round_: Round) -> dict[str, Callable[[], list[Record]]]:
    """All cases by name, those of the short round last."""
    found: dict[str, Callable[[], list[Record]]] = {}
    for cases in (CASES, SHORT):
        found |= {name: partial(run_case, name, case, round_) for name, case in cases.items()}
    for cases in (DAMAGES, SHORT_DAMAGES):
        found |= {name: partial(run_damages, name, case, round_) for name, case in cases.items()}
    found |= {name: partial(run_refusal, name, case, round_) for name, case in REFUSALS.items()}
    for pairs in (RESUMES, SHORT_RESUMES):
        for name, (case, again) in pairs.items():
            found[name] = partial(run_resume, name, case, again, round_)
    if round_.quick:
        return {name: partial(unjudged, job) for name, job in found.items()}
    return found


def unjudged(job: Callable[[], list[Record]]) -> list[Record]:
    """The figures without their bars: so few frames tell nothing of them."""
    return [replace(record, bar=None, met=None) for record in job()]


FULL = (*CASES, *REFUSALS, *DAMAGES, *RESUMES)
QUICK = (*SHORT, *SHORT_DAMAGES, *SHORT_RESUMES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status."""
    asked = parser().parse_args(arguments)
    try:
        zoo = find_zoo()
    except ZooMissingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="repsimc-benchmark-") as scratch:
        # What compilations keep for those that resume is neither taken from the user nor left.
        os.environ["XDG_CACHE_HOME"] = str(Path(scratch) / "cache")
        every = jobs(Round(asked.quick, Path(scratch), zoo))
        names: list[str] = asked.case or list(QUICK if asked.quick else FULL)
        records, broken = run_cases({name: every[name] for name in names}, (), asked.json)
    print_grid(grid(records, "the short round" if asked.quick else ""))
    return 1 if broken or (asked.strict and missed(records)) else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        description="What finding a plan costs in plain passes, and what the plan loses.",
        epilog="The zoo of models and images is found by REPSIMC_ZOO. Exit status: 0, also when a "
        "bar is missed; 1 when a case broke, or with --strict when a bar is missed; 2 without zoo.",
    )
    found.add_argument(
        "--quick", action="store_true", help="a minute: few frames, no bars, and short cases alone"
    )
    found.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    names = [*FULL, *QUICK]
    found.add_argument(
        "--case", nargs="+", choices=names, metavar="NAME", help=f"only {', '.join(names)}"
    )
    found.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    return found


if __name__ == "__main__":
    sys.exit(main())
