from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from repsimc.compiler.actions import kinds

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what the code says now to tests/golden instead of comparing with it",
    )


@pytest.fixture(autouse=True, scope="session")
def no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """No test may read or fill the cache of whoever runs it; child processes inherit that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden("name.txt", text)` fails unless tests/golden/name.txt holds exactly that text."""

    def check(name: str, actual: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(actual, encoding="utf-8", newline="\n")
            return
        assert path.exists(), f"no golden text {path.name}: run pytest --update-golden"
        expected = path.read_text(encoding="utf-8")
        assert actual == expected, f"{path.name} differs; if that is meant: pytest --update-golden"

    return check


@pytest.fixture
def layers_keep_their_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without narrower layers, for tests of what they would be chosen instead of."""
    left = tuple(kind for kind in kinds.KINDS if kind.name != "narrow-layer")
    monkeypatch.setattr(kinds, "KINDS", left)
