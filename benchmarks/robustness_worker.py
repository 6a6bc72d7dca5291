"""The worker of `robustness.py`: compiles, runs and compares what each line of stdin says.

Everything goes through the command's own `main`, in this process, so that thousands of models need
not start Python thousands of times.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import onnx
import onnxruntime as ort

import repsimc
from repsimc.compiler.cli.main import main as command

# Floats agree within RTOL of themselves and ATOL of the largest of the tensor (float16 and
# narrower: within a step or two of theirs); everything else is equal.
RTOL, ATOL = 1e-3, 1e-5
_NARROW = 4e-3
RANDOM = frozenset(
    {
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        *("Multinomial", "Bernoulli"),
    }
)

# Of ONNX's own models two are of 5 KB and compute 550 MB of weights as they are opened.
TRUSTED = ("--parse-memory", "2GB")

Feeds = Mapping[str, Any]
Outputs = dict[str, Any]


class Told:
    """The channel to the one who watches."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def say(self, **said: Any) -> None:
        """One line of JSON."""
        self._stream.write(json.dumps(said) + "\n")
        self._stream.flush()

    def step(self, name: str) -> None:
        """What is begun now, in case it is never finished."""
        self.say(step=name)


def call(arguments: Sequence[str]) -> dict[str, Any]:
    """A command's exit code and the end of what it said to stderr; the traceback of a fault."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command([*arguments, "-v"])
    said = err.getvalue()
    lines = [line for line in said.splitlines() if line.startswith(("error:", "  hint:"))]
    return {
        "code": code,
        "said": "\n".join(lines)[-1500:] or said[-300:],
        "trace": said[-4000:] if code == 1 else "",
    }


# -- what ONNX Runtime gives for the file as it is -----------------------------------------


def is_random(model: onnx.ModelProto) -> bool:
    """Whether two runs of the model may differ by design."""

    def nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
        inner = [
            body
            for node in graph.node
            for attribute in node.attribute
            for body in [attribute.g, *attribute.graphs]
            if body.node
        ]
        return [*graph.node, *(node for body in inner for node in nodes(body))]

    every = [*nodes(model.graph), *(node for one in model.functions for node in one.node)]
    return any(
        node.op_type in RANDOM or (node.op_type == "Dropout" and len(node.input) > 2)
        for node in every
    )


_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_TYPES: dict[str, Any] = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "bool": np.bool_,
    **{name: np.dtype(name) for name in _INTEGERS},
}


def synthetic(session: ort.InferenceSession, seed: int = 0) -> dict[str, Any] | None:
    """Arrays for every input: free sizes are 2; None where an input is no tensor of numbers.

    Inputs of one name and type have one array, since models beside each other may share them.
    """
    found: dict[str, Any] = {}
    for spec in session.get_inputs():
        rng = np.random.default_rng([seed, *spec.name.encode("utf-8", "surrogateescape")])
        kind = spec.type.removeprefix("tensor(").removesuffix(")")
        if not spec.type.startswith("tensor(") or kind not in (*_TYPES, "string"):
            return None
        shape = [size if isinstance(size, int) and size >= 0 else 2 for size in spec.shape]
        if kind == "string":
            found[spec.name] = np.full(shape, "a", dtype=object)
        elif kind == "bool":
            found[spec.name] = rng.random(shape) < 0.5
        elif "int" in kind:
            found[spec.name] = rng.integers(0, 3, shape).astype(_TYPES[kind])
        else:
            found[spec.name] = rng.standard_normal(shape).astype(_TYPES[kind])
    return found


def reference(path: Path, feeds: Feeds | None) -> tuple[Feeds, Outputs] | str:
    """What ONNX Runtime gives for the file on these feeds (or made-up ones), or why nothing."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        if feeds is None:
            feeds = synthetic(session)
            if feeds is None:
                return "inputs that cannot be made up"
        names = [value.name for value in session.get_outputs()]
        asked = {value.name for value in session.get_inputs()}
        asked |= {value.name for value in session.get_overridable_initializers()}
        feeds = {name: value for name, value in feeds.items() if name in asked}
        given = [session.run(names, feeds) for _ in range(2)]
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        return f"ONNX Runtime: {str(error)[:200]}"
    if any(difference(one, other) for one, other in zip(*given)):
        return "two runs differ"
    return feeds, dict(zip(names, given[0]))


# -- comparisons ---------------------------------------------------------------------------


def difference(found: Any, wanted: Any) -> str:
    """How two outputs differ; '' where they are the same within the tolerance."""
    if isinstance(wanted, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(found) != len(wanted):
            return "a sequence of another length"
        return next((said for a, b in zip(found, wanted) if (said := difference(a, b))), "")
    if isinstance(wanted, dict):
        if not isinstance(found, dict) or list(found) != list(wanted):
            return "other keys"
        return difference(list(found.values()), list(wanted.values()))
    if wanted is None or found is None:
        return "" if wanted is found else "one is missing"
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.shape != wanted.shape:
        return f"shape {found.shape} instead of {wanted.shape}"
    if found.dtype != wanted.dtype and "OU" not in found.dtype.kind + wanted.dtype.kind:
        return f"{found.dtype} instead of {wanted.dtype}"
    if wanted.dtype.kind not in "fcV":
        return "" if np.array_equal(found, wanted) else "other values"
    narrow = wanted.dtype.itemsize <= 2
    kind = np.complex128 if wanted.dtype.kind == "c" else np.float64
    a, b = found.astype(kind), wanted.astype(kind)
    finite = np.abs(b[np.isfinite(b)])
    rtol, atol = (_NARROW, _NARROW / 4) if narrow else (RTOL, ATOL)
    with np.errstate(all="ignore"):
        close = np.isclose(a, b, rtol, atol * float(finite.max(initial=0)) + 1e-12, equal_nan=True)
    if close.all():
        return ""
    with np.errstate(invalid="ignore"):
        worst = np.abs(a - b)[~close]
    return f"off by {np.nanmax(worst, initial=0):.3g}, largest {finite.max(initial=0):.3g}"


def problems_of(
    bundle: Path, wanted: Mapping[str, tuple[Feeds, Outputs]], told: Told
) -> dict[str, str]:
    """What is wrong with a bundle: it does not open, or does not give what the files gave."""
    told.step("open")
    try:
        opened = repsimc.load(bundle)
        session = opened.session()
    except Exception as error:
        return {"open": f"{type(error).__name__}: {error}"[:600]}
    feeds = {name: dict(given) for name, (given, _) in wanted.items()}
    for asked in [None, *([name] for name in wanted)] if len(wanted) > 1 else [None]:
        label = "whole" if asked is None else f"{asked[0]} alone"
        told.step(f"run {label}")
        try:
            given = {k: v for k, v in feeds.items() if asked is None or k in asked}
            found = session.run(given, asked)
        except Exception as error:
            return {"run": f"{label}: {type(error).__name__}: {error}"[:600]}
        for name in asked or wanted:
            for output, value in wanted[name][1].items():
                if output not in found[name]:
                    return {"differs": f"{label}: {name} has no output '{output}'"}
                if said := difference(found[name][output], value):
                    return {"differs": f"{label}: {name}/{output}: {said}"}
    session.close()
    return {}


# -- jobs ----------------------------------------------------------------------------------


def backend(job: Mapping[str, Any], told: Told) -> dict[str, Any]:
    """One model alone and with a copy of itself, beside what ONNX Runtime gives for it."""
    case = pickle.loads(Path(job["case"]).read_bytes())  # written by robustness.py just now
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "a.onnx", folder / "b.onnx"]
    for path in files:
        path.write_bytes(case["model"])
    if is_random(onnx.load_from_string(case["model"])):
        return {"skipped": "random"}
    told.step("reference")
    known = reference(files[0], case["feeds"])
    if isinstance(known, str):
        return {"skipped": known}
    found: dict[str, Any] = {}
    for label, chosen in (("alone", files[:1]), ("copy", files)):
        bundle = folder / f"bundle-{label}"
        told.step(f"compile {label}")
        made = call(["compile", *map(str, chosen), "-o", str(bundle), *TRUSTED])
        found[label] = made
        if made["code"] == 0:
            made["problems"] = problems_of(bundle, {path.stem: known for path in chosen}, told)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def mutant(job: Mapping[str, Any], told: Told) -> dict[str, Any]:
    """One mutant through compile; what was written is held against what the file gives."""
    folder = Path(job["folder"])
    path, bundle = folder / "mutant.onnx", folder / "bundle"
    extra: list[str] = job["extra"]
    told.step("compile")
    made = call(["compile", str(path), *extra, "-o", str(bundle)])
    if made["code"] == 0 and "--calib" not in extra:
        told.step("reference of the mutant")
        known = reference(path, None)
        if isinstance(known, str):
            made["unjudged"] = known
        elif not is_random(onnx.load(path, load_external_data=False)):
            wanted = {"mutant": known}
            if len(extra) == 1:
                other = reference(Path(extra[0]), None)
                assert not isinstance(other, str)
                wanted[Path(extra[0]).stem] = other
            made["problems"] = problems_of(bundle, wanted, told)
    shutil.rmtree(folder, ignore_errors=True)
    return made


def case_of(job: Mapping[str, Any], told: Told) -> dict[str, Any]:
    """All models of a folder in one bundle, on the folder's feeds or made-up ones."""
    place, bundle = Path(job["place"]), Path(job["folder"]) / "bundle"
    files = sorted(place.glob("*.onnx"))
    stored: dict[str, dict[str, Any]] = {}
    if (place / "feeds.npz").is_file():
        with np.load(place / "feeds.npz") as arrays:
            for key in arrays.files:
                model, name = key.split("|", 1)
                stored.setdefault(model, {})[name] = arrays[key]
    wanted: dict[str, tuple[Feeds, Outputs]] = {}
    unknown = ""
    for path in files:
        told.step(f"reference {path.stem}")
        known = reference(path, stored.get(path.stem))
        if isinstance(known, str):
            unknown = f"{path.stem}: {known}"
        else:
            wanted[path.stem] = known
    told.step("compile")
    made = call(["compile", *map(str, files), "-o", str(bundle)])
    if made["code"] == 0:
        made["problems"] = problems_of(bundle, wanted, told) if wanted else {}
    # A model whose outputs NumPy has no type for can be opened, and not be compared.
    made["unjudged"] = unknown
    return made


JOBS: dict[str, Callable[[Mapping[str, Any], Told], dict[str, Any]]] = {
    "backend": backend,
    "mutant": mutant,
    "case": case_of,
}


def main() -> None:
    """Do jobs until stdin ends."""
    told = Told(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    # What libraries print must not end up among the answers.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    told.say(ready=hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8])
    for line in sys.stdin:
        job = json.loads(line)
        told.say(done=JOBS[job["do"]](job, told))


if __name__ == "__main__":
    main()
