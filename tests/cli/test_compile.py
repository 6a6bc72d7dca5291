from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from repsimc.compiler.bundle.compile_inputs import inputs_of
from repsimc.compiler.options import CompileOptions
from repsimc.compiler.units import Budget, MacsLimit
from tests.cli.conftest import MAP, Driver, Ran, bundle_of, save

Call = Callable[..., Ran]


def test_the_first_call_of_a_newcomer(repsimc: Call, driver: Driver) -> None:
    ran = repsimc("compile", "a.onnx", "b.onnx", "--budget", "2GB")
    assert ran.code == 0
    assert driver.options == CompileOptions(
        models=(("a", Path("a.onnx")), ("b", Path("b.onnx"))),
        budget=Budget(nbytes=2 * 10**9),
        output=Path("bundle"),
    )
    assert "resnet20 95 %" in ran.out
    assert ran.out.endswith("bundle written to bundle/\n")
    assert ran.err == "" and ran.progress.endswith(" s  working\n")


def test_every_option_reaches_the_compiler(repsimc: Call, driver: Driver) -> None:
    ran = repsimc(
        *("compile", "a.onnx", "nets/a.onnx", "--budget", "60%", "-o", "out"),
        *("--calib", "a=a.npz", "--calib", "eye=images", "--name", "eye=nets/a.onnx"),
        *("--min-fidelity", "0.95", "--exact-only", "--plan", "p.json", "--seed", "3"),
        *("--same-frames", "--separate-inputs", "--allow-script", "--overwrite"),
        *("--frames", "64", "--without", "collapse", "--without", "tie-weights", "-v"),
    )
    assert ran.code == 0, ran.err
    assert driver.options == CompileOptions(
        models=(("a", Path("a.onnx")), ("eye", Path("nets/a.onnx"))),
        budget=Budget(share=0.6),
        calibration={"a": Path("a.npz"), "eye": Path("images")},
        min_fidelity=0.95,
        exact_only=True,
        plan=Path("p.json"),
        seed=3,
        output=Path("out"),
        overwrite=True,
        same_frames=True,
        tie_inputs=False,
        allow_script=True,
        frames=64,
        without=("collapse", "tie-weights"),
    )
    assert "working: done in " in ran.progress


def test_the_budgets_and_means_reach_the_compiler(repsimc: Call, driver: Driver) -> None:
    ran = repsimc(
        *("compile", "a.onnx", "--only", "depth", "--max-macs", "60%", "--max-latency", "8ms"),
        *("--layout", "trunk-heads", "--precision", "fp16"),
        *("--confidence", "0.9", "--strict", "--min-stressed", "0.8"),
        *("--time-limit", "1h", "--resume"),
    )
    assert ran.code == 0, ran.err
    assert driver.options == CompileOptions(
        models=(("a", Path("a.onnx")),),
        output=Path("bundle"),
        only="depth",
        max_macs=MacsLimit(share=0.6),
        max_latency=0.008,
        layout="trunk-heads",
        precision="fp16",
        confidence=0.9,
        strict=True,
        min_stressed=0.8,
        time_limit=3600.0,
        resume=True,
    )
    assert driver.deadline is not None and 3500 < driver.deadline.left() < 3600


def test_a_dry_run_says_that_nothing_was_written(repsimc: Call, driver: Driver) -> None:
    ran = repsimc("compile", "a.onnx", "--dry-run")
    assert driver.options is not None and driver.options.dry_run
    assert ran.out.endswith("dry run: nothing was written\n")


def test_the_command_line_wins_over_the_config(
    repsimc: Call, driver: Driver, tmp_path: Path
) -> None:
    (tmp_path / "repsimc.toml").write_text(
        'models = ["x.onnx"]\nbudget = "50%"\nseed = 7\ntie-inputs = false\nformat = "json"\n'
    )
    assert json.loads(repsimc("compile").out)["schema"] == "repsimc.report/1"
    options = driver.options
    assert options is not None and options.models == (("x", tmp_path / "x.onnx"),)
    assert (options.budget, options.seed, options.tie_inputs) == (Budget(share=0.5), 7, False)

    ran = repsimc(
        *("compile", "a.onnx", "--budget", "1GB", "--seed", "0", "--tie-inputs"),
        *("--format", "table"),
    )
    options = driver.options
    assert options is not None and options.models == (("a", Path("a.onnx")),)
    assert (options.budget, options.seed, options.tie_inputs) == (Budget(10**9), 0, True)
    assert ran.out.startswith("3 models")


def test_a_config_elsewhere(repsimc: Call, driver: Driver, tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "c.toml").write_text('models = ["x.onnx"]\noutput = "out"\n')
    assert repsimc("compile", "--config", "there/c.toml").code == 0
    assert driver.options is not None
    assert driver.options.models == (("x", Path("there/x.onnx")),)
    assert driver.options.output == Path("there/out")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compile"], "no models given"),
        (["compile", "a.onnx", "--budget", "lots"], "'lots' is not an amount of memory"),
        (["compile", "a.onnx", "--budget", "120%"], "120% is not a share"),
        (["compile", "a.onnx", "x/a.onnx"], "two models would be called 'a'"),
        (["compile", "a.onnx", "--calib", "c=f.npz"], "--calib c=f.npz is for no model"),
        (["compile", "a.onnx", "--name", "x"], "--name x is not NAME=VALUE"),
        (
            ["compile", "a.onnx", "--min-fidelity", "99"],
            "min_fidelity: a fidelity floor of 99 is not a share",
        ),
        (["compile", "a.onnx", "--time-limit", "soon"], "'soon' is not a time to wait"),
        (["compile", "a.onnx", "--confidence", "1"], "a confidence of 1.0 bounds nothing"),
        (
            ["compile", "a.onnx", "--min-stressed", "-1"],
            "min_stressed: a fidelity floor of -1 is not a share",
        ),
        (["compile", "a.onnx", "--only", "x"], "--only 'x' is no means"),
        (["compile", "a.onnx", "--exact-only", "--only", "share"], "leaves nothing for --only"),
        (["compile", "a.onnx", "--config", "none.toml"], "none.toml can't be read"),
        (["compile", "a.onnx", "--frobnicate"], "--frobnicate"),
        (["compile", "a.onnx", "--seed", "x"], "--seed"),
        (["compile", "a.onnx", "--format", "xml"], "--format"),
        (["frobnicate"], "frobnicate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_exits_2(
    repsimc: Call, driver: Driver, words: list[str], said: str
) -> None:
    ran = repsimc(*words)
    assert ran.code == 2
    assert driver.options is None
    assert ran.out == ""
    assert ran.err.startswith("error: ") and said in ran.err
    assert "Traceback" not in ran.err


def test_a_bundle_that_is_there_is_refused_before_the_work(
    repsimc: Call, driver: Driver, tmp_path: Path
) -> None:
    bundle_of(tmp_path, b=MAP)
    ran = repsimc("compile", "a.onnx")
    assert ran.code == 2 and driver.options is None
    assert "error: bundle exists\n  hint: replace it with --overwrite" in ran.err
    assert repsimc("compile", "a.onnx", "--overwrite").code == 0
    assert repsimc("compile", "a.onnx", "--dry-run").code == 0


def test_a_folder_that_is_no_bundle_is_never_replaced(
    repsimc: Call, driver: Driver, tmp_path: Path
) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.tex").touch()
    ran = repsimc("compile", "a.onnx", "--overwrite")
    assert ran.code == 2 and driver.options is None
    assert "not a repsimc bundle" in ran.err


# -- as a step of a build --------------------------------------------------------------------


@pytest.fixture
def current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """bundle/, which is what `compile a.onnx` would write; its files are of long ago."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path, a=MAP)
    inputs = inputs_of(CompileOptions(models=(("a", Path("a.onnx")),)))
    bundle = bundle_of(tmp_path, made_from=inputs.digest, a=MAP)
    for path in bundle.iterdir():
        os.utime(path, (1e9, 1e9))
    return bundle


def test_where_nothing_changed_nothing_is_done(
    repsimc: Call, driver: Driver, current: Path
) -> None:
    ran = repsimc("compile", "a.onnx")
    assert (ran.code, ran.out, ran.err) == (0, "nothing to do: bundle/ is up to date\n", "")
    assert driver.options is None
    # Make would call for ever what stays older than its inputs; what is built of the rest stays.
    times = {path.name: path.stat().st_mtime for path in current.iterdir()}
    assert times.pop("manifest.json") > 1e9 + 1
    assert set(times.values()) == {1e9}


def test_a_program_is_told_the_same_as_if_it_had_been_compiled(
    repsimc: Call, driver: Driver, current: Path
) -> None:
    same = json.loads(repsimc("compile", "a.onnx", "--format", "json").out)
    assert (same["schema"], same["compiled"], same["bundle"]) == (
        "repsimc.report/1",
        False,
        "bundle",
    )
    again = json.loads(repsimc("compile", "a.onnx", "--force", "--format", "json").out)
    assert again["compiled"] and set(again) == set(same)


def test_force_and_what_changed_are_compiled(repsimc: Call, driver: Driver, current: Path) -> None:
    assert repsimc("compile", "a.onnx", "--force").code == 0
    assert driver.options is not None and driver.options.overwrite  # it is of the same inputs
    assert driver.inputs is not None and driver.inputs.models
    driver.options = None
    for words in (["--seed", "1"], ["--budget", "90%"]):
        ran = repsimc("compile", "a.onnx", *words)  # of others it is not
        assert ran.code == 2 and "hint: replace it with --overwrite" in ran.err
        assert driver.options is None
        assert repsimc("compile", "a.onnx", "--overwrite", *words).code == 0
        assert driver.options is not None
        driver.options = None
    assert repsimc("compile", "a.onnx", "--parse-memory", "4GB", "--resume").code == 0
    assert driver.options is None  # these decide nothing
    assert repsimc("compile", "a.onnx", "--dry-run").code == 0
    assert driver.options is not None


def test_a_search_that_goes_on_has_something_to_do(repsimc: Call, driver: Driver) -> None:
    models = save(Path(), a=MAP)
    options = CompileOptions(models=tuple(models.items()), time_limit=60.0)
    bundle_of(Path(), made_from=inputs_of(options).digest, a=MAP)
    assert "nothing to do" in repsimc("compile", "a.onnx", "--time-limit", "60s").out
    assert driver.options is None
    assert repsimc("compile", "a.onnx", "--time-limit", "60s", "--resume").code == 0
    assert driver.options is not None


@pytest.mark.parametrize("harm", ["changed", "gone", "longer"])
def test_a_damaged_bundle_is_compiled_again(
    repsimc: Call, driver: Driver, current: Path, harm: str
) -> None:
    graph = current / "merged.onnx"
    content = graph.read_bytes()
    if harm == "gone":
        graph.unlink()
    else:
        graph.write_bytes(content[:-1] + b"?" if harm == "changed" else content + b"?")
    assert repsimc("compile", "a.onnx").code == 0
    assert driver.options is not None


def test_the_depfile_is_written_whether_or_not_there_was_something_to_do(
    repsimc: Call, driver: Driver, current: Path, tmp_path: Path
) -> None:
    (tmp_path / "repsimc.toml").write_text("seed = 0\n")
    told: list[str] = []
    for words in ([], ["--force"]):
        assert repsimc("compile", "a.onnx", "--depfile", "d/out.d", *words).code == 0
        assert (driver.options is not None) == bool(words)
        told.append((tmp_path / "d" / "out.d").read_text())
        (tmp_path / "d" / "out.d").unlink()
    assert told[0] == told[1]
    assert told[0].startswith("bundle/manifest.json: \\\n  a.onnx \\\n  repsimc.toml\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--depfile", "a.onnx"], "a.onnx is what the bundle is compiled from"),
        (["--depfile", "bundle/out.d"], "would lie in the bundle"),
        (["--depfile", "."], "is a folder"),
        (["--depfile", "out.d", "--dry-run"], "a dry run writes nothing"),
        (["--depfile", "a.onnx/out.d"], "a.onnx/out.d cannot be written"),
    ],
)
def test_where_a_depfile_cannot_be(
    repsimc: Call, driver: Driver, current: Path, words: list[str], said: str
) -> None:
    before = Path("a.onnx").read_bytes()
    ran = repsimc("compile", "a.onnx", *words)
    assert ran.code == 2 and said in ran.err
    assert driver.options is None and Path("a.onnx").read_bytes() == before
