"""Kept evidence: what comes back, what decides its place, and what is as good as none."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from repsimc.compiler.case import Case, case_of, read_models
from repsimc.compiler.options import CompileOptions, Settings
from repsimc.compiler.planning import evidence_store
from repsimc.compiler.planning.evidence_store import DECIDING, EvidenceKey, EvidenceStore
from repsimc.compiler.planning.known import Known
from repsimc.compiler.progress import NoProgress
from repsimc.runtime.placing import cache_folder
from tests.nets.known import known
from tests.nets.networks import perturbed, pyramid, smooth_images
from tests.nets.six_blocks import bench


@pytest.fixture(scope="module")
def case() -> Case:
    return bench().case


@pytest.fixture(scope="module")
def learned() -> Known:
    return known()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, told: list[str]) -> EvidenceStore:
    return EvidenceStore(tmp_path / "evidence", told.append)


def same(found: Known | None, learned: Known) -> bool:
    return found is not None and found.to_json() == learned.to_json()


def under_the_floors_of(case: Case, learned: Known) -> Known:
    trials = {
        measured: tuple(replace(one, floor=case.options.floor("a", one.output)) for one in outputs)
        for measured, outputs in learned.trials.items()
    }
    return replace(learned, trials=trials)


def test_what_is_kept_comes_back(
    store: EvidenceStore, case: Case, learned: Known, told: list[str]
) -> None:
    key = EvidenceKey.of(case)
    assert store.read(key, case) is None
    assert told == ["no evidence was kept of these models and frames with these options"]
    assert store.write(key, learned)
    assert same(EvidenceStore(store.folder).read(key, case), learned)
    assert same(store.read(key, case), learned)
    assert told[1:] == ["evidence was kept of 3 candidates and 1 measurements"]
    (entry,) = store.folder.iterdir()
    assert re.fullmatch(r"[0-9a-f]{64}\.jsonl", entry.name)
    # Equal knowledge, equal bytes; what is learned later takes its place.
    content = entry.read_bytes()
    assert store.write(key, known()) and entry.read_bytes() == content
    assert store.write(key, Known()) and same(store.read(key, case), Known())


def test_a_lower_floor_starts_from_the_same_evidence(
    store: EvidenceStore, case: Case, learned: Known
) -> None:
    store.write(EvidenceKey.of(case), learned)
    lower = replace(case, options=replace(case.options, min_fidelity=0.5))
    found = store.read(EvidenceKey.of(lower), lower)
    assert same(found, under_the_floors_of(lower, learned)) and not same(found, learned)


# -- keys -----------------------------------------------------------------------------------------

# Wishes that decide what becomes of evidence, where models and frames come from (their content is
# in the key), how they may be opened, and what is done with the result.
NOT_DECIDING = {
    *("budget", "max_macs", "max_latency", "min_fidelity", "output_fidelity", "min_stressed"),
    *("time_limit", "resume", "plan", "exact_only", "dry_run", "output", "overwrite"),
    *("layout", "target", "allow_script", "parse_memory", "parse_seconds"),
}
# These choose the kinds of rewrites, which are in the key.
KINDS = {"only", "without"}


def test_every_setting_decides_evidence_or_does_not() -> None:
    assert sorted([*DECIDING, *NOT_DECIDING, *KINDS]) == sorted(Settings.__annotations__)


def options_of(folder: Path, **wishes: Any) -> CompileOptions:
    models = wishes.pop("models", "ab")
    return CompileOptions(
        models=tuple((name, folder / f"{name}.onnx") for name in models),
        **{"calibration": smooth_images(40), "held_out": 0.25, **wishes},
    )


@pytest.fixture(scope="module")
def key_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., EvidenceKey]:
    """The key of a compilation of two small networks, with these options."""
    folder = tmp_path_factory.mktemp("nets")
    net = pyramid(0, (4, 4, 4))
    for name, model in {"a": net, "b": perturbed(net, 0.1), "c": perturbed(net, 0.2)}.items():
        onnx.save(model, folder / f"{name}.onnx")

    def key(**wishes: Any) -> EvidenceKey:
        options = options_of(folder, **wishes)
        return EvidenceKey.of(case_of(read_models(options, NoProgress()), options, NoProgress()))

    return key


def test_whatever_decides_evidence_changes_its_key(
    key_with: Callable[..., EvidenceKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = str(key_with())
    assert str(key_with()) == plain
    others: list[dict[str, Any]] = [
        *({"models": "ba"}, {"models": "a"}, {"models": "ac"}),
        {"calibration": smooth_images(40, seed=1)},
        *({"seed": 1}, {"frames": 32}, {"held_out": 0.5}, {"tie_inputs": False}),
        *({"metrics": {"a": "variance"}}, {"confidence": 0.9}, {"strict": True}),
        *({"without": ("collapse",)}, {"only": "share"}, {"precision": "int8"}),
    ]
    keys = {str(key_with(**wishes)) for wishes in others}
    assert len(keys) == len(others) and plain not in keys
    monkeypatch.setattr(evidence_store, "FORMAT", evidence_store.FORMAT + 1)
    assert str(key_with()) not in {*keys, plain}


def test_wishes_that_decide_no_evidence_share_it(key_with: Callable[..., EvidenceKey]) -> None:
    wished: Any = {"budget": "60%", "max_macs": "50%", "min_fidelity": 0.5, "time_limit": "10m"}
    assert str(key_with(**wished, resume=True)) == str(key_with())


@pytest.mark.parametrize("field", [field.name for field in fields(EvidenceKey)])
def test_every_field_is_in_the_name(case: Case, field: str) -> None:
    key = EvidenceKey.of(case)
    other: Any = (("b", "0" * 64),) if field == "models" else "x"
    assert str(replace(key, **{field: other})) != str(key)


def test_names_lead_nowhere(store: EvidenceStore, case: Case) -> None:
    for name in ("../../up", "/etc/passwd", "a\0b", "\ud800", "x" * 5000):
        key = replace(EvidenceKey.of(case), models=((name, "0" * 64),))
        assert store.write(key, Known()) and store.read(key, case) is not None
    assert (
        sorted(path.parent for path in store.folder.parent.rglob("*.jsonl")) == [store.folder] * 5
    )


# -- entries that are as good as none -------------------------------------------------------------


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content.replace(b'"damage":', b'"damage":1', 1)


def resealed(content: bytes) -> bytes:
    """An entry for another program, whose digest is right."""
    head, _, told = content.partition(b"\n")
    changed = told.replace(b"a/b0", b"a/no")
    seal = evidence_store.hashlib.sha256(changed).hexdigest()
    return json.dumps(json.loads(head) | {"sha256": seal}).encode() + b"\n" + changed


def nested(content: bytes) -> bytes:
    told = b"[" * 100_000
    seal = evidence_store.hashlib.sha256(told).hexdigest()
    head = json.loads(content.partition(b"\n")[0])
    return json.dumps(head | {"sha256": seal}).encode() + b"\n" + told


@pytest.mark.parametrize(
    "damage",
    [truncated, flipped, resealed, nested, lambda _: b"", lambda _: b"\xff\0no JSON"],
    ids=["truncated", "flipped", "resealed", "nested", "empty", "other"],
)
def test_a_damaged_entry_is_measured_again(
    store: EvidenceStore,
    case: Case,
    learned: Known,
    told: list[str],
    damage: Callable[[bytes], bytes],
) -> None:
    key = EvidenceKey.of(case)
    store.write(key, learned)
    (entry,) = store.folder.iterdir()
    good = entry.read_bytes()
    assert damage(good) != good
    entry.write_bytes(damage(good))
    assert store.read(key, case) is None
    assert len(told) == 1 and told[0].startswith("the kept evidence cannot be used")
    assert store.write(key, learned) and same(store.read(key, case), learned)


def test_another_version_starts_anew(store: EvidenceStore, case: Case, learned: Known) -> None:
    key = EvidenceKey.of(case)
    older = replace(key, version="0.0.1")
    store.write(older, learned)
    assert store.read(key, case) is None
    # Nor does an entry get anywhere under another's name.
    (entry,) = store.folder.iterdir()
    entry.rename(entry.with_name(f"{key}.jsonl"))
    assert store.read(key, case) is None
    assert store.read(older, case) is None


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nothing"])
def test_what_is_no_file_is_left_alone(
    store: EvidenceStore, case: Case, learned: Known, kind: str, told: list[str]
) -> None:
    key = EvidenceKey.of(case)
    store.folder.mkdir()
    place = store.folder / f"{key}.jsonl"
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(store.folder / "nothing")
    assert store.read(key, case) is None
    assert store.write(key, learned) is (kind != "folder")
    assert same(store.read(key, case), learned) is (kind != "folder")


def test_an_entry_that_is_too_large_is_neither_written_nor_read(
    store: EvidenceStore, case: Case, learned: Known, told: list[str], monkeypatch: Any
) -> None:
    key = EvidenceKey.of(case)
    store.write(key, learned)
    monkeypatch.setattr(evidence_store, "MAX_ENTRY_NBYTES", 500)
    assert store.read(key, case) is None and "cannot be used" in told[-1]
    assert not store.write(key, learned)
    assert told[-1].startswith("evidence is not kept: ")


def test_a_folder_that_cannot_be_written_is_told_and_no_error(
    tmp_path: Path, case: Case, learned: Known, told: list[str]
) -> None:
    (tmp_path / "file").touch()
    store = EvidenceStore(tmp_path / "file" / "evidence", told.append)
    key = EvidenceKey.of(case)
    assert not store.write(key, learned) and store.read(key, case) is None
    assert told[0].startswith("evidence is not kept: ") and "cannot be written" in told[0]


# -- several processes, and the place -------------------------------------------------------------


def write(folder: str, key: EvidenceKey, scale: float) -> None:
    for _ in range(50):
        assert EvidenceStore(Path(folder)).write(key, Known(scales={"collapse": scale}))


def test_two_processes_may_write_and_read_at_once(tmp_path: Path, case: Case) -> None:
    key = EvidenceKey.of(case)
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=write, args=(str(tmp_path), key, scale)) for scale in (1.5, 2.5)
    ]
    for writer in writers:
        writer.start()
    seen: set[float] = set()
    while any(writer.is_alive() for writer in writers) or not seen:
        if (tmp_path / f"{key}.jsonl").exists():
            found = EvidenceStore(tmp_path).read(key, case)
            assert found is not None, "a reader saw half an entry"
            seen.add(found.scales["collapse"])
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen <= {1.5, 2.5}
    assert [path.name for path in tmp_path.iterdir()] == [f"{key}.jsonl"]


def test_it_is_kept_beside_what_else_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Wherever the tests' own cache is, it is none of whoever runs them.
    assert EvidenceStore().folder == cache_folder() / "evidence"
    assert not EvidenceStore().folder.is_relative_to(Path.home() / ".cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert EvidenceStore().folder == tmp_path / "repsimc" / "evidence"
