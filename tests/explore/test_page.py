"""The page: whole, offline, without script, and no name in it is markup."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser

from repsimc.compiler.explore.page import explore_page
from tests.explore.conftest import HOSTILE, exploration

VOID = {"meta"}


class Read(HTMLParser):
    """Tags, attributes and text of a page; fails where an element ends that did not begin."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_every_point_has_a_row_with_its_plan_and_command() -> None:
    read = Read(explore_page(exploration()))
    assert not read.open
    assert read.tags["svg"] == 2 and read.tags["details"] == 3
    anchors = {value for name, value in read.attributes if name == "id"}
    assert anchors == {"point-0", "point-1", "point-2"}
    links = {value.removeprefix("#") for name, value in read.attributes if name == "href"}
    assert links == anchors
    told = " ".join(read.texts)
    assert "repsimc compile --plan 001.json" in told
    assert (
        "a goes without a_in .. a_out: 500 B of weights less alone, predicted to lose 1.23 %"
        in told
    )
    assert "accuracy 89.00 %" in told and "a is told of" in told


def test_nothing_is_loaded_and_no_script_runs() -> None:
    page = explore_page(exploration())
    read = Read(page)
    assert "default-src 'none'" in page
    assert not {"script", "img", "link", "iframe", "object"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name == "src" or name.startswith("on")]
    assert "http" not in page.replace("http-equiv", "")


def test_light_dark_and_paper() -> None:
    page = explore_page(exploration())
    assert "prefers-color-scheme: dark" in page and "@media print" in page


def test_a_hostile_name_is_text() -> None:
    plain, hostile = Read(explore_page(exploration())), Read(explore_page(exploration(HOSTILE)))
    assert hostile.tags == plain.tags and not hostile.open
    assert "alert" in " ".join(hostile.texts)
    page = explore_page(exploration(HOSTILE))
    assert "<script" not in page and "\x1b" not in page and "\u202e" not in page
