"""The rules of the house, read off the source: who imports whom, names and lengths of files.

That every one of the five can fail is in test_house.py.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.project.house import (
    LINES,
    PACKAGES,
    RULES,
    entry_of,
    imports,
    sources,
    unexpected,
)

ROOT = Path(__file__).parents[2]
SOURCES = sources(ROOT)
PYTHON = sorted(
    [
        *SOURCES,
        *(
            p
            for d in ("repsimc", "tests", "benchmarks", "examples")
            for p in ROOT.glob(f"{d}/**/*.py")
        ),
    ]
)
TEXTS = sorted(
    [
        *PYTHON,
        *(ROOT / name for name in ("Makefile", ".ci/run", "pyproject.toml", "constraints.txt")),
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/**/*.md"),
        *ROOT.glob("examples/**/*.toml"),
    ]
)

# What does not keep the rules yet, as patterns of sentences. One that is not needed any more fails.
PENDING: dict[int, frozenset[str]] = {}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_packages_import_each_other_relatively() -> None:
    absolute = [
        f"{named(path)}:{line}"
        for path in SOURCES
        for module, line in imports(ROOT, path)
        if module.split(".")[0] == "repsimc"
    ]
    assert not absolute


@pytest.mark.parametrize("number", RULES)
def test_the_house_keeps_its_rules(number: int) -> None:
    found = unexpected(RULES[number](ROOT), PENDING.get(number, ()))
    assert not found, "\n".join(found)


def test_runtime_needs_neither_onnx_nor_torch() -> None:
    heavy = {"onnx", "onnx_graphsurgeon", "torch", "networkx", "scipy", "typer", "rich"}
    found = [
        f"{named(path)} imports {module}"
        for path in sorted((ROOT / "runtime").rglob("*.py"))
        for module, _ in imports(ROOT, path)
        if module.split(".")[0] in heavy
    ]
    assert not found


def test_imports_reads_relative_imports() -> None:
    # The rules can fail only if imports() sees what a file imports.
    errors = dict(imports(ROOT, ROOT / "compiler" / "errors.py"))
    assert ".runtime.errors" in errors
    assert entry_of("compiler.graph.program") == "compiler.graph"
    assert entry_of("compiler.driver") == "compiler.driver"


def test_init_files_hold_a_docstring_only() -> None:
    files = sorted(p for k in PACKAGES for p in (ROOT / k).rglob("__init__.py"))
    assert files
    for path in files:
        body = ast.parse(path.read_text()).body
        assert len(body) == 1, f"{named(path)} holds more than its docstring"
        assert isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)


def test_files_are_short_and_postpone_annotations() -> None:
    for path in PYTHON:
        text = path.read_text()
        count = len(text.splitlines())
        # Tests are read one by one, so their files may be longer.
        most = 700 if path.is_relative_to(ROOT / "tests") else LINES
        assert count <= most, f"{named(path)} has {count} lines; split it by what it does"
        if path.name != "__init__.py":
            assert "from __future__ import annotations\n" in text, named(path)


def test_no_catch_all_names() -> None:
    words = re.compile(r"(^|_)(utils?|helpers?|managers?|handlers?|processors?|misc|common)(_|$)")
    bad = [named(path) for path in PYTHON if words.search(path.stem)]
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", node.name).lower()
                if words.search(snake):
                    bad.append(f"{named(path)}: {node.name}")
    assert not bad


def test_a_pass_is_called_like_its_file() -> None:
    passes = 0
    for path in sorted((ROOT / "passes").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ClassDef) or path.stem in ("base", "pipeline"):
                continue
            methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            if "run" not in methods:
                continue
            passes += 1
            assert node.name == "".join(word.title() for word in path.stem.split("_"))
            assert f'"{path.stem.replace("_", "-")}"' in ast.unparse(node).replace("'", '"')
    assert passes, "no pass found"


def test_nothing_names_the_machine_it_was_written_on() -> None:
    # Put together here, so that this file may hold the test.
    places = [f"/{word}/" for word in ("work", "root", "home")]
    places += [f"/tmp/{'rs'}", f"/opt/{'wheels'}", f"{'py'}pi.", f"files.{'pythonhosted'}"]
    named_there = [
        f"{named(path)}: {place}" for path in TEXTS for place in places if place in path.read_text()
    ]
    assert not named_there
