from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from repsimc.compiler.cli.config import compile_options, load_config, preprocessings
from repsimc.compiler.cli.console import Format
from repsimc.compiler.cli.options import SETTINGS, CommandSettings
from repsimc.compiler.errors import UsageError
from repsimc.compiler.units import Budget, MacsLimit

FULL = """
models = ["a.onnx", "nets/b.onnx"]
budget = "60%"
calib = { a = "a.npz", b = "images" }
output = "out"
min-fidelity = 0.95
confidence = 0.9
strict = true
min-stressed = 0.8
exact-only = false
plan = "plan.json"
only = "share"
without = ["fold", "tie"]
max-macs = "120M"
max-latency = "8ms"
time-limit = "10m"
resume = true
layout = "trunk-heads"
precision = "fp16"
target = "any"
dry-run = true
seed = 3
format = "json"
same-frames = true
tie-inputs = false
tie = ["a.x=b.y"]
frame-axis = ["a.state=1"]
overwrite = true
parse-memory = "4GB"
parse-seconds = "60s"
frames = 256
held-out = 0.5
name = { eye = "nets/b.onnx" }
[preprocess]
size = [32, 48]
scale = 0.00392156862745098
[preprocess.a]
mean = [0.5, 0.5, 0.5]
scale = 1.0
[preprocess."a/x"]
resize = "crop"
[fidelity]
"a/y" = 0.9
[metrics]
a = "top1"
[size]
"a.x" = [1, 3, 32, 48]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "repsimc.toml"
    path.write_text(text)
    return path


def test_without_a_file_there_are_no_settings(tmp_path: Path) -> None:
    assert load_config(None, tmp_path) == CommandSettings()


def test_every_key_is_read_and_typed(tmp_path: Path) -> None:
    write(tmp_path, FULL)
    assert {*tomllib.loads(FULL), "allow-script"} == {each.key for each in SETTINGS.values()}
    assert load_config(None, tmp_path) == CommandSettings(
        models=(tmp_path / "a.onnx", tmp_path / "nets/b.onnx"),
        budget=Budget(share=0.6),
        calib={"a": tmp_path / "a.npz", "b": tmp_path / "images"},
        output=tmp_path / "out",
        min_fidelity=0.95,
        confidence=0.9,
        strict=True,
        min_stressed=0.8,
        exact_only=False,
        plan=tmp_path / "plan.json",
        only="share",
        without=("fold", "tie"),
        max_macs=MacsLimit(count=120_000_000),
        max_latency=0.008,
        time_limit=600.0,
        resume=True,
        layout="trunk-heads",
        precision="fp16",
        target="any",
        dry_run=True,
        seed=3,
        format=Format.json,
        same_frames=True,
        tie_inputs=False,
        tie=("a.x=b.y",),
        size={"a.x": (1, 3, 32, 48)},
        frame_axis=("a.state=1",),
        overwrite=True,
        frames=256,
        held_out=0.5,
        name={"eye": tmp_path / "nets/b.onnx"},
        preprocess={
            "": {"size": (32, 48), "scale": 0.00392156862745098},
            "a": {"mean": (0.5, 0.5, 0.5), "scale": 1.0},
            "a/x": {"resize": "crop"},
        },
        output_fidelity={"a/y": 0.9},
        metrics={"a": "top1"},
        parse_memory=4 * 10**9,
        parse_seconds=60.0,
    )


def test_what_the_command_line_says_wins(tmp_path: Path) -> None:
    write(tmp_path, FULL)
    said = {"seed": 0, "tie_inputs": True, "budget": "1GB", "models": [Path("c.onnx")]}
    unsaid = {"frames": None, "without": [], "name": None}
    assert load_config(None, tmp_path, said | unsaid) == replace(
        load_config(None, tmp_path),
        seed=0,
        tie_inputs=True,
        budget=Budget(10**9),
        models=(Path("c.onnx"),),
    )


def test_settings_become_options(tmp_path: Path) -> None:
    settings = load_config(write(tmp_path, FULL), Path("elsewhere"))
    settings = replace(settings, size={})  # frames tell sizes
    options = compile_options(settings)
    assert options.models == (("a", tmp_path / "a.onnx"), ("eye", tmp_path / "nets/b.onnx"))
    assert options.budget == Budget(share=0.6)
    assert (options.seed, options.frames, options.held_out) == (3, 256, 0.5)
    assert (options.min_fidelity, options.same_frames, options.tie_inputs) == (0.95, True, False)
    assert (options.dry_run, options.overwrite, options.exact_only) == (True, True, False)
    assert (options.output, options.plan) == (tmp_path / "out", tmp_path / "plan.json")
    assert options.output_fidelity == {"a/y": 0.9}
    assert options.metrics == {"a": "top1"}
    assert options.calibration == {"a": tmp_path / "a.npz", "b": tmp_path / "images"}
    assert (options.only, options.without) == ("share", ("fold", "tie"))
    assert (options.max_macs, options.max_latency) == (MacsLimit(count=120_000_000), 0.008)
    assert (options.time_limit, options.resume) == (600.0, True)
    assert (options.layout, options.precision) == ("trunk-heads", "fp16")
    told = replace(settings, calib=("f.npz",))
    assert compile_options(told).calibration == Path("f.npz")


def test_a_table_for_one_model_goes_on_top_of_the_one_for_all(tmp_path: Path) -> None:
    found = preprocessings(load_config(write(tmp_path, FULL), tmp_path), ["a", "b"])
    assert list(found) == ["", "a", "a/x"]
    assert (found[""].size, found[""].mean, found[""].scale) == ((32, 48), (0.0,), 1 / 255)
    assert (found["a"].size, found["a"].mean, found["a"].scale) == ((32, 48), (0.5,) * 3, 1.0)
    assert (found["a/x"].mean, found["a/x"].resize) == ((0.5,) * 3, "crop")


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ('bugdet = "2GB"', "unknown key 'bugdet'", "did you mean 'budget'?"),
        ("min_fidelity = 1.0", "unknown key 'min_fidelity'", "did you mean 'min-fidelity'?"),
        ("zzz = 1", "unknown key 'zzz'", "known keys are models"),
        ("seed = true", "'seed' is True, not a whole number", ""),
        ("seed = 1.5", "'seed' is 1.5, not a whole number", ""),
        ('min-fidelity = "high"', "not a number", ""),
        ('exact-only = "no"', "not true or false", ""),
        ('models = "a.onnx"', "not a list of paths", ""),
        ('without = "fold"', "not a list of names", ""),
        ("without = [1]", "'without' is 1, not a text", ""),
        ("max-macs = 1.5", "not an amount such as '120M' or '60%'", ""),
        ("max-latency = 8", "'max-latency' is 8, not a time such as '8ms'", ""),
        ("time-limit = 1.5", "'time-limit' is 1.5, not a time such as '10m'", ""),
        ("time-limit = 0", "'0' is not a time to wait", "write it as 90s"),
        ("resume = 1", "'resume' is 1, not true or false", ""),
        ("models = [1]", "'models' is 1, not a path", ""),
        ("calib = { a = 1 }", "entry 'a' is 1, not a path", ""),
        ('budget = "lots"', "'lots' is not an amount of memory", "write it as"),
        ('format = "xml"', "'format' is 'xml'", "use 'table'"),
        ("preprocess = 3", "not a table", ""),
        ('[fidelity]\na = "high"', "entry 'a' is 'high', not a number", ""),
        ("allow-script = true", "can't be set in a file", "--allow-script"),
        ("budget = ", "is not TOML", ""),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, text: str, said: str, hint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as error:
        load_config(path, tmp_path)
    assert said in error.value.message
    assert hint in error.value.hint


@pytest.mark.parametrize(
    "text",
    [
        *("min-fidelity = 1e999", "min-fidelity = nan", "held-out = inf", f"seed = {10**300}"),
        *(f"seed = {'9' * 5000}", f"min-fidelity = {10**400}"),
        *("[fidelity]\na = nan", "[fidelity]\na = 1e999", f"frames = {2**63}"),
        *("models = 3", f"models = ['{'x' * 10**5}', 3]", f"budget = [{'1,' * 10**5}]"),
        *('output = "\\ud800"', "a = " + "[" * 10**5, "[preprocess]\nmean = [1e999]"),
    ],
)
def test_numbers_and_texts_are_bounded(tmp_path: Path, text: str) -> None:
    path = tmp_path / "repsimc.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        settings = load_config(path, tmp_path)
        compile_options(replace(settings, models=(tmp_path / "a.onnx",)))
    assert len(str(caught.value)) < 1000


def test_a_time_limit_may_be_a_number_of_seconds(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "time-limit = 90"), tmp_path).time_limit == 90


def test_a_budget_may_be_a_number_of_bytes(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "budget = 1000"), tmp_path).budget == Budget(1000)


def test_a_file_that_is_asked_for_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        load_config(tmp_path / "other.toml", tmp_path)


def test_a_file_that_is_no_text_or_too_large(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not TOML"):
        load_config(None, tmp_path)
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(UsageError, match="too large"):
        load_config(None, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[preprocess]\ncolor = 'RGB'", r"\[preprocess\] has an unknown key 'color'"),
        ("[preprocess.c]\nsize = [1, 1]", r"\[preprocess.c\] is for no model"),
        ("[preprocess.a]\nsize = [0, 1]", "size"),
    ],
)
def test_preprocessing_that_makes_no_sense(tmp_path: Path, text: str, said: str) -> None:
    settings = load_config(write(tmp_path, text), tmp_path)
    with pytest.raises(UsageError, match=said):
        preprocessings(settings, ["a", "b"])
