from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from repsimc.compiler.frontends.read import read_model
from repsimc.runtime.bench import BenchOptions, bench
from repsimc.runtime.errors import ModelError
from repsimc.runtime.manifest import ModelEntry
from repsimc.runtime.originals import (
    SEEN_SUFFIX,
    check_original,
    find_original,
    seen_folder,
    weight_files,
)
from repsimc.runtime.session import load
from tests.programs import model_of_text
from tests.runtime.bundles import PLAIN, bundled


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def external(path: Path) -> Path:
    """A model file whose weight lies in a.bin beside it."""
    model = model_of_text("""
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3] x) => (float[N, 3] y) { y = Mul (x, w) }
    """)
    weight = np.float32([1, 2, 4])
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    path.parent.mkdir(exist_ok=True, parents=True)
    onnx.save(model, path, save_as_external_data=True, location="a.bin", size_threshold=0)
    return path


def compiled(path: Path) -> tuple[Path, ModelEntry]:
    """A bundle of the model file, beside it, and what its manifest says of the model."""
    bundle = bundled(path.parent, read_model(path, "a"))
    return bundle, load(bundle).manifest.model("a")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    onnx.save(model_of_text(PLAIN), tmp_path / "models" / "a.onnx")
    return tmp_path / "models" / "a.onnx"


def seen(entry: ModelEntry, content: bytes) -> None:
    seen_folder().mkdir(parents=True, exist_ok=True)
    (seen_folder() / f"{entry.source.sha256}{SEEN_SUFFIX}").write_bytes(content)


def test_a_file_that_changed_is_no_original(plain: Path, tmp_path: Path) -> None:
    bundle, entry = compiled(plain)
    check_original(plain, entry)
    changed = bytearray(plain.read_bytes())
    changed[-1] ^= 1
    for content in (bytes(changed), bytes(changed) + b"\0"):
        (tmp_path / "a.onnx").write_bytes(content)
        with pytest.raises(ModelError, match="its content differs"):
            check_original(tmp_path / "a.onnx", entry)
        with pytest.raises(ModelError, match="its content differs"):
            bench(bundle, BenchOptions(runs=1), originals={"a": tmp_path / "a.onnx"})


def test_external_data_is_part_of_an_original(tmp_path: Path) -> None:
    path = external(tmp_path / "a.onnx")
    _, entry = compiled(path)
    check_original(path, entry)
    assert weight_files(path) == [tmp_path / "a.bin"]
    content = (tmp_path / "a.bin").read_bytes()
    (tmp_path / "a.bin").write_bytes(b"\1" + content[1:])
    with pytest.raises(ModelError, match="its content differs"):
        check_original(path, entry)
    (tmp_path / "a.bin").unlink()
    with pytest.raises(ModelError, match=r"keeps weights in .*a\.bin, which is missing"):
        weight_files(path)


def test_weights_that_lie_elsewhere_are_not_read(tmp_path: Path) -> None:
    path = external(tmp_path / "a.onnx")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../secret"
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(b"mine")
    (tmp_path / "in" / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="keeps weights in"):
        weight_files(tmp_path / "in" / "a.onnx")


def test_it_is_found_where_it_was_compiled_beside_the_bundle_and_here(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, entry = compiled(plain)
    assert find_original(bundle, entry) == plain  # beside
    away = tmp_path / "away"
    away.mkdir()
    plain.rename(away / "a.onnx")
    with pytest.raises(ModelError, match="is not where it was compiled, beside the bundle or in"):
        find_original(bundle, entry)
    monkeypatch.chdir(away)
    assert find_original(bundle, entry) == Path("a.onnx")  # here
    monkeypatch.chdir(tmp_path)
    (away / "a.onnx").rename(away / "of another name.onnx")
    seen(entry, os.fsencode(away / "of another name.onnx"))
    assert find_original(bundle, entry) == away / "of another name.onnx"  # where it was seen


def test_a_bundle_that_says_where_its_model_lay_is_believed_where_the_content_agrees(
    plain: Path, tmp_path: Path
) -> None:
    bundle, _ = compiled(plain)
    plain.rename(tmp_path / "b.onnx")
    manifest = bundle / "manifest.json"
    text = manifest.read_text().replace('"file": "a.onnx"', '"file": "a.onnx", "path": "P"')
    assert '"P"' in text
    manifest.write_text(text.replace('"P"', '"../../b.onnx"'))
    assert find_original(bundle, load(bundle).manifest.model("a")).samefile(tmp_path / "b.onnx")
    onnx.save(model_of_text(PLAIN.replace("g (", "h (")), tmp_path / "b.onnx")
    with pytest.raises(ModelError, match=r"b\.onnx is not the file that model 'a' was compiled"):
        find_original(bundle, load(bundle).manifest.model("a"))


@pytest.mark.parametrize("content", [b"", b"a.onnx", b"/nowhere/a.onnx", b"\0", b"/" * 99_999])
def test_a_wrong_entry_of_the_cache_is_as_good_as_none(plain: Path, content: bytes) -> None:
    bundle, entry = compiled(plain)
    seen(entry, content)
    assert find_original(bundle, entry) == plain


def test_another_file_of_the_name_is_told(plain: Path) -> None:
    bundle, entry = compiled(plain)
    onnx.save(model_of_text(PLAIN.replace("g (", "h (")), plain)
    with pytest.raises(ModelError, match=r"models/a\.onnx is not the file that model 'a' was"):
        find_original(bundle, entry)
