"""The rules of the house, read off the source: who imports whom, names and lengths of files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("compiler", "passes", "runtime")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
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

# The column of imports, from the bottom up: what stands on one line may import that line and those
# above it here, never one below. Every folder and every flat file has its place; `part` fails for
# one that has none.
COLUMN: tuple[tuple[str, ...], ...] = (
    ("runtime",),
    ("repsimc", "compiler.errors"),
    ("compiler.graph", "compiler.units", "compiler.naming", "compiler.output_folders"),
    ("compiler.frontends", "compiler.structure", "compiler.frames", "compiler.progress"),
    ("compiler.execution", "compiler.options"),
    ("compiler.fitting",),
    ("passes",),
    ("compiler.actions", "compiler.case"),
    ("compiler.planning",),
    ("compiler.reports",),
    ("compiler.similarity", "compiler.bundle"),
    ("compiler.driver",),
    ("compiler.depth",),
    ("compiler.cli",),
)
LEVELS = {entry: level for level, line in enumerate(COLUMN) for entry in line}
# Still to be turned round.
UPWARDS = {
    ("compiler.actions", "compiler.planning"),
    ("compiler.execution", "compiler.planning"),
    ("passes", "compiler.planning"),
    ("passes", "compiler.actions"),
}


def name(path: Path) -> str:
    """'compiler.graph.program' of compiler/graph/program.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def part(module: str) -> str:
    """The longest entry of LEVELS that holds a module, or else its top folder."""
    found = [entry for entry in LEVELS if module == entry or module.startswith(f"{entry}.")]
    return max(found, key=len) if found else module.split(".")[0]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every imported module with its line; our own as 'compiler.graph.program', with no prefix."""
    package = name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                yield node.module or "", node.lineno
                continue
            base = ["repsimc", *package][: len(package) + 2 - node.level]
            stem = ".".join([*base, *((node.module or "").split(".") if node.module else [])])
            for alias in node.names:
                target = f"{stem}.{alias.name}"
                is_module = (ROOT / Path(*target.split(".")[1:])).with_suffix(".py").exists()
                yield ("." + (target if is_module else stem).removeprefix("repsimc.")), node.lineno


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_packages_import_each_other_relatively(path: Path) -> None:
    absolute = [line for module, line in imports(path) if module.split(".")[0] == "repsimc"]
    assert not absolute, f"{named(path)}: absolute repsimc import in lines {absolute}"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_imports_point_downwards(path: Path) -> None:
    own = part(name(path))
    for module, line in imports(path):
        if not module.startswith("."):
            continue
        target = part(module[1:])
        where = f"{named(path)}:{line} imports {module[1:]}"
        if own == "runtime":
            assert target == "runtime", f"{where}: the runtime imports only itself"
        elif target != "runtime" and (own, target) not in UPWARDS:
            assert LEVELS[target] <= LEVELS[own], f"{where}, which comes later"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_what_stands_below_the_passes_imports_none(path: Path) -> None:
    if LEVELS.get(part(name(path)), 0) >= LEVELS["passes"]:
        return
    assert not [line for module, line in imports(path) if module.startswith(".passes")]


@pytest.mark.parametrize("path", sorted((ROOT / "runtime").rglob("*.py")), ids=named)
def test_runtime_needs_neither_onnx_nor_torch(path: Path) -> None:
    heavy = {"onnx", "onnx_graphsurgeon", "torch", "networkx", "scipy", "typer", "rich"}
    found = [module for module, _ in imports(path) if module.split(".")[0] in heavy]
    assert not found, f"{named(path)} imports {found}"


def test_imports_reads_relative_imports() -> None:
    # The tests above can fail only if imports() sees what a file imports.
    driver = dict(imports(ROOT / "compiler" / "errors.py"))
    assert ".runtime.errors" in driver
    assert part("compiler.graph.program") == "compiler.graph"
    assert part("compiler.driver") == "compiler.driver"


@pytest.mark.parametrize(
    "path", sorted(p for k in PACKAGES for p in (ROOT / k).rglob("__init__.py")), ids=named
)
def test_init_files_hold_a_docstring_only(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    assert len(body) == 1, f"{named(path)} holds more than its docstring"
    assert isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)


@pytest.mark.parametrize("path", PYTHON, ids=named)
def test_files_are_short_and_postpone_annotations(path: Path) -> None:
    text = path.read_text()
    count = len(text.splitlines())
    # Tests are read one by one, so their files may be longer.
    most = 700 if path.is_relative_to(ROOT / "tests") else 450
    assert count <= most, f"{named(path)} has {count} lines; split it by what it does"
    if path.name != "__init__.py":
        assert "from __future__ import annotations\n" in text


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


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_nothing_names_the_machine_it_was_written_on(path: Path) -> None:
    # Put together here, so that this file may hold the test.
    places = [f"/{word}/" for word in ("work", "root", "home")]
    places += [f"/tmp/{'rs'}", f"/opt/{'wheels'}", f"{'py'}pi.", f"files.{'pythonhosted'}"]
    text = path.read_text()
    assert not [place for place in places if place in text], named(path)
