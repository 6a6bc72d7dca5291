"""Heatmaps: colours, pictures, and the page that holds them all."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repsimc.compiler.similarity.compare import similarity
from repsimc.compiler.similarity.heatmap import bounds, coloured, heatmap_page, heatmap_png


def test_colours() -> None:
    pixels = coloured(np.array([[0.0, 1.0, np.nan, -5.0]]), 0.0, 1.0)[0].astype(int)
    assert pixels[0].sum() < pixels[1].sum()  # dark to bright
    assert pixels[2].tolist() == [200, 200, 200]
    assert pixels[3].tolist() == pixels[0].tolist()
    assert bounds(np.array([0.2, np.nan]), np.array([-0.01])) == (0.0, 1.0)
    assert bounds(np.array([3.0]), np.array([-2.0])) == (-2.0, 3.0)
    assert bounds(np.array([np.nan]), np.array([np.nan])) == (0.0, 1.0)


def test_png_has_the_matrix_the_null_and_the_sites(folder: Path) -> None:
    models = [folder / "a.onnx", folder / "b.onnx"]
    found = similarity(models, folder / "frames.npz", sites=True)
    marked = np.asarray(Image.open(io.BytesIO(heatmap_png(found, found.pairs[0], "cka"))))
    plain = similarity(models, folder / "frames.npz")
    unmarked = np.asarray(Image.open(io.BytesIO(heatmap_png(plain, plain.pairs[0], "cka"))))
    assert (marked == (220, 30, 30)).all(axis=-1).any()
    assert not (unmarked == (220, 30, 30)).all(axis=-1).any()
    value = coloured(plain.matrix("a", "b"), 0, 1)
    for i in range(4):
        for j in range(4):
            assert unmarked[20 + 14 * i + 7, 150 + 14 * j + 7].tolist() == value[i, j].tolist()


class Page(HTMLParser):
    """Collects what a page would load, and its scripts' text."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "action")]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["script"]:
            self.scripts.append(data)


def test_the_page_is_offline_and_escapes_names() -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    x = np.random.default_rng(0).normal(size=(40, 5)).astype("f4")
    found = similarity({evil: {evil: x, "x\x1b[2J": x}, "b": {"q&a": x}})
    page = Page()
    text = heatmap_page(found)
    page.feed(text)
    assert "img" not in page.tags and "\x1b" not in text
    assert all(load.startswith("data:image/png;base64,") for load in page.loads) and page.loads
    assert "default-src 'none'" in text
    data = json.loads(page.scripts[0])
    assert data["rows"][0] == evil and data["columns"] == ["q&a"]
    assert data["cells"][0][0] == pytest.approx(1, abs=1e-3)
