"""Models as people deploy them, with real frames: compiled, verified and measured, one by one.

How a model's frames are prepared is known of the models that the benchmark was written for, by
their file's name. It stands here because a benchmark may know its models; repsimc knows none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from watched import Limits, Ran, run_command

Array = NDArray[Any]
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
MOST_NBYTES = 4 * 10**9
REFUSED = (4, 5)


@dataclass(frozen=True)
class Preparation:
    """Which set of frames a model takes, and how its arrays are made of it, by input name."""

    frames: str
    arrays: Callable[[Array, list[str]], dict[str, Array]]


def _images(change: Callable[[Array], Array]) -> Callable[[Array, list[str]], dict[str, Array]]:
    def made(images: Array, inputs: list[str]) -> dict[str, Array]:
        return {inputs[0]: np.ascontiguousarray(change(images), np.float32)}

    return made


def _planes(images: Array) -> Array:
    """NHWC of RGB as NCHW of BGR."""
    return images[..., ::-1].transpose(0, 3, 1, 2)


def _shrunk(images: Array, size: int) -> Array:
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(one).resize((size, size))) for one in images])


def _windows(kind: Array, inputs: list[str]) -> dict[str, Array]:
    """Windows of bytes out of Python's own library; 256 pads."""
    width = 2048
    paths = sorted(Path(json.__file__).parents[1].glob("*.py"))
    start, stop = (0, 128) if kind.item() == 0 else (128, 192)
    found = np.full((stop - start, width), 256, np.int32)
    for row, path in zip(found, paths[start:stop]):
        data = np.frombuffer(path.read_bytes()[:width], np.uint8)
        row[: len(data)] = data
    return {inputs[0]: found}


def _audio(kind: Array, inputs: list[str]) -> dict[str, Array]:
    """Sines, noise and silence, with a scalar rate and states of zeros where there are inputs."""
    rng = np.random.default_rng(int(kind.item()))
    count, width = 128, 576
    time = np.arange(width) / 16000
    tones = np.sin(2 * np.pi * rng.uniform(80, 2000, (count, 1)) * time) * rng.random((count, 1))
    found = {"input": (tones + 0.1 * rng.standard_normal(tones.shape)).astype(np.float32)}
    found["sr"] = np.array(16000, np.int64)
    found["state"] = np.zeros((2, count, 128), np.float32)
    return {name: found[name] for name in inputs if name in found}


def _noise(*shape: int) -> Callable[[Array, list[str]], dict[str, Array]]:
    def made(kind: Array, inputs: list[str]) -> dict[str, Array]:
        rng = np.random.default_rng(int(kind.item()))
        return {inputs[0]: rng.standard_normal((128, *shape)).astype(np.float32)}

    return made


PREPARED: Mapping[str, Preparation] = {
    "ocr*_det*": Preparation("pages320", _images(lambda x: _planes((x / 255 - _MEAN) / _STD))),
    "ocr*_cls*": Preparation("lines48x192", _images(lambda x: _planes(x / 127.5 - 1))),
    "ocr*_rec*": Preparation("lines48x320", _images(lambda x: _planes(x / 127.5 - 1))),
    "mp_hand_*": Preparation("photos224", _images(lambda x: x / 255)),
    "mp_face_*": Preparation("photos224", _images(lambda x: _shrunk(x, 128) / 127.5 - 1)),
    "safety_*": Preparation("photos224", _images(lambda x: x / 255)),
    "magika*": Preparation("", _windows),
    "silero*": Preparation("", _audio),
    "hello_*": Preparation("", _noise(25, 96)),
    "namaste_*": Preparation("", _noise(24, 96)),
}


def preparation_of(model: Path) -> Preparation | None:
    """How the frames of a model are prepared; None where the benchmark does not know it."""
    return next((p for pattern, p in PREPARED.items() if fnmatchcase(model.stem, pattern)), None)


def write_frames(model: Path, folder: Path, part: str, target: Path) -> None:
    """Write the frames of a model as an .npz keyed by its inputs; `part` is 'calib' or 'dev'."""
    prepared = preparation_of(model)
    assert prepared is not None
    graph = onnx.load(model, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in weights]
    if prepared.frames:
        with np.load(folder / "data" / f"{prepared.frames}_{part}.npz") as stored:
            source = stored["images"]
    else:
        source = np.array(0 if part == "calib" else 1)
    arrays: Mapping[str, Array] = prepared.arrays(source, inputs)
    np.savez(target, allow_pickle=False, **arrays)


@dataclass(frozen=True)
class Deployed:
    """What became of one model: the runs by step, and why there are none."""

    model: str
    runs: Mapping[str, Ran]
    unknown: str = ""

    @property
    def peak_nbytes(self) -> int:
        """The most memory that any step held."""
        return max((run.peak_nbytes for run in self.runs.values()), default=0)

    def faults(self) -> list[str]:
        """The steps that ended otherwise than done, or refused where a refusal is an answer."""
        found: list[str] = []
        for step, run in self.runs.items():
            fine = (0, *REFUSED) if step == "budget" else (0, 4) if step == "verify" else (0,)
            if run.end != "done" or run.code not in fine:
                found.append(f"{step}: {run.end if run.end != 'done' else f'exit {run.code}'}")
        return found


def deployed(model: Path, folder: Path, scratch: Path, limits: Limits, quick: bool) -> Deployed:
    """Compile a model exactly, then with frames at 70 %; verify on others; measure."""
    if preparation_of(model) is None:
        return Deployed(model.stem, {}, "how its frames are prepared is not known here")
    scratch.mkdir(parents=True)
    calib, dev = scratch / "calib.npz", scratch / "dev.npz"
    write_frames(model, folder, "calib", calib)
    write_frames(model, folder, "dev", dev)
    few = ["--frames", "32"] if quick else []
    path = str(model.resolve())
    runs: dict[str, Ran] = {}

    def run(step: str, *arguments: str) -> Ran:
        runs[step] = run_command([*arguments, "--format", "json", "-v"], scratch, limits)
        ran = runs[step]
        told = ran.end if ran.end != "done" else f"exit {ran.code}"
        print(
            f"{model.stem} {step}: {told}, {ran.seconds:.1f} s, {ran.peak_nbytes / 2**20:.0f} MiB",
            file=sys.stderr,
        )
        return ran

    run("exact", "compile", path, "--exact-only", "-o", "exact")
    with_frames = ("--calib", str(calib), *few)
    found = run("budget", "compile", path, *with_frames, "--budget", "70%", "-o", "bundle")
    if found.code != 0:
        run("frames", "compile", path, *with_frames, "--exact-only", "-o", "bundle")
    if (scratch / "bundle" / "manifest.json").is_file():
        run("verify", "verify", "bundle", "--data", str(dev))
        run("bench", "bench", "bundle", "--runs", "5" if quick else "20")
    return Deployed(model.stem, runs)
