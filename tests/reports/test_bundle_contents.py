from __future__ import annotations

from pathlib import Path

import pytest

from repsimc.compiler.errors import ModelError
from repsimc.compiler.reports.bundle_contents import bundle_grids, read_report
from repsimc.compiler.reports.table import markdown
from repsimc.runtime.manifest import Manifest
from tests.reports.test_table import REPORT
from tests.runtime.bundles import bundled, tied_pair


def test_a_bundle_tells_interface_sharing_and_files(tmp_path: Path) -> None:
    path = bundled(tmp_path, tied_pair(), report=REPORT.to_json())
    manifest = Manifest.loads((path / "manifest.json").read_text())
    assert read_report(path, manifest) == REPORT
    models, files = bundle_grids(path, manifest, REPORT)
    assert [row[0] for row in models.rows] == ["a", "b"]
    assert "x float32 [N, 3]" in markdown(models).replace("\\", "")
    assert {row[0] for row in files.rows} >= {"merged.onnx", "plan.json", "report.json"}


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"schema": "other"}', b"\xff", b"[" * 100_000, b"3"]
)
def test_a_damaged_report_is_a_bad_bundle(tmp_path: Path, content: bytes) -> None:
    path = bundled(tmp_path, tied_pair(), report=REPORT.to_json())
    manifest = Manifest.loads((path / "manifest.json").read_text())
    (path / "report.json").write_bytes(content)
    with pytest.raises(ModelError):
        read_report(path, manifest)
