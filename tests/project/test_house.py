"""Every rule of the house can fail: small false houses, each with one thing that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.project.house import (
    FILES,
    FLAT_FILES,
    LINES,
    RULES,
    unexpected,
    violations_of_rule_2,
    violations_of_rule_5,
)

# A house that keeps all rules: a room each for the graph, the actions and the planning, a pass.
COLUMN = (
    ("runtime",),
    ("compiler.errors",),
    ("compiler.graph",),
    ("passes",),
    ("compiler.actions",),
    ("compiler.planning",),
)
GOOD: Mapping[str, str] = {
    "runtime/session.py": "class Session: ...\n",
    "compiler/errors.py": "from ..runtime.session import Session\n",
    "compiler/graph/program.py": "def saved(program): return program.metadata\n",
    "compiler/actions/fold.py": "class Fold:\n    kind: ClassVar[str] = 'fold'\n",
    "compiler/planning/bench.py": (
        "from ..actions.fold import Fold\n"
        "class Bench:\n"
        "    def note(self, site):\n"
        "        self.sites = [site]\n"
        "        trial, count = Trial(), 1\n"
        "        trial.loss = 1\n"
    ),
    "passes/fold.py": (
        "from ..compiler.graph.program import Program\n"
        "def run(program):\n"
        "    program.metadata['node'] = {}\n"
        "    program.metadata.setdefault('node', {})['key'] = 'fold'\n"
        "    program.metadata.pop('node')\n"
    ),
    "tests/runtime/test_session.py": "",
    "tests/graph/test_program.py": "",
    "tests/actions/test_fold.py": "",
    "tests/planning/test_bench.py": "",
    "tests/passes/test_fold.py": "",
    "tests/test_errors.py": "",
    "tests/end_to_end/test_anything.py": "",
    "docs/architecture.md": "errors, graph/, actions/, planning/, passes/ and runtime/\n",
}


def built(root: Path, changed: Mapping[str, str]) -> Path:
    """The good house with some files more, or others in their place."""
    for name, content in {**GOOD, **changed}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root


def violations(number: int, root: Path) -> list[str]:
    """What a rule has against a false house, by that house's column and without topics."""
    if number == 2:
        return violations_of_rule_2(root, COLUMN)
    return violations_of_rule_5(root, frozenset()) if number == 5 else RULES[number](root)


class Flaw(NamedTuple):
    """What is changed in the good house, and what a rule says of it."""

    rule: int
    changed: Mapping[str, str]
    said: str


PLANNING = "compiler/planning/search.py"
FALSE = {
    "isinstance": Flaw(
        1,
        {PLANNING: "def f(one): return isinstance(one, int | FoldAction)\n"},
        f"{PLANNING} asks whether something is a FoldAction",
    ),
    "isinstance of a kind by its fields": Flaw(
        1,
        {PLANNING: "def f(one): return isinstance(one, (fold.Fold, int))\n"},
        f"{PLANNING} asks whether something is a Fold",
    ),
    "type": Flaw(
        1,
        {PLANNING: "def f(one): return type(one) is Fold\n"},
        f"{PLANNING} asks whether something is a Fold",
    ),
    "match": Flaw(
        1,
        {PLANNING: "def f(one):\n    match one:\n        case Fold(): return 1\n"},
        f"{PLANNING} asks whether something is a Fold",
    ),
    "a pass takes an action": Flaw(
        1,
        {"passes/fold.py": "from ..compiler.actions.fold import Fold\n"},
        "passes/fold.py imports compiler.actions.fold: a pass takes plain fields",
    ),
    "upwards": Flaw(
        2,
        {"compiler/graph/program.py": "from ..planning.bench import Bench\n"},
        "compiler/graph/program.py imports compiler.planning.bench, which comes later",
    ),
    "upwards, in a function": Flaw(
        2,
        {"compiler/graph/program.py": "def f():\n    from .. import planning\n"},
        "compiler/graph/program.py imports compiler.planning, which comes later",
    ),
    "an import of what has no place": Flaw(
        2,
        {"passes/fold.py": "from ..compiler import Program\n"},
        "passes/fold.py imports compiler, which has no place in the column",
    ),
    "the runtime alone": Flaw(
        2,
        {"runtime/session.py": "from ..compiler.errors import Problem\n"},
        "runtime/session.py imports compiler.errors: the runtime imports only itself",
    ),
    "a folder without a place": Flaw(
        2, {"compiler/attic/box.py": ""}, "compiler.attic has no place in the column"
    ),
    "a flat file without a place": Flaw(
        2, {"compiler/attic.py": ""}, "compiler.attic has no place in the column"
    ),
    "flat files": Flaw(
        2,
        {f"compiler/flat{i}.py": "" for i in range(FLAT_FILES)},
        f"compiler/ holds {FLAT_FILES + 1} flat files",
    ),
    "files of a folder": Flaw(
        2,
        {f"compiler/graph/part{i}.py": "" for i in range(FILES)},
        f"compiler/graph/ holds {FILES + 1} files",
    ),
    "lines of a file": Flaw(
        2, {PLANNING: "\n" * (LINES + 1)}, f"{PLANNING} has {LINES + 1} lines"
    ),
    "strings read": Flaw(
        3,
        {"passes/fold.py": "def run(program): return program.metadata.get('node')\n"},
        "passes/fold.py reads program.metadata",
    ),
    "docs read": Flaw(
        3,
        {PLANNING: "def f(program): return program.docs['node']\n"},
        f"{PLANNING} reads program.docs",
    ),
    "a parameter's field": Flaw(
        3, {PLANNING: "def f(bench): bench.free = []\n"}, f"{PLANNING} sets bench.free"
    ),
    "a part's field": Flaw(
        3,
        {PLANNING: "class S:\n    def f(self): self.bench.free, x = [], 1\n"},
        f"{PLANNING} sets self.bench.free",
    ),
    "a given object's field": Flaw(
        3,
        {PLANNING: "def f(benches):\n    one = benches.pop()\n    one.count += 1\n"},
        f"{PLANNING} sets one.count",
    ),
    "two classes": Flaw(
        4,
        {PLANNING: "class Bench: ...\n"},
        "class Bench is in compiler/planning/bench.py and compiler/planning/search.py",
    ),
    "two files": Flaw(
        4,
        {"compiler/graph/bench.py": ""},
        "compiler/graph/bench.py and compiler/planning/bench.py are called alike",
    ),
    "a room without tests": Flaw(
        5, {"compiler/attic/box.py": ""}, "attic has no tests"
    ),
    "a test of nothing": Flaw(
        5,
        {"tests/graph/test_nothing.py": ""},
        "tests/graph/test_nothing.py goes with no file of compiler/graph/",
    ),
    "a test of no room": Flaw(
        5, {"tests/attic/test_box.py": ""}, "tests/attic/test_box.py is in no room of the house"
    ),
    "a flat test of nothing": Flaw(
        5, {"tests/test_nothing.py": ""}, "tests/test_nothing.py goes with no file of compiler/"
    ),
    "a room without its line": Flaw(
        5,
        {"docs/architecture.md": "errors, graph/, actions/, planning/ and passes/\n"},
        "docs/architecture.md does not name runtime/",
    ),
    "a flat file without its line": Flaw(
        5,
        {"docs/architecture.md": "graph/, actions/, planning/, passes/ and runtime/\n"},
        "docs/architecture.md does not name errors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("number", RULES)
def test_a_good_house_keeps_every_rule(number: int, tmp_path: Path) -> None:
    assert violations(number, built(tmp_path, {})) == []


@pytest.mark.parametrize("name", FALSE)
def test_a_false_house_is_seen(name: str, tmp_path: Path) -> None:
    case = FALSE[name]
    assert case.said in violations(case.rule, built(tmp_path, case.changed))


def test_every_rule_has_a_false_house() -> None:
    assert {case.rule for case in FALSE.values()} == set(RULES)


def test_an_entry_of_the_column_without_a_room_is_seen(tmp_path: Path) -> None:
    column = (*COLUMN, ("compiler.attic",))
    found = violations_of_rule_2(built(tmp_path, {}), column)
    assert found == ["compiler.attic is listed and not there"]


def test_a_topic_without_a_test_is_seen(tmp_path: Path) -> None:
    found = violations_of_rule_5(built(tmp_path, {}), frozenset({"graph/test_gone"}))
    assert found == ["graph/test_gone is listed and not there"]


def test_what_is_pending_has_to_be_needed() -> None:
    assert unexpected(["a breaks", "b breaks"], ["a *"]) == ["b breaks"]
    assert unexpected(["a breaks"], ["a *", "c *"]) == ["no longer pending: c *"]
