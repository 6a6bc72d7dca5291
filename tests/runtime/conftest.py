from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.bundles import bundled, tied_pair, trunk_and_pick


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundled(tmp_path_factory.mktemp("tied"), tied_pair())


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """trunk: x, extra -> y, z;  pick: x, index -> y;  both read one x."""
    return bundled(tmp_path_factory.mktemp("shared"), trunk_and_pick())


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundled(tmp_path_factory.mktemp("untied"), trunk_and_pick(tied=False))
