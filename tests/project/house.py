"""The five rules of the house, as functions of its root: each gives a sentence per violation."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

PACKAGES = ("compiler", "passes", "runtime")

# The column of imports, from the bottom up: what stands on one line may import that line and those
# above it here, never one below. Every folder of compiler/ and every flat file has its place.
COLUMN: tuple[tuple[str, ...], ...] = (
    ("runtime",),
    ("repsimc", "compiler.errors"),
    ("compiler.graph", "compiler.units", "compiler.naming", "compiler.output_folders"),
    ("compiler.isolation",),
    ("compiler.frontends", "compiler.structure", "compiler.frames", "compiler.progress"),
    ("compiler.execution", "compiler.options"),
    ("compiler.fitting",),
    ("passes",),
    ("compiler.actions", "compiler.case"),
    ("compiler.planning",),
    ("compiler.reports",),
    ("compiler.similarity", "compiler.bundle"),
    ("compiler.gate",),
    ("compiler.driver",),
    ("compiler.explore",),
    ("compiler.depth",),
    ("compiler.cli",),
)
FLAT_FILES, FILES, LINES = 8, 20, 450
# Folders with a file for each entry of a list, which may grow: a rewrite each, a kind each.
LISTS = frozenset({"passes", "compiler/actions"})

# Who may read the strings that are saved in a model (rule 3), and what for.
STRINGS: Mapping[str, str] = {
    "compiler/graph/*": "keeps, copies, checks and writes them",
    "compiler/frontends/*": "takes them over from the model's file",
    "compiler/reports/summary.py": "tells whose nodes a model shares, in words",
    "passes/pipeline.py": "sees that a pass reports every change, of strings too",
    "passes/merge_linear.py": "what two nodes said of themselves, their one node goes on saying",
}
# Folders in which nothing is handed over by setting a field of another object.
CLOSED = ("compiler/actions", "compiler/planning")

# Stems of files that their folder completes (rule 4).
GENERIC = frozenset(
    {"build", "engines", "errors", "feeds", "files", "options", "outputs", "report"}
)  # fmt: skip

# Tests that go with no one file of their room (rule 5), and folders of tests that are no rooms.
TOPICS = frozenset(
    {
        "actions/test_golden", "passes/test_golden",
        "runtime/tensorrt/test_without_gpu",
        "similarity/test_benchmark", "similarity/test_oracles",
        "test_programs",
    }
)  # fmt: skip
NO_ROOMS = frozenset({"end_to_end", "golden", "nets", "project"})


def unexpected(violations: Sequence[str], pending: Iterable[str]) -> list[str]:
    """The violations that no pending pattern covers, and the patterns that cover none any more."""
    patterns = sorted(pending)
    found = [one for one in violations if not any(fnmatchcase(one, p) for p in patterns)]
    stale = [p for p in patterns if not any(fnmatchcase(one, p) for one in violations)]
    return [*found, *(f"no longer pending: {pattern}" for pattern in stale)]


# -- reading the source --------------------------------------------------------------------


def sources(root: Path) -> list[Path]:
    """Every Python file of compiler/, passes/ and runtime/, in order."""
    return sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))


def named(root: Path, path: Path) -> str:
    """'compiler/graph/program.py'."""
    return path.relative_to(root).as_posix()


def module_of(root: Path, path: Path) -> str:
    """'compiler.graph.program' of compiler/graph/program.py."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def entry_of(module: str, column: Sequence[Sequence[str]] = COLUMN) -> str | None:
    """The longest entry of the column that holds a module; None where none does."""
    entries = [entry for line in column for entry in line]
    found = [entry for entry in entries if module == entry or module.startswith(f"{entry}.")]
    return max(found, key=len) if found else None


def imports(root: Path, path: Path) -> Iterator[tuple[str, int]]:
    """Every imported module with its line; our own as '.compiler.graph.program', with a dot."""
    package = module_of(root, path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree_of(path)):
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
                place = root / Path(*target.split(".")[1:])
                is_module = place.is_dir() or place.with_suffix(".py").exists()
                yield ("." + (target if is_module else stem).removeprefix("repsimc.")), node.lineno


@cache
def tree_of(path: Path) -> ast.Module:
    """The file, parsed."""
    return ast.parse(path.read_text(encoding="utf-8"))


def _rooms(root: Path) -> list[tuple[str, Path]]:
    """The folders with source, runtime/tensorrt too: ('graph', compiler/graph), ('passes', ...)."""
    folders = sorted({path.parent for path in sources(root)} - {root / "compiler"})
    return [(named(root, folder).removeprefix("compiler/"), folder) for folder in folders]


def _flat_files(root: Path) -> list[str]:
    return sorted(p.stem for p in (root / "compiler").glob("*.py") if p.stem != "__init__")


# -- the rules -----------------------------------------------------------------------------


def violations_of_rule_1(root: Path) -> list[str]:
    """A kind of action is one file: nobody else asks what kind an action is.

    Passes take plain fields and import nothing of actions/ and planning/.
    """
    found: list[str] = []
    kinds = _kinds(root)
    for path in sources(root):
        where = named(root, path)
        if not where.startswith("compiler/actions/"):
            found += [f"{where} asks whether something is a {kind}" for kind in _asked(path, kinds)]
        if where.startswith("passes/"):
            found += [
                f"{where} imports {module[1:]}: a pass takes plain fields"
                for module, _ in imports(root, path)
                if module.startswith((".compiler.actions", ".compiler.planning"))
            ]
    return list(dict.fromkeys(found))


def _kinds(root: Path) -> set[str]:
    """The classes of actions/ that have a `kind`."""
    return {
        node.name
        for path in (root / "compiler" / "actions").glob("*.py")
        for node in tree_of(path).body
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and ast.unparse(item.target) == "kind"
    }


def _asked(path: Path, kinds: set[str]) -> Iterator[str]:
    """The kinds of action that a file tells apart: by isinstance, issubclass, type() or match."""
    for node in ast.walk(tree_of(path)):
        asked: list[ast.expr] = []
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            asked = node.args[1:]
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        elif isinstance(node, ast.Compare) and ast.unparse(node.left).startswith("type("):
            asked = node.comparators
        for part in [inner for one in asked for inner in ast.walk(one)]:
            if isinstance(part, ast.Name | ast.Attribute):
                name = part.id if isinstance(part, ast.Name) else part.attr
                if name in kinds or name.endswith("Action"):
                    yield name


def violations_of_rule_2(root: Path, column: Sequence[Sequence[str]] = COLUMN) -> list[str]:
    """Imports go down one column that lists every room; folders and files are of a size to read."""
    level = {entry: number for number, line in enumerate(column) for entry in line}
    found: list[str] = []
    rooms = [
        *(f"compiler.{stem}" for stem in _flat_files(root)),
        *(folder.relative_to(root).as_posix().replace("/", ".") for _, folder in _rooms(root)),
    ]
    found += [f"{room} has no place in the column" for room in rooms if not entry_of(room, column)]
    ours = [entry for entry in level if entry.split(".")[0] in PACKAGES]
    found += [f"{entry} is listed and not there" for entry in ours if entry not in rooms]
    for path in sources(root):
        where, own = named(root, path), entry_of(module_of(root, path), column)
        for module, _ in imports(root, path):
            if own is None or not module.startswith("."):
                continue
            target = entry_of(module[1:], column)
            if target is None:
                found.append(f"{where} imports {module[1:]}, which has no place in the column")
                continue
            if level[target] > level[own]:
                found.append(f"{where} imports {module[1:]}, which comes later")
            if own == "runtime" and target != "runtime":
                found.append(f"{where} imports {module[1:]}: the runtime imports only itself")
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LINES:
            found.append(f"{where} has {lines} lines")
    flat = len(_flat_files(root))
    if flat > FLAT_FILES:
        found.append(f"compiler/ holds {flat} flat files")
    for _, folder in _rooms(root):
        where = named(root, folder)
        count = sum(path.stem != "__init__" for path in folder.glob("*.py"))
        if count > FILES and where not in LISTS:
            found.append(f"{where}/ holds {count} files")
    return list(dict.fromkeys(found))


def violations_of_rule_3(root: Path) -> list[str]:
    """What decides a result is an argument.

    Strings that are saved in a model (metadata, docs) are written, never read; nothing is handed
    over by setting a field of another object.
    """
    found: list[str] = []
    for path in sources(root):
        where = named(root, path)
        if not any(fnmatchcase(where, pattern) for pattern in STRINGS):
            found += [f"{where} reads {what}" for what in _strings_read(path)]
        if where.startswith(CLOSED):
            found += [f"{where} sets {what}" for what in _fields_set(path)]
    return list(dict.fromkeys(found))


def _strings_read(path: Path) -> Iterator[str]:
    """The metadata and docs that a file looks at, other than to write an entry or take one out."""
    tree = tree_of(path)
    parent = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr not in ("metadata", "docs"):
            continue
        if ast.unparse(node.value) == "importlib" or isinstance(node.ctx, ast.Store):
            continue
        use = parent[node]  # program.metadata[...], program.metadata.setdefault
        if isinstance(use, ast.Subscript) and not isinstance(use.ctx, ast.Load):
            continue
        if isinstance(use, ast.Attribute):
            call = parent[use]  # program.metadata.setdefault(name, {})
            after = parent.get(call)
            dropped = isinstance(after, ast.Expr) and use.attr in ("pop", "update")
            filled = isinstance(after, ast.Subscript) and not isinstance(after.ctx, ast.Load)
            if dropped or (use.attr == "setdefault" and filled):
                continue
        yield ast.unparse(node)


def _fields_set(path: Path) -> Iterator[str]:
    """The fields of other objects that functions of a file set: 'bench.free', 'self.bench.free'."""
    for function in ast.walk(tree_of(path)):
        if not isinstance(function, ast.FunctionDef):
            continue
        made = _made_here(function)
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AugAssign | ast.AnnAssign):
                targets = [node.target]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
                targets = [ast.Attribute(node.args[0], "...", ast.Store())]
            else:
                continue
            for target in [part for one in targets for part in _parts(one)]:
                if isinstance(target, ast.Attribute):
                    owner = ast.unparse(target.value)
                    if owner not in ("self", "cls") and owner not in made:
                        yield ast.unparse(target)


def _parts(target: ast.expr) -> list[ast.expr]:
    """What stands in a tuple or list, or else the expression itself."""
    if isinstance(target, ast.Tuple | ast.List):
        return [part for one in target.elts for part in _parts(one)]
    return [target]


def _made_here(function: ast.FunctionDef) -> set[str]:
    """The local names that a function gives to objects it makes: by a constructor or a copy."""
    made: set[str] = set()
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign):
            continue
        values = _parts(node.value)
        for target in node.targets:
            for one, value in zip(_parts(target), values):
                if isinstance(one, ast.Name) and isinstance(value, ast.Call):
                    maker = ast.unparse(value.func).split(".")[-1].lstrip("_")
                    if maker[:1].isupper() or maker in ("copy", "deepcopy", "replace"):
                        made.add(one.id)
    return made


def violations_of_rule_4(root: Path) -> list[str]:
    """One word, one thing: no public class twice; a stem twice only where its folder completes it.

    A kind of action may be called like the pass that carries it out.
    """
    classes: dict[str, list[str]] = {}
    stems: dict[str, list[str]] = {}
    for path in sources(root):
        if path.stem != "__init__":
            stems.setdefault(path.stem, []).append(named(root, path))
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes.setdefault(node.name, []).append(named(root, path))
    return [
        *(f"class {k} is in {' and '.join(v)}" for k, v in sorted(classes.items()) if len(v) > 1),
        *(
            f"{' and '.join(places)} are called alike"
            for stem, places in sorted(stems.items())
            if len(places) > 1 and stem not in GENERIC
            if not all(place.rpartition("/")[0] in LISTS for place in places)
        ),
    ]


def violations_of_rule_5(root: Path, topics: frozenset[str] = TOPICS) -> list[str]:
    """Tests and docs mirror the tree: a room has its tests and its line in docs/architecture.md."""
    found: list[str] = []
    tests = root / "tests"
    rooms = dict(_rooms(root))
    found += [f"{room} has no tests" for room in rooms if not any((tests / room).glob("test_*.py"))]
    seen: set[str] = set()
    for path in sorted(tests.rglob("test_*.py")):
        place = path.relative_to(tests).with_suffix("").as_posix()
        room, _, stem = place.rpartition("/")
        if room.split("/")[0] in NO_ROOMS:
            continue
        seen.add(place)
        folder = rooms.get(room, root / "compiler") if room in rooms or not room else None
        if folder is None:
            found.append(f"tests/{place}.py is in no room of the house")
        elif place not in topics and not (folder / f"{stem.removeprefix('test_')}.py").exists():
            found.append(f"tests/{place}.py goes with no file of {named(root, folder)}/")
    found += [f"{topic} is listed and not there" for topic in sorted(topics - seen)]
    architecture = root / "docs" / "architecture.md"
    page = architecture.read_text(encoding="utf-8") if architecture.exists() else ""
    for name in [*(f"{room.split('/')[-1]}/" for room in rooms), *_flat_files(root)]:
        if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", page):
            found.append(f"docs/architecture.md does not name {name}")
    return found


RULES = {
    1: violations_of_rule_1,
    2: violations_of_rule_2,
    3: violations_of_rule_3,
    4: violations_of_rule_4,
    5: violations_of_rule_5,
}
"""By number, as in CONTRIBUTING.md."""
