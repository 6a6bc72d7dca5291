"""An option is spelt once: what a field of Settings declares is all that a command is made of."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer.main

from repsimc.compiler.cli import options
from repsimc.compiler.cli.app import app
from repsimc.compiler.cli.options import SETTINGS, CommandSettings
from repsimc.compiler.options import CompileOptions, Settings
from repsimc.compiler.units import Budget

COMPILE: dict[str, Any] = {
    each.name: each
    for each in typer.main.get_command(app).commands["compile"].params  # type: ignore[attr-defined]
}
# What models' names decide, as a command is told it before they have them.
TOLD = {"models": "models", "calibration": "calib", "preprocessing": "preprocess"}


def undeclared(kind: type) -> set[str]:
    """The fields of a dataclass that no flag, key and help are declared for."""
    return {each.name for each in fields(kind) if TOLD.get(each.name, each.name) not in SETTINGS}


def test_users_can_set_every_field_of_the_options() -> None:
    assert undeclared(CompileOptions) == undeclared(CommandSettings) == set()


def test_a_field_without_a_declaration_is_found() -> None:
    @dataclass(frozen=True)
    class More(CompileOptions):
        brightness: int = 0

    assert undeclared(More) == {"brightness"}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_command_is_what_the_declaration_says(name: str) -> None:
    setting = SETTINGS[name]
    declared = get_args(get_type_hints(CommandSettings, include_extras=True)[name])[1]
    assert setting.option == declared
    if setting.option.help is None:
        assert name not in COMPILE, "set in a file only"
        return
    param = COMPILE[name]
    flags = {*param.opts, *param.secondary_opts}
    assert param.help == setting.option.help
    assert param.metavar == setting.option.metavar
    assert flags == {
        flag for each in setting.option.flags or (f"--{setting.key}",) for flag in each.split("/")
    } or (setting.option.positional and flags == {name})
    # Keys are flags: what a file may say under its key, the command line says with its flag.
    assert setting.option.positional or f"--{setting.key}" in flags


def test_keys_are_names_of_fields_but_for_one() -> None:
    other = {
        name: each.key for name, each in SETTINGS.items() if each.key != name.replace("_", "-")
    }
    assert other == {"output_fidelity": "fidelity"}


def test_compile_takes_nothing_that_is_declared_elsewhere() -> None:
    # What is of this call and not of the bundle has no place in a file.
    own = {"force", "depfile"}
    assert set(COMPILE) - set(SETTINGS) == {"config", "verbose", "quiet"} | own


@pytest.mark.parametrize("name", ["format", "layout", "same_frames", "frames"])
def test_options_of_other_commands_have_the_same_type(name: str) -> None:
    aliases = {
        get_args(each)[1].help: get_args(each)[0]
        for each in vars(options).values()
        if get_args(each) and hasattr(get_args(each)[-1], "help")
    }
    setting = SETTINGS[name]
    assert aliases[setting.option.help] == get_args(setting.parameter.annotation)[0]


@pytest.mark.parametrize(
    ("name", "words", "value"),
    [
        ("budget", "60%", Budget(share=0.6)),
        ("seed", 3, 3),
        ("without", ["a", "b"], ("a", "b")),
        ("calib", ["a=a.npz"], ("a=a.npz",)),
        ("name", ["eye=nets/a.onnx"], {"eye": Path("nets/a.onnx")}),
        ("tie_inputs", False, False),
    ],
)
def test_words_become_values(name: str, words: object, value: object) -> None:
    assert SETTINGS[name].said(words) == value


def test_help_names_the_default() -> None:
    for name, default in (("seed", 0), ("min_fidelity", Settings().min_fidelity)):
        assert f"(default: {default})" in (SETTINGS[name].option.help or "")
