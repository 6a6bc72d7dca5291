"""Whether any file a user has ends right or refused: `python benchmarks/robustness.py [--quick]`.

Parts: `backend` (the models of ONNX's backend suite, which ship inside the onnx package),
`mutants` (thousands of damaged copies of six small models), `growth` (large graphs), and those
that need a folder of models: `--hostile`, `--cases`, `--real`.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from deployed import MOST_NBYTES, deployed
from growth import growth_records
from measuring import run_cases
from mutants import models as six_models
from mutants import mutant
from onnx import numpy_helper
from records import Record, figure, grid, missed
from watched import Limits, Ran, Watched, run_command, watch_all

from repsimc.compiler.reports.table import print_grid

PARTS = ("backend", "mutants", "growth")
FOLDERS = ("hostile", "cases", "real")
KINDS = ("node", "simple", "real", "pytorch-operator", "pytorch-converted")
HEAVY_NBYTES = 2 * 2**30
HOSTILE = Limits(seconds=30.0, nbytes=2 * 2**30)
HOSTILE_SECONDS, HOSTILE_NBYTES = 10.0, 10**9


@dataclass(frozen=True)
class Asked:
    """How much to try, and where: every `every`th job, on `workers` processes."""

    quick: bool
    every: int
    mutants: int
    seed: int
    workers: int
    seconds: float
    scratch: Path
    log: Path | None

    def note(self, part: str, name: str, what: str, detail: Mapping[str, Any]) -> None:
        """Tell a failure on stderr, and in full in the log."""
        said = str(detail.get("problems") or detail.get("said") or "").replace("\n", " ")
        print(f"{part} {name}: {what} {said[:200]}", file=sys.stderr)
        if self.log is not None:
            line = json.dumps({"part": part, "name": name, "what": what, **detail})
            with self.log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


# -- ONNX's own models ---------------------------------------------------------------------


def backend_cases(folder: Path, asked: Asked) -> Iterator[dict[str, Any]]:
    """A job for every model of the backend suite, its model and inputs written to `folder`."""
    from onnx.backend.test.loader import load_model_tests

    number = -1
    for kind in KINDS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cases = load_model_tests(kind=kind)
        for case in sorted(cases, key=lambda one: one.name):
            number += 1
            if number % asked.every:
                continue
            content, feeds = _contents(case)
            if content is None:
                continue
            path = folder / f"{number}.pickle"
            path.write_bytes(pickle.dumps({"model": content, "feeds": feeds}))
            yield {
                "do": "backend",
                "name": f"{kind}/{case.name}",
                "case": str(path),
                "folder": str(folder / str(number)),
            }


def _contents(case: Any) -> tuple[bytes | None, dict[str, Any] | None]:
    """The model and the first of its stored inputs by name, as far as both are in the package."""
    data: list[Any] | None = None
    if case.model is not None:
        content = case.model.SerializeToString()
        data = case.data_sets[0][0] if case.data_sets else None
    elif case.model_dir is not None and (Path(case.model_dir) / "model.onnx").is_file():
        content = (Path(case.model_dir) / "model.onnx").read_bytes()
        files = sorted(
            (Path(case.model_dir) / "test_data_set_0").glob("input_*.pb"),
            key=lambda path: int(path.stem.split("_")[1]),
        )
        data = [path.read_bytes() for path in files]
    elif (case.url or "").startswith("onnx/backend"):
        content = (Path(onnx.__file__).parents[1] / case.url).read_bytes()
    else:
        return None, None
    model = onnx.load_from_string(content)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = list(model.graph.input)
    if data is not None and len(data) != len(inputs):
        inputs = [value for value in inputs if value.name not in weights]
    if data is None or len(data) != len(inputs):
        return content, None
    arrays = [
        _array(one, value) if isinstance(one, bytes) else one for one, value in zip(data, inputs)
    ]
    return content, {value.name: array for value, array in zip(inputs, arrays)}


def _array(content: bytes, value: onnx.ValueInfoProto) -> Any:
    kind = value.type.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind == "optional_type":
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))


def backend_records(asked: Asked) -> list[Record]:
    """Models compiled alone and with a copy, beside what ONNX Runtime gives for the file."""
    folder = asked.scratch / "backend"
    folder.mkdir()
    codes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    limits = Limits(asked.seconds, 4 * 2**30)
    for one in watch_all(backend_cases(folder, asked), asked.workers, limits):
        name = one.job["name"]
        if one.end != "done":
            # What ONNX Runtime does to the process by itself is no fault of the compiler's.
            own = one.step in ("start", "reference")
            counts["left out" if own else one.end] += 1
            if not own:
                asked.note("backend", name, f"{one.end} at {one.step}", dict(one.result))
            continue
        if "skipped" in one.result:
            counts["left out"] += 1
            codes[f"left out for {one.result['skipped'].split(':')[0]}"] += 1
            continue
        counts["compared"] += 1
        good = True
        for label, made in one.result.items():
            codes[f"{label} exit {made['code']}"] += 1
            what = f"{label}: exit {made['code']}"
            if made["code"] == 0:
                what = f"{label}: {' '.join(made['problems'])}"
                counts.update(made["problems"].keys())
                if not made["problems"]:
                    continue
            good = False
            counts["exit 1"] += made["code"] == 1
            asked.note("backend", name, what, made)
        counts["right"] += good
    ran = counts["compared"] + counts["hang"] + counts["abort"] + counts["memory"]
    left = f"{ran} models that ONNX Runtime runs, {counts['left out']} others left out"
    told = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
    name = "backend/"
    return [
        figure(f"{name}right, alone and with a copy", counts["right"], "", f"== {ran}", left),
        figure(f"{name}exit 1", counts["exit 1"], "", "== 0", told),
        figure(f"{name}bundles that do not open", counts["open"], "", "== 0"),
        figure(f"{name}bundles that do not run", counts["run"], "", "== 0"),
        figure(f"{name}other outputs", counts["differs"], "", "== 0"),
        *(figure(f"{name}{end}s", counts[end], "", "== 0") for end in ("hang", "abort")),
    ]


# -- mutants -------------------------------------------------------------------------------


def mutant_jobs(folder: Path, asked: Asked) -> Iterator[dict[str, Any]]:
    """A job for every mutant: alone, beside the model it comes from, or with frames in turn."""
    import numpy as np

    models = six_models()
    for name, content in models.items():
        (folder / f"{name}.onnx").write_bytes(content)
        feeds: dict[str, Any] = {}
        rng = np.random.default_rng(0)
        for value in onnx.load_from_string(content).graph.input:
            tensor = value.type.tensor_type
            shape = [dim.dim_value or 1 for dim in tensor.shape.dim]
            if tensor.elem_type == onnx.TensorProto.BOOL:
                feeds[value.name] = rng.random((16, *shape[1:])) < 0.5
            else:
                feeds[value.name] = rng.standard_normal((16, *shape[1:])).astype(np.float32)
        np.savez(folder / f"{name}.npz", allow_pickle=False, **feeds)
    files, names = list(models.values()), list(models)
    for index in range(0, asked.mutants, asked.every):
        place = folder / str(index)
        place.mkdir()
        (place / "mutant.onnx").write_bytes(mutant(files, index, asked.seed))
        stem = folder / names[index % len(names)]
        ways = ([], [f"{stem}.onnx"], ["--calib", f"{stem}.npz"])
        extra = ways[index // (2 * len(names)) % 3]
        yield {"do": "mutant", "name": str(index), "folder": str(place), "extra": extra}


def mutant_records(asked: Asked) -> list[Record]:
    """How thousands of damaged models end: exit codes, and what never may be."""
    folder = asked.scratch / "mutants"
    folder.mkdir()
    codes: Counter[Any] = Counter()
    counts: Counter[str] = Counter()
    every = 0
    slowest = 0.0
    for one in watch_all(mutant_jobs(folder, asked), asked.workers, Limits(asked.seconds)):
        every += 1
        name, way = one.job["name"], " ".join(Path(word).name for word in one.job["extra"])
        name = f"{name} {way}".strip()
        slowest = max(slowest, one.seconds)
        if one.end == "memory" or one.peak_nbytes > HEAVY_NBYTES:
            counts["heavy"] += 1
            asked.note("mutants", name, f"{one.peak_nbytes / 2**20:.0f} MiB at {one.step}", {})
        if one.end != "done":
            own = one.step.startswith("reference")
            counts["reference ended" if own else one.end] += 1
            if not own and one.end != "memory":
                asked.note("mutants", name, f"{one.end} at {one.step}", dict(one.result))
            continue
        codes[one.result["code"]] += 1
        if one.result["code"] == 1:
            asked.note("mutants", name, "exit 1", dict(one.result))
        if one.result.get("problems"):
            counts["wrong"] += 1
            asked.note("mutants", name, "written and wrong", dict(one.result))
    told = ", ".join(f"exit {code}: {count}" for code, count in sorted(codes.items()))
    extra = f"{every} mutants, slowest {slowest:.1f} s; {told}"
    return [
        figure("mutants/internal errors", codes[1], "", "== 0", extra),
        figure("mutants/hangs", counts["hang"], "", "== 0", f"over {asked.seconds:g} s"),
        figure("mutants/aborts", counts["abort"], "", "== 0"),
        figure("mutants/above 2 GB", counts["heavy"], "", "== 0"),
        figure("mutants/written and wrong", counts["wrong"], "", "== 0", "beside ONNX Runtime's"),
    ]


# -- folders of models ---------------------------------------------------------------------


def hostile_records(asked: Asked, folder: Path) -> list[Record]:
    """Files made to exhaust, crash or escape: through the command, in a process each."""
    records: list[Record] = []
    for number, path in enumerate(sorted(folder.glob("*.onnx"))[:: asked.every]):
        place = asked.scratch / "hostile" / str(number)
        place.mkdir(parents=True)
        words = ["compile", str(path.resolve()), "-o", "out/bundle", "-q"]
        ran = run_command(words, place, HOSTILE)
        escaped = _exported(place) if ran.code == 0 else []
        held = ran.end == "done" and ran.code in (0, 2, 3, 4, 5, 6) and not escaped
        held &= ran.seconds <= HOSTILE_SECONDS and ran.peak_nbytes <= HOSTILE_NBYTES
        if not held:
            said = {"said": ran.stderr[-1500:], "escaped": escaped}
            asked.note("hostile", path.name, _told(ran), said)
        said = "; ".join([_told(ran), *escaped, ran.stderr.strip().split("\n")[0][:100]])
        records.append(figure(f"hostile/{path.stem}", int(held), "", "== 1", said))
    return records


def _told(ran: Ran) -> str:
    end = f"exit {ran.code}" if ran.end == "done" else ran.end
    return f"{end}, {ran.seconds:.1f} s, {ran.peak_nbytes / 2**20:.0f} MiB"


def _exported(place: Path) -> list[str]:
    """Lines that a name of the model's smuggles into files for others, and files elsewhere."""
    before = {path for path in place.rglob("*") if "out" not in path.relative_to(place).parts}
    found: list[str] = []
    for kind in ("triton", "deepstream"):
        ran = run_command(["export", "out/bundle", f"--{kind}", f"out/{kind}"], place, HOSTILE)
        if ran.end != "done" or ran.code == 1:
            found.append(f"export --{kind}: {_told(ran)}")
    graph = onnx.load(place / "out" / "bundle" / "merged.onnx", load_external_data=False).graph
    names = [value.name for value in (*graph.input, *graph.output)]
    names += [node.name for node in graph.node]
    smuggled = {line.strip() for name in names for line in name.splitlines()[1:] if line.strip()}
    for path in place.glob("out/*/**/*"):
        if path.suffix in (".txt", ".pbtxt", ".sh"):
            text = path.read_text("utf-8", "replace")
            lines = {line.strip() for line in text.splitlines()}
            found += [f"{path.name} has the line '{line}'" for line in sorted(lines & smuggled)]
            if path.suffix == ".pbtxt":  # a quote ends a string there
                quoting = [name for name in names if '"' in name and name in text]
                found += [f"{path.name} has {name!r} as it is" for name in quoting]
    after = {path for path in place.rglob("*") if "out" not in path.relative_to(place).parts}
    return found + [f"wrote {path.relative_to(place)}" for path in sorted(after - before)]


def cases_records(asked: Asked, folder: Path) -> list[Record]:
    """Folders with models and feeds: right, or refused with exit 3."""
    jobs = [
        {"do": "case", "name": place.name, "place": str(place.resolve()),
         "folder": str(asked.scratch / "cases" / place.name)}
        for place in sorted(folder.iterdir())[:: asked.every]
        if any(place.glob("*.onnx"))
    ]  # fmt: skip
    for job in jobs:
        Path(job["folder"]).mkdir(parents=True)
    found: dict[str, Record] = {}
    for one in watch_all(jobs, asked.workers, Limits(asked.seconds)):
        name = one.job["name"]
        state, said = _state(one)
        if state not in ("right", "refused"):
            asked.note("cases", name, state, dict(one.result))
        fine = int(state in ("right", "refused"))
        found[name] = figure(f"cases/{name}", fine, "", "== 1", f"{state}; {said}".strip("; "))
    return [found[name] for name in sorted(found)]


def _state(one: Watched) -> tuple[str, str]:
    if one.end != "done":
        return f"{one.end} at {one.step}", ""
    result = one.result
    said = str(result["said"]).split("\n")[0][:160]
    if result["code"] == 0:
        problems = " ".join(f"{key}: {text}" for key, text in result["problems"].items())
        return ("wrong", problems[:300]) if problems else ("right", result["unjudged"][:120])
    return ("refused" if result["code"] == 3 else f"exit {result['code']}"), said


def real_records(asked: Asked, folder: Path) -> list[Record]:
    """Models as people deploy them: compiled exactly and with frames, verified, measured."""
    records: list[Record] = []
    faults, heavy = 0, 0
    models = sorted((folder / "models").glob("*.onnx"), key=lambda path: path.stat().st_size)
    models = models[: 3 if asked.quick else None][:: asked.every]
    limits = Limits(120.0 if asked.quick else 900.0, 6 * 2**30)
    for model in models:
        found = deployed(model, folder, asked.scratch / "real" / model.stem, limits, asked.quick)
        if found.unknown:
            records.append(figure(f"real/{found.model}", None, "", None, found.unknown))
            continue
        wrong = found.faults()
        faults += sum(run.end != "done" or run.code == 1 for run in found.runs.values())
        heavy += found.peak_nbytes > MOST_NBYTES
        if wrong:
            said = {step: (_told(run), run.stderr[-1500:]) for step, run in found.runs.items()}
            asked.note("real", found.model, "; ".join(wrong), {"runs": said})
        told = "; ".join(f"{step} {_told(run)}" for step, run in found.runs.items())
        records.append(figure(f"real/{found.model}", int(not wrong), "", "== 1", told))
    return [
        *records,
        figure("real/internal errors, hangs, aborts", faults, "", "== 0"),
        figure("real/above 4 GB", heavy, "", "== 0"),
    ]


# -- the command ---------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Try, print, write; the exit status."""
    said = parser().parse_args(arguments)
    folders: dict[str, Path] = {
        name: getattr(said, name) for name in FOLDERS if getattr(said, name)
    }
    for name, folder in folders.items():
        if not folder.is_dir():
            print(f"error: --{name} {folder}: no such folder", file=sys.stderr)
            return 2
    parts: list[str] = said.part or ([] if folders else list(PARTS))
    every = said.every or (20 if said.quick else 1)
    with tempfile.TemporaryDirectory(prefix="repsimc-robustness-") as scratch:
        asked = Asked(
            *(said.quick, every, said.mutants, said.seed, said.workers, said.seconds),
            *(Path(scratch), said.log),
        )
        cases: dict[str, Callable[[], list[Record]]] = {}
        if "backend" in parts:
            cases["backend"] = lambda: backend_records(asked)
        if "mutants" in parts:
            cases["mutants"] = lambda: mutant_records(asked)
        if "growth" in parts:
            cases["growth"] = lambda: growth_records(asked.scratch / "growth", asked.quick)
        run = {"hostile": hostile_records, "cases": cases_records, "real": real_records}
        for name, folder in folders.items():
            cases[name] = lambda name=name, folder=folder: run[name](asked, folder)
        records, broken = run_cases(cases, (), said.json)
    print_grid(grid(records, "the short round" if said.quick else ""))
    return 1 if broken or (said.strict and missed(records)) else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        description="Whether models, damaged and hostile ones too, end right or refused.",
        epilog="Exit status: 0, also when a bar is missed; 1 when a part broke, or with --strict "
        "when a bar is missed; 2 for a folder that is not there.",
    )
    found.add_argument("--quick", action="store_true", help="every 20th of each part")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    found.add_argument(
        "--log", type=Path, metavar="FILE", help="add each failure, a JSON line each"
    )
    found.add_argument(
        "--part", nargs="+", choices=PARTS, metavar="NAME",
        help=f"{', '.join(PARTS)} (default: all, where no folder is given)",
    )  # fmt: skip
    found.add_argument("--hostile", type=Path, metavar="FOLDER", help="files made to do harm")
    found.add_argument(
        "--cases", type=Path, metavar="FOLDER", help="folders of models and a feeds.npz each"
    )
    found.add_argument(
        "--real", type=Path, metavar="FOLDER", help="models/ and data/ of deployed models"
    )
    found.add_argument("--every", type=int, default=0, metavar="N", help="only every Nth of a part")
    found.add_argument("--mutants", type=int, default=3000, metavar="N", help="how many mutants")
    found.add_argument("--seed", type=int, default=0, help="of the mutants")
    found.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N")
    found.add_argument("--seconds", type=float, default=60.0, help="time a job may take")
    found.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    return found


if __name__ == "__main__":
    sys.exit(main())
