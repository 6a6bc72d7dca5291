from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.nets.networks import perturbed, pyramid, smooth_images


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test may use or fill the cache of whoever runs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "repsimc" / "similarity"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.onnx, b.onnx (a with noise on its weights), c.onnx (another network), frames.npz."""
    base = pyramid(0)
    onnx.save(base, tmp_path / "a.onnx")
    onnx.save(perturbed(base, 0.1), tmp_path / "b.onnx")
    onnx.save(pyramid(7, widths=(5, 6, 7)), tmp_path / "c.onnx")
    np.savez(tmp_path / "frames.npz", x=smooth_images(96))
    return tmp_path
