"""Files of a bundle that are missing, changed, or lead out of its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from repsimc.compiler.graph import export
from repsimc.compiler.graph.program import Program
from repsimc.runtime.errors import ModelError
from repsimc.runtime.session import load
from tests.programs import assert_close, joined
from tests.runtime.bundles import NEGATIVE, X, bundled, tied_pair


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


def pair_times(factor: int) -> Program:
    """Two models of one input; `b` multiplies by that."""
    times = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3] x) => (float[N, 3] y)
    <float[3] w = {{{factor}, {factor}, {factor}}}> {{ y = Mul (x, w) }}"""
    return joined([[("a", "x"), ("b", "x")]], a=NEGATIVE, b=times)


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("verify_hashes", [True, False])
def test_a_session_never_mixes_the_bundle_it_opened_with_its_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: bool, verify_hashes: bool
) -> None:
    def write(program: Program, folder: Path, stem: str) -> list[Path]:
        limit = 0 if outside else export.INLINE_LIMIT_NBYTES
        monkeypatch.setattr(export, "SMALL_NBYTES", 0)
        return export.write_model(program, folder, stem, inline_limit_nbytes=limit)

    monkeypatch.setattr("repsimc.compiler.bundle.writing.write_model", write)
    path = bundled(tmp_path, pair_times(2))
    session = load(path).session(verify_hashes=verify_hashes)
    in_parts = load(path).session(verify_hashes=verify_hashes)
    in_parts.warm("b")
    bundled(tmp_path, pair_times(2), overwrite=True)  # the same again is no other bundle
    assert_close(session.run(X)["b"]["y"], 2 * X)
    bundled(tmp_path, pair_times(3), overwrite=True)
    assert_close(session.run(X)["b"]["y"], 2 * X)
    assert_close(in_parts.run(X, "b")["b"]["y"], 2 * X)
    with pytest.raises(ModelError, match="replaced since this session was opened"):
        session.run(X, "b")
    assert_close(session.run(X)["b"]["y"], 2 * X)
    assert_close(load(path).run(X, "b")["b"]["y"], 3 * X)


def test_the_same_bundle_copied_into_place_is_read_again(tmp_path: Path) -> None:
    path = bundled(tmp_path, pair_times(2))
    session = load(path).session()
    bundled(tmp_path, pair_times(2), overwrite=True)
    assert_close(session.run(X, "b")["b"]["y"], 2 * X)
