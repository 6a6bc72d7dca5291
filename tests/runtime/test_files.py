"""Files of a bundle that are missing, changed, or lead out of its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from repsimc.runtime.errors import ModelError
from repsimc.runtime.session import load
from tests.runtime.bundles import (
    bundled,
    tied_pair,
)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no manifest\.json"):
        load(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="is not text"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["merged.onnx", "plan.json"])
def test_changed_bytes_are_refused(tmp_path: Path, name: str) -> None:
    path = bundled(tmp_path, tied_pair())
    content = bytearray((path / name).read_bytes())
    content[-2] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"file '{name}' .* sha256 differs"):
        load(path).session()


def test_a_missing_or_longer_file_is_refused(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair())
    with (path / "report.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ModelError, match=r"report\.json.* bytes, not"):
        load(path).session()
    (path / "report.json").unlink()
    with pytest.raises(ModelError, match=r"report\.json.* is missing"):
        load(path).session()


def test_a_file_that_is_a_link_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair())
    (path / "plan.json").rename(tmp_path / "outside.json")
    (path / "plan.json").symlink_to("../outside.json")
    with pytest.raises(ModelError, match="leads out of its folder"):
        load(path).session()


def test_weights_outside_the_bundle_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundled(tmp_path, tied_pair())
    monkeypatch.setattr("repsimc.runtime.files.external_files", lambda _: ["../secret.bin"])
    with pytest.raises(ModelError, match=r"keeps weights in '\.\./secret\.bin'"):
        load(path).session()
