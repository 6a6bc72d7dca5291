"""What every pass makes of one small network, as text: graph in, changes, graph out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from repsimc.compiler.graph.text import text
from repsimc.compiler.graph.verifier import verify
from repsimc.passes.base import Change
from tests.nets.by_pass import EXAMPLES
from tests.passes.checking import numbered

ROOT = Path(__file__).parents[2]
# Files of passes/ that hold no pass.
WITHOUT_A_PASS = {"__init__", "base", "pipeline", "pruning"}


def passes() -> set[str]:
    """The names of the passes that passes/ holds, by its files."""
    stems = {path.stem for path in (ROOT / "passes").glob("*.py")} - WITHOUT_A_PASS
    return {stem.replace("_", "-") for stem in stems}


def told(changes: list[Change]) -> str:
    """The changes, a line each."""
    return "".join(f"{one.node}: {one.what} [{one.nbytes_saved:+} bytes]\n" for one in changes)


@pytest.mark.parametrize("name", EXAMPLES)
def test_graph_in_graph_out(name: str, golden: Callable[[str, str], None]) -> None:
    example = EXAMPLES[name]
    program = example.program()
    step = example.step(program)
    assert step.name == name
    before = text(program)
    changes = step.run(program)
    verify(program)
    assert changes
    old, new = numbered(before, text(program))
    stem = name.replace("-", "_")
    golden(f"passes/{stem}.txt", f"{old}\n-- {name} --\n{told(changes)}\n{new}")


@pytest.mark.parametrize("name", [name for name, one in EXAMPLES.items() if one.settles])
def test_a_second_run_changes_nothing(name: str) -> None:
    program = EXAMPLES[name].program()
    step = EXAMPLES[name].step(program)
    step.run(program)
    after = text(program)
    assert step.run(program) == []
    assert text(program) == after


def test_every_pass_has_its_golden_text_and_every_golden_text_a_pass() -> None:
    assert set(EXAMPLES) == passes()
    found = {
        path.stem.replace("_", "-") for path in (ROOT / "tests" / "golden" / "passes").glob("*.txt")
    }
    assert found == passes()


def test_exact_passes_settle() -> None:
    for name, example in EXAMPLES.items():
        step = example.step(example.program())
        assert example.settles or not step.exact, f"{name} is exact and would never come to an end"


def test_digests_become_numbers_in_order() -> None:
    assert numbered("%w #0123abcd", "%v #deadbeef %w #0123abcd") == ["%w #1", "%v #2 %w #1"]
