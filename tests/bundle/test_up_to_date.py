from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from repsimc.compiler.bundle.compile_inputs import CompileInputs
from repsimc.compiler.bundle.up_to_date import bundle_from, confirm, is_whole
from repsimc.compiler.errors import ModelError, UsageError
from repsimc.runtime.originals import seen_folder
from tests.runtime.bundles import bundled, tied_pair

DIGEST = "0123456789abcdef" * 4


def made(digest: str = DIGEST) -> CompileInputs:
    return CompileInputs((), (), digest, {DIGEST: Path("a.onnx")})


def test_a_bundle_of_the_same_inputs_is_known_by_their_digest(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair(), made_from=DIGEST)
    manifest = bundle_from(path, made())
    assert manifest is not None and manifest.made_from == DIGEST
    assert bundle_from(path, made(DIGEST[::-1])) is None
    assert bundle_from(path, made("")) is None
    assert bundle_from(tmp_path / "nowhere", made()) is None
    (path / "manifest.json").write_text("{}")
    assert bundle_from(path, made()) is None


def test_a_bundle_that_nobody_knows_the_inputs_of_is_never_up_to_date(tmp_path: Path) -> None:
    assert bundle_from(bundled(tmp_path, tied_pair()), made("")) is None


@pytest.mark.parametrize("name", ["merged.onnx", "plan.json", "report.json"])
def test_a_bundle_is_whole_if_every_file_is(tmp_path: Path, name: str) -> None:
    path = bundled(tmp_path, tied_pair(), made_from=DIGEST)
    manifest = bundle_from(path, made())
    assert manifest is not None and is_whole(path, manifest)
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not is_whole(path, manifest)
    os.utime(path / name, (1e9, 1e9))  # of its size, and older than the manifest: taken for whole
    assert is_whole(path, manifest)
    (path / name).write_bytes(content + b"\0")
    os.utime(path / name, (1e9, 1e9))
    assert not is_whole(path, manifest)
    (path / name).unlink()
    assert not is_whole(path, manifest)


def test_a_file_that_leads_out_of_the_bundle_is_not_one_of_it(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair(), made_from=DIGEST)
    manifest = bundle_from(path, made())
    assert manifest is not None
    (path / "plan.json").rename(tmp_path / "plan.json")
    (path / "plan.json").symlink_to(tmp_path / "plan.json")
    assert not is_whole(path, manifest)


def test_confirming_tells_report_and_plan_and_when(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair(), plan={"p": 1}, report={"r": 2}, made_from=DIGEST)
    manifest = bundle_from(path, made())
    assert manifest is not None
    os.utime(path / "manifest.json", (1e9, 1e9))
    assert confirm(path, manifest, made()) == {"r": 2, "plan": {"p": 1}, "bundle": str(path)}
    assert (path / "manifest.json").stat().st_mtime > 1e9 + 1
    [place] = [p for p in seen_folder().iterdir() if p.name.startswith(DIGEST)]
    assert place.read_text() == str(Path("a.onnx").resolve())


def test_what_cannot_be_confirmed_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundled(tmp_path, tied_pair(), made_from=DIGEST)
    manifest = bundle_from(path, made())
    assert manifest is not None
    (path / "report.json").write_text(json.dumps([1]))
    with pytest.raises(ModelError, match=r"report\.json"):
        confirm(path, manifest, made())

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refused)
    with pytest.raises(UsageError, match="cannot be written: Operation not permitted"):
        confirm(path, manifest, made())
