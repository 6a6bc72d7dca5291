"""What similarity predicts and what it costs: `python benchmarks/similarity.py [--quick]`.

How well the planner's probe, and everything simpler, predicts what a swap costs in labelled
accuracy; time beside plain forward passes of the same frames in ONNX Runtime, and beside libraries
(pytorch-cka, torch_cka, where they are installed); peak memory of ten models of a hundred layers.
The cases `prediction` (an hour, unless --quick), `frames` and `related` need the zoo (REPSIMC_ZOO).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from libraries import libraries, torch_resnet
from measuring import plain_pass_seconds
from numpy.typing import NDArray
from prediction import PAIRS, Trial, Trials, collect, read_trials, write_trials
from prediction_figures import frames_records, prediction_grid, prediction_records
from records import Record, figure, grid, missed, write_records
from scatter import scatter
from synthetic import deep, resnet50
from zoo import ZooMissingError, find_zoo

from repsimc.compiler.reports.table import print_grid
from repsimc.compiler.similarity.compare import similarity
from repsimc.compiler.similarity.features import ModelFeatures
from repsimc.compiler.similarity.pairs import compare

Models = list[tuple[str, Path]]
# Where a child process finds its job.
JOB = "REPSIMC_SIMILARITY_JOB"
BATCH = 64


def run_related(quick: bool, scratch: Path) -> list[Record]:
    """All pairs of layers of resnet20 and resnet44."""
    zoo = find_zoo()
    frames = zoo.frames("cifar10", "calib2000", 512)
    models = [(name, zoo.model(f"cifar10_{name}")) for name in ("resnet20", "resnet44")]
    records, seconds = speed("related", models, frames, 1 if quick else 3, BATCH)
    if not quick:
        shapes = [(3, 3, 3), (7, 7, 7)]
        records += beside_libraries("related", shapes, False, frames, BATCH, seconds)
    return [*records, *comparing("related", models, frames)]


def run_resnet50(quick: bool, scratch: Path) -> list[Record]:
    """All pairs of layers of two models of ResNet-50's size, with random weights, at 224 x 224."""
    count = 64 if quick else 512
    frames = np.random.default_rng(0).standard_normal((count, 3, 224, 224), dtype=np.float32)
    models = [(f"net{seed}", resnet50(scratch / f"net{seed}.onnx", seed)) for seed in (0, 1)]
    records, seconds = speed("resnet50", models, frames, 1, 8)
    if quick:
        return records
    shape = (3, 4, 6, 3)
    return [*records, *beside_libraries("resnet50", [shape, shape], True, frames, 8, seconds)]


def run_memory(quick: bool, scratch: Path) -> list[Record]:
    """Peak memory of ten models of a hundred layers over 2 000 frames, sketched."""
    models, blocks, count = (3, 10, 100) if quick else (10, 50, 2000)
    paths = [deep(scratch / f"m{seed}.onnx", blocks, seed) for seed in range(models)]
    frames = scratch / "frames.npy"
    stored = np.lib.format.open_memmap(frames, "w+", np.uint8, (count, 3, 224, 224))
    random = np.random.default_rng(0)
    for index in range(count):
        stored[index] = random.integers(0, 256, (3, 14, 14), np.uint8).repeat(16, 1).repeat(16, 2)
    del stored
    job = {"models": [str(path) for path in paths], "frames": str(frames), "count": count}
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, JOB: json.dumps(job), "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the analysis failed:\n{done.stderr}")
    found = json.loads(done.stdout)
    sizes = f"{models} models x {found['layers']} layers, {count} frames of 224 x 224"
    extra = f"{sizes}, {found['pairs']} pairs of models"
    return [
        figure("memory/peak", found["peak_nbytes"] / 2**20, "MiB", "<= 2048", extra),
        figure("memory/time", found["seconds"], "s"),
    ]


def speed(
    case: str, models: Models, frames: NDArray[np.float32], repeats: int, batch: int
) -> tuple[list[Record], float]:
    """Time of the whole analysis by that of plain passes before and after it, and in seconds."""
    paths = [path for _, path in models]
    similarity(paths, frames[:16], cache=False)  # libraries are loaded once
    ratios: list[float] = []
    times: list[float] = []
    extra = ""
    for _ in range(repeats):
        before = plain_pass_seconds(models, frames, batch)
        start = time.perf_counter()
        found = similarity(paths, frames, cache=False)
        seconds = time.perf_counter() - start
        plain = (before + plain_pass_seconds(models, frames, batch)) / 2
        ratios.append(seconds / plain)
        times.append(seconds)
        counts = " x ".join(str(len(found.layers(name))) for name in found.models)
        extra = f"{seconds:.2f} s against {plain:.2f} s, {counts} layers, {len(frames)} frames"
    best = float(np.median(ratios))
    record = figure(f"{case}/time by plain passes", best, "ratio", "<= 1.5", extra)
    return [record], float(np.median(times))


def beside_libraries(
    case: str,
    shapes: Sequence[tuple[int, ...]],
    bottleneck: bool,
    frames: NDArray[np.float32],
    batch: int,
    seconds: float,
) -> list[Record]:
    """Time that libraries need for the same pairs, from frames to CKA, by that of the analysis."""
    widths = (64, 128, 256, 512) if bottleneck else (16, 32, 64)
    try:
        models = [torch_resnet(shape, widths, bottleneck) for shape in shapes]
    except ImportError as error:
        missing = f"not installed: {error.name}"
        return [figure(f"{case}/libraries by repsimc", None, "ratio", ">= 10", missing)]
    records: list[Record] = []
    for name, taken in libraries(models, frames, batch, fastest=bottleneck).items():
        known = isinstance(taken, float)
        records.append(
            figure(
                f"{case}/{name} by repsimc, from frames to CKA",
                taken / seconds if known else None,
                "ratio",
                ">= 10",
                f"{taken:.2f} s against {seconds:.2f} s" if known else str(taken),
            )
        )
    return records


def comparing(case: str, models: Models, frames: NDArray[np.float32]) -> list[Record]:
    """Comparing all pairs, features at hand, beside pytorch-cka on the same features."""
    name = f"{case}/pytorch-cka by repsimc, comparing all pairs"
    try:
        import torch
        from cka import cka_from_features
    except ImportError as error:
        return [figure(name, None, "ratio", None, f"not installed: {error.name}")]
    features = [model_features(model, path, frames) for model, path in models]

    def ours() -> NDArray[np.float64]:
        return compare(features[0], features[1], ["cka"])["cka"].values

    tensors = [
        [torch.tensor(layer.pooled, dtype=torch.float64) for layer in each.layers]
        for each in features
    ]

    def theirs() -> NDArray[np.float64]:
        return cka_from_features(*tensors).numpy()

    difference = float(np.abs(np.maximum(ours(), 0) - theirs()).max())
    seconds = [best_of(3, call) for call in (ours, theirs)]
    extra = (
        f"{seconds[1]:.2f} s against {seconds[0]:.2f} s, which also give a null and a spread; "
        f"values differ by {difference:.1e} at most"
    )
    return [figure(name, seconds[1] / seconds[0], "ratio", None, extra)]


def model_features(name: str, path: Path, frames: NDArray[np.float32]) -> ModelFeatures:
    """A model's pooled features over the frames."""
    from repsimc.compiler.frontends.read import read_model
    from repsimc.compiler.similarity.extraction import extract
    from repsimc.compiler.similarity.features import Recipe
    from repsimc.compiler.similarity.layers import layers_of

    program = read_model(path, name)
    layers, _ = layers_of(program, name)
    [value] = program.models[name].inputs.values()
    batches = ({value: frames[k : k + BATCH]} for k in range(0, len(frames), BATCH))
    return extract(program, layers, batches, len(frames), Recipe(maps=False))


def best_of(times: int, call: Callable[[], object]) -> float:
    """The shortest of several runs, in seconds."""
    seconds: list[float] = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def memory_job(job: dict[str, object]) -> None:
    """Analyse in this process and print the peak of its resident memory."""
    start = time.perf_counter()
    paths = [Path(path) for path in job["models"]]  # type: ignore[attr-defined]
    frames = Path(str(job["frames"]))
    found = similarity(paths, frames, frames=int(str(job["count"])), sketch=True, cache=False)
    seconds = time.perf_counter() - start
    said = {"peak_nbytes": peak_nbytes(), "seconds": seconds, "pairs": len(found.pairs)}
    print(json.dumps({**said, "layers": len(found.layers(paths[0].stem))}))


def peak_nbytes() -> int:
    """The most resident memory this process had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss of a child begins with what its parent had.
        [line] = [text for text in status.read_text().splitlines() if text.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_prediction(quick: bool, scratch: Path) -> list[Record]:
    """Predictors against measured changes of accuracy, over hundreds of sites."""
    pairs = [replace(PAIRS[k], sites=4) for k in (1, 8)] if quick else PAIRS
    trials = collect(find_zoo(), pairs, 500 if quick else 4000)
    TRIALS.extend(trials)
    print_grid(prediction_grid(trials))
    return prediction_records(trials)


def run_frames(quick: bool, scratch: Path) -> list[Record]:
    """How many frames the probe has to be judged on."""
    scores: list[list[float]] = []
    for pair in (
        [replace(PAIRS[0], sites=3)] if quick else [replace(PAIRS[k], sites=20) for k in (0, 7)]
    ):
        trials = Trials(find_zoo(), pair, 100)
        scores += [trials.by_frames(site, JUDGED_ON) for site in trials.sites()]
    records = frames_records(scores, JUDGED_ON)
    return records if quick else [*records, *cka_by_frames()]


def cka_by_frames() -> list[Record]:
    """CKA of all layers of resnet20 and resnet44 on few frames, beside that on 2 000."""
    zoo = find_zoo()
    frames = zoo.frames("cifar10", "calib2000", 2000)
    frames = frames[np.random.default_rng(0).permutation(len(frames))]
    models = [zoo.model(f"cifar10_{name}") for name in ("resnet20", "resnet44")]

    def values(count: int) -> NDArray[np.float64]:
        found = similarity(models, frames[:count], frames=count, cache=False)
        return found.matrix(*found.models)

    every = values(len(frames))
    records: list[Record] = []
    for count in (64, 128, 256, 512, 1024):
        few = values(count)
        same = (few.argmax(axis=0) == every.argmax(axis=0)).mean()
        off = float(np.sqrt(np.nanmean(np.square(few - every))))
        extra = f"{every.size} pairs of layers; the same best match for {100 * same:.0f} %"
        records.append(figure(f"frames/CKA on {count} frames, off by", off, "", None, extra))
    return records


JUDGED_ON = (64, 128, 256, 512, 1024, 1436)

# What the case `prediction` measured, for --trials.
TRIALS: list[Trial] = []

CASES: dict[str, Callable[[bool, Path], list[Record]]] = {
    "prediction": run_prediction,
    "frames": run_frames,
    "related": run_related,
    "resnet50": run_resnet50,
    "memory": run_memory,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status."""
    asked = parser().parse_args(arguments)
    if asked.told is not None:
        return tell(asked)
    records: list[Record] = []
    # A pass of ResNet-50 over a few frames takes less than opening it: in short nothing is told.
    short = [name for name in CASES if name != "resnet50"]
    for name in asked.case or (short if asked.quick else list(CASES)):
        with tempfile.TemporaryDirectory(prefix="repsimc-") as scratch:
            try:
                records += CASES[name](asked.quick, Path(scratch))
            except ZooMissingError as error:
                if asked.case:
                    print(f"error: {error}", file=sys.stderr)
                    return 2
                print(f"{name} is left out: {error}", file=sys.stderr)
    print_grid(grid(records, "similarity, the short round" if asked.quick else "similarity"))
    if asked.json:
        write_records(records, asked.json)
    if asked.trials and TRIALS:
        write_trials(TRIALS, asked.trials)
    if asked.plot and TRIALS:
        asked.plot.write_text(scatter(TRIALS), encoding="utf-8")
    return 1 if asked.strict and missed(records) else 0


def tell(asked: argparse.Namespace) -> int:
    """Table, figures and plot of trials that were measured before."""
    trials = read_trials(asked.told)
    print_grid(prediction_grid(trials))
    records = prediction_records(trials)
    print_grid(grid(records, "prediction"))
    if asked.json:
        write_records(records, asked.json)
    if asked.plot:
        asked.plot.write_text(scatter(trials), encoding="utf-8")
    return 1 if asked.strict and missed(records) else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description="Time and memory of similarity analyses.")
    found.add_argument("--quick", action="store_true", help="a minute: fewer frames and models")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    found.add_argument("--case", nargs="+", choices=CASES, metavar="NAME", help=", ".join(CASES))
    found.add_argument("--trials", type=Path, metavar="FILE", help="write each site's trial there")
    found.add_argument("--plot", type=Path, metavar="FILE", help="write the scatter plot (SVG)")
    found.add_argument(
        "--from", dest="told", type=Path, metavar="FILE", help="only tell of trials in FILE"
    )
    found.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    return found


if __name__ == "__main__":
    if JOB in os.environ:
        memory_job(json.loads(os.environ[JOB]))
    else:
        sys.exit(main())
