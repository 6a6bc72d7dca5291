"""What only a GPU can tell: plans loaded, parity, latency and memory, shared beside apart.

Never run on a GPU yet: none was at hand when it was written; its own logic ran on the stand-ins of
tests/runtime/tensorrt/double. It uses TensorRT-RTX, which pip can fetch, so it says something of
sharing, and nothing of a Jetson.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from records import Record, figure

from repsimc.runtime.errors import RepsimcError
from repsimc.runtime.manifest import Manifest
from repsimc.runtime.session import load
from repsimc.runtime.tensorrt.building import (
    BuildOptions,
    EngineGraph,
    build_job,
    engine_file_of,
    engine_graphs,
)
from repsimc.runtime.tensorrt.checking import difference, read_references
from repsimc.runtime.tensorrt.child import run_child
from repsimc.runtime.tensorrt.engines import EngineFile
from repsimc.runtime.tensorrt.execution import output_values
from repsimc.runtime.tensorrt.gate import MODULE
from repsimc.runtime.tensorrt.loaded_engines import Library, LoadedEngines
from repsimc.runtime.tensorrt.probe import Device, probe
from repsimc.runtime.wire import GraphFile

Builder = Callable[[Any, Path], Path]


class Models(Protocol):
    """Models that are compiled into one bundle."""

    name: str
    models: tuple[tuple[str, Path], ...]


def run_gpu(scratch: Path, sets: Sequence[Models], compiled: Builder, runs: int) -> list[Record]:
    """The records of all questions, or one that says why there are none."""
    if importlib.util.find_spec(MODULE) is None:
        return [figure("gpu", None, "", None, "TensorRT-RTX is not installed: extra rtx")]
    try:
        device = probe(MODULE)
    except RepsimcError as error:
        return [figure("gpu", None, "", None, f"not measured: {error.message}")]
    where = json.dumps(device.to_json(), sort_keys=True)
    records = [figure("gpu/device", 1, "", None, f"{where}; {time.strftime('%Y-%m-%d')}")]
    for number, models in enumerate(sets):
        try:
            bundle = compiled(models, scratch / f"gpu{number}")
            records += _bundle(models, bundle, device, scratch, runs)
        except RepsimcError as error:
            records.append(figure(f"gpu/{models.name}", None, "", None, error.message[:300]))
    records.append(_twice_one_constant(device, scratch))
    return records


def _capability(device: Device) -> int:
    major, minor = device.gpu.capability
    return 10 * major + minor


def _built(
    found: Sequence[EngineGraph], device: Device, scratch: Path, stem: str
) -> tuple[list[EngineFile], Path]:
    folder = scratch / stem
    folder.mkdir()
    files: list[EngineFile] = []
    for number, part in enumerate(found):
        job = build_job(part, folder / f"{number}.plan") | {
            "module": MODULE,
            "precision": "fp32",
            "typed": True,
            "quantised": False,
            "capability": _capability(device),
        }
        files.append(engine_file_of(part, run_child("build", job, folder / "build.log")))
    return files, folder


def _bundle(models: Models, bundle: Path, device: Device, scratch: Path, runs: int) -> list[Record]:
    """Merged and trunk-heads beside the originals apart: parity, latency, memory, arenas."""
    manifest = load(bundle).manifest
    title = f"gpu/{models.name}"
    records: list[Record] = []
    frame = _frame(bundle, manifest)
    keys = {name: f"arr{i}" for i, name in enumerate(frame)}
    arrays: dict[str, Any] = {keys[name]: array for name, array in frame.items()}
    stem = bundle.name
    np.savez(scratch / f"{stem}.npz", **arrays)
    job = {
        "module": MODULE,
        "version": device.version,
        "frame": str(scratch / f"{stem}.npz"),
        "runs": runs,
        "warmup": 20,
    }
    outputs = sorted(output_values(manifest))
    sides: dict[str, Mapping[str, Any]] = {}
    for layout in ("merged", "trunk-heads"):
        with engine_graphs(bundle, manifest, layout, manifest.graph, BuildOptions()) as found:
            files, folder = _built(found, device, scratch, f"{stem}-{layout}")
        furthest = _parity(bundle, manifest, folder, files, device, frame)
        records.append(
            figure(f"{title}/{layout} differs from ONNX Runtime", furthest, "share", "<= 0.005")
        )
        group = {
            "folder": str(folder),
            "plans": [file.to_json() for file in files],
            "outputs": outputs,
            "feeds": keys,
        }
        sides[layout] = run_child("measure", {**job, "groups": [group]})
        sides[f"{layout}, scratch apart"] = run_child(
            "measure", {**job, "groups": [group], "shared_scratch": False}
        )
    sides["apart"] = run_child(
        "measure", {**job, "groups": _apart(models, manifest, device, scratch, keys, stem)}
    )
    for name, side in sides.items():
        p50 = float(np.median(side["seconds"]))
        grown = side["idle"]["cuda_free_nbytes"] - side["running"]["cuda_free_nbytes"]
        by = p50 / float(np.median(sides["apart"]["seconds"]))
        extra = (
            f"{by:.2f} of apart, scratch {side['scratch_nbytes']} B, cudaMemGetInfo {grown} B, "
            f"{side['cuda_graphs']} CUDA graphs"
        )
        records.append(figure(f"{title}/{name}/latency p50", 1e3 * p50, "ms", None, extra))
    records += _other_paths(bundle, title, frame, runs)
    return records


def _frame(bundle: Path, manifest: Manifest) -> dict[str, Any]:
    runs = read_references(bundle, manifest)
    if runs:
        return dict(runs[0]["in"])
    random = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for entry in manifest.models:
        for spec in entry.inputs:
            shape = [size if isinstance(size, int) else 1 for size in spec.shape or ()]
            found.setdefault(spec.value, random.standard_normal(shape).astype(spec.dtype))
    return found


def _parity(
    bundle: Path,
    manifest: Manifest,
    folder: Path,
    files: Sequence[EngineFile],
    device: Device,
    frame: Mapping[str, Any],
) -> float:
    """The largest difference from ONNX Runtime, by the largest value of the output."""
    names = [entry.name for entry in manifest.models]
    engines = LoadedEngines(folder, files, output_values(manifest), Library(device.version, MODULE))
    try:
        found = engines.run(names, dict(frame))
    finally:
        engines.close()
    with load(bundle).session() as session:
        own = {e.name: {s.name: frame[s.value] for s in e.inputs} for e in manifest.models}
        expected = session.run(own)
    return max(
        difference(found[spec.value], expected[entry.name][spec.name])
        for entry in manifest.models
        for spec in entry.outputs
    )


def _apart(
    models: Models,
    manifest: Manifest,
    device: Device,
    scratch: Path,
    keys: Mapping[str, str],
    stem: str,
) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = []
    for name, path in models.models:
        file = GraphFile(path.read_bytes())
        profile: dict[str, tuple[tuple[int, ...], ...]] = {}
        for value in file.inputs:
            one = tuple(s if isinstance(s, int) else 1 for s in file.shape(value) or ())
            if one != file.shape(value):
                profile[value] = (one, one, one)
        entry = manifest.model(name)
        outputs = tuple(spec.name for spec in entry.outputs)
        part = EngineGraph((name,), tuple(file.inputs), outputs, path, profile)
        files, folder = _built([part], device, scratch, f"{stem}-apart-{name}")
        groups.append(
            {
                "folder": str(folder),
                "plans": [file.to_json() for file in files],
                "outputs": list(outputs),
                "feeds": {spec.name: keys[spec.value] for spec in entry.inputs},
            }
        )
    return groups


def _other_paths(bundle: Path, title: str, frame: Mapping[str, Any], runs: int) -> list[Record]:
    """The merged graph on ONNX Runtime's CUDA provider, if that is what really runs it."""
    import onnxruntime as ort

    name = f"{title}/ONNX Runtime CUDA/latency p50"
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return [figure(name, None, "ms", None, "this onnxruntime has no CUDA provider")]
    options = ort.SessionOptions()
    # Asked for CUDA and without it, a session quietly runs on the processor.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(
            str(bundle / "merged.onnx"), options, providers=["CUDAExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        return [figure(name, None, "ms", None, str(error).splitlines()[0][:200])]
    feeds = {value.name: frame[value.name] for value in session.get_inputs()}
    seconds: list[float] = []
    for _ in range(20 + runs):
        start = time.perf_counter()
        session.run(None, feeds)
        seconds.append(time.perf_counter() - start)
    return [figure(name, 1e3 * float(np.median(seconds[20:])), "ms", None, "merged graph")]


def _twice_one_constant(device: Device, scratch: Path) -> Record:
    """Bytes of an engine with two equal 16 MiB constants by those with one: 1 if it keeps one."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
    sizes: list[int] = []
    for count in (1, 2):
        nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"y{i}"]) for i in range(count)]
        graph = helper.make_graph(
            nodes,
            "constants",
            [
                helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, 2048])
                for i in range(count)
            ],
            [
                helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [1, 2048])
                for i in range(count)
            ],
            [numpy_helper.from_array(weight, f"w{i}") for i in range(count)],
        )
        path = scratch / f"constants{count}.onnx"
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        onnx.save(model, path)
        inputs = tuple(f"x{i}" for i in range(count))
        outputs = tuple(f"y{i}" for i in range(count))
        part = EngineGraph(("a",), inputs, outputs, path, {})
        files, _ = _built([part], device, scratch, f"constants{count}")
        sizes.append(files[0].nbytes)
    return figure(
        "gpu/plan of two identical constants by one", sizes[1] / sizes[0], "ratio", None, f"{sizes}"
    )
