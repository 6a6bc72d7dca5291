"""What the README and the other pages say: commands exist, files exist, examples run."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repsimc
from repsimc.compiler.cli.config import load_config, preprocessings
from repsimc.compiler.cli.options import SETTINGS, CommandSettings
from repsimc.compiler.errors import UsageError

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
DIGITS = ROOT / "examples" / "digits"


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(word: str) -> Iterator[tuple[str, list[str]]]:
    """(page, arguments) of every command line in the pages that calls `word`."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and Path(words[0]).name == word:
                    yield page.name, words[1:]


def cli() -> Any:
    """The command tree as typer built it."""
    import typer.main

    from repsimc.compiler.cli.app import app

    return typer.main.get_command(app)


def options(command: Any) -> set[str]:
    found = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
    return {flag for flag in found if flag.startswith("-")} | {"--help"}


REPSIMC = list(commands("repsimc"))


@pytest.mark.parametrize(("page", "words"), REPSIMC, ids=[shlex.join(w) for _, w in REPSIMC])
def test_commands_of_the_pages_exist(page: str, words: list[str]) -> None:
    tree = cli()
    name = next(word for word in words if not word.startswith("-"))
    assert name in tree.commands, f"{page}: no command {name}"
    flags = {word.split("=")[0] for word in words if word.startswith("-")}
    assert flags <= options(tree.commands[name]), f"{page}: {shlex.join(words)}"


def test_flags_in_running_text_exist() -> None:
    known = set().union(*(options(command) for command in cli().commands.values()))
    text = re.sub(r"^```.*?^```", "", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    # --minShapes and the like are TensorRT's.
    flags = set(re.findall(r"`(--[a-z][a-z-]*)(?![A-Za-z])", text))
    assert flags and flags <= known, flags - known


def test_a_made_up_flag_would_be_found() -> None:
    assert "--no-such-flag" not in options(cli().commands["compile"])
    assert {"--budget", "--calib", "-o"} <= options(cli().commands["compile"])


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    missing = [name for name in cli().commands if not re.search(rf"`?\b{name}\b", text)]
    assert not missing


def test_make_targets_of_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "check", "links", "bench", "clean"} <= targets
    asked = [words[0] for _, words in commands("make")]
    assert asked and set(asked) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_of_the_pages_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    for path in re.findall(
        r"\b(?:examples|benchmarks)/[\w./-]+\.(?:py|toml|npz)", page.read_text()
    ):
        assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_the_benchmark_table_has_its_place() -> None:
    text = (ROOT / "README.md").read_text()
    assert 0 < text.index("<!-- table:begin -->") < text.index("<!-- table:end -->")


def test_exit_codes_are_those_of_the_errors() -> None:
    from repsimc.compiler import errors

    rows = re.findall(r"^\| (\d) \| ([^|]+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    codes = {getattr(errors, name).exit_code for name in errors.__all__}
    assert {int(code) for code, _ in rows} == codes | {0}


def test_config_of_the_readme_is_read(tmp_path: Path) -> None:
    [text] = blocks(ROOT / "README.md", "toml")
    (tmp_path / "repsimc.toml").write_text(text)
    config = load_config(None, tmp_path)
    assert [path.name for path in config.models] == ["detector.onnx", "classifier.onnx"]
    steps = preprocessings(config, ["detector", "classifier"])
    assert (steps["classifier"].size, len(steps["classifier"].mean)) == ((240, 320), 3)
    assert len(steps.get("detector", steps[""]).mean) == 1


def test_config_of_the_example_is_read() -> None:
    config = load_config(DIGITS / "repsimc.toml", ROOT)
    others = {
        name for name, value in vars(CommandSettings()).items() if vars(config)[name] == value
    }
    keys = {each.key for name, each in SETTINGS.items() if name not in others}
    assert keys == set(tomllib.loads((DIGITS / "repsimc.toml").read_text()))
    assert isinstance(config.calib, Path)
    assert all(path.is_file() for path in [*config.models, config.calib])


def test_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = blocks(ROOT / "README.md", "python")
    shutil.copy(DIGITS / "digit.onnx", tmp_path / "a.onnx")
    shutil.copy(DIGITS / "parity.onnx", tmp_path / "b.onnx")
    shutil.copy(DIGITS / "frames.npz", tmp_path)
    monkeypatch.chdir(tmp_path)
    frame = np.zeros((3, 1, 8, 8), np.float32)
    names: dict[str, Any] = {"frame": frame, "frame_of_a": frame, "frame_of_b": frame}
    exec(compile(code, "README.md", "exec"), names)
    assert names["logits"].shape == (3, 10)
    assert {model: set(found) for model, found in names["outputs"].items()} == {
        "a": {"logits"},
        "b": {"logits"},
    }


def test_the_front_door_is_what_the_readme_says() -> None:
    from repsimc.compiler.options import CompileOptions

    wanted = {"models", "budget", "calibration", "output", "min_fidelity", "exact_only", "seed"}
    # compile() passes keywords that it doesn't name on to the options.
    known = {*inspect.signature(repsimc.compile).parameters, *CompileOptions.__dataclass_fields__}
    assert wanted <= known
    with pytest.raises(UsageError):
        repsimc.compile(["a.onnx"], no_such_option=1)
