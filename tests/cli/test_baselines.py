"""The gate on the command line: exit codes, the baseline as a file, what is refused."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Ran

Call = Callable[..., Ran]
FAST = ("--rounds", "1", "--runs", "2")


@pytest.fixture
def written(repsimc: Call, bundle: Path) -> Path:
    path = bundle.parent / "baseline.json"
    ran = repsimc("check", bundle, "--baseline", path, "--update", *FAST)
    assert ran.code == 0, ran.err
    assert "baseline.json: there was none for this bundle" in ran.out
    return path


def test_one_round_can_not_be_judged(repsimc: Call, bundle: Path, written: Path) -> None:
    ran = repsimc("check", bundle, "--baseline", written, *FAST)
    assert ran.code == 8 and "not enough samples" in ran.err and "--rounds 6 or more" in ran.err
    ran = repsimc("check", bundle, "--baseline", written, *FAST, "--format", "json")
    found = json.loads(ran.out)
    assert (found["passed"], found["error"]["exit_code"]) == (False, 8)
    assert found["written"] is None


def test_a_regression_and_its_acceptance(repsimc: Call, bundle: Path, written: Path) -> None:
    data = json.loads(written.read_text())
    for one in data["figures"]:
        if one["name"] == "operators":
            one["value"] -= 1
    written.write_text(json.dumps(data))
    ran = repsimc("check", bundle, "--baseline", written, *FAST)
    assert ran.code == 7 and "operators regressed: 2 -> 3" in ran.err
    assert json.loads(written.read_text()) == data
    ran = repsimc("check", bundle, "--baseline", written, "--update", *FAST)
    assert ran.code == 0 and "operators regressed" in ran.out
    assert repsimc("check", bundle, "--baseline", written, *FAST).code == 8


def test_an_update_replaces_what_can_not_be_read(
    repsimc: Call, bundle: Path, written: Path
) -> None:
    written.write_text("{")
    ran = repsimc("check", bundle, "--baseline", written, *FAST)
    assert ran.code == 3 and "is not valid JSON" in ran.err
    ran = repsimc("check", bundle, "--baseline", written, "--update", *FAST)
    assert ran.code == 0 and "says nothing of this bundle" in ran.err
    assert json.loads(written.read_text())["schema"] == "repsimc.baseline/1"


def test_a_budget_and_an_accuracy(repsimc: Call, bundle: Path, frames: Path, written: Path) -> None:
    before = written.read_bytes()
    ran = repsimc("check", bundle, "--budget", "1KiB", *FAST)
    assert ran.code == 5 and "where 1 KiB is the most" in ran.err
    # A baseline that misses what was asked for is not written.
    ran = repsimc("check", bundle, "--baseline", written, "--update", "--budget", "1KiB", *FAST)
    assert ran.code == 5 and written.read_bytes() == before
    judged = ("--data", frames, "--labels", "a=label", *FAST)
    ran = repsimc("check", bundle, "--min-accuracy", "a=0.9", *judged)
    assert ran.code == 0, ran.err
    assert "accuracy a" in ran.out and "kept" in ran.out
    swapped = ("--data", frames, "--labels", "a=other2", *FAST)
    assert repsimc("check", bundle, "--min-accuracy", "a=0.9", *swapped).code == 3


def test_an_accuracy_that_is_missed(repsimc: Call, bundle: Path, frames: Path) -> None:
    import numpy as np

    x = np.load(frames)["x"]
    np.savez(frames, x=x, label=(x.argmax(-1) + (np.arange(len(x)) < 12)) % 3)
    words = ("--data", frames, "--labels", "a=label", *FAST)
    ran = repsimc("check", bundle, "--min-accuracy", "a=80%", *words)
    assert ran.code == 4 and "accuracy a: 0.7500 where 0.8 is the least" in ran.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "nothing to hold the bundle against"),
        (["--update", "--budget", "1GB"], 2, "nothing to hold the bundle against"),
        (["--baseline", "none.json"], 2, "no baseline none.json"),
        (["--baseline", "b.json", "--max-latency-regression", "0%"], 2, "is not a share"),
        (["--baseline", "b.json", "--max-latency-regression", "5"], 2, "write it as 5%"),
        (["--min-accuracy", "a=0.9"], 2, "give --data and --labels"),
        (["--budget", "1GB", "--data", "frames.npz"], 2, "give --min-accuracy"),
        (["--budget", "1GB", "--rounds", "0"], 2, "--rounds"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense(
    repsimc: Call, bundle: Path, words: list[str], code: int, said: str
) -> None:
    ran = repsimc("check", bundle, *words)
    assert ran.code == code and said in ran.err


@pytest.mark.parametrize("format", ["github", "junit", "gha-benchmark"])
def test_formats_of_build_services(
    repsimc: Call, bundle: Path, frames: Path, written: Path, format: str
) -> None:
    calls = [
        (("check", bundle, "--baseline", written, *FAST), 8),
        (("verify", bundle, "--data", frames), 0),
        (("bench", bundle, "--runs", "2", "--warmup", "0"), 0),
        (("check", bundle, "--baseline", "none.json"), 2),
    ]
    for words, code in calls:
        ran = repsimc(*words, "--format", format)
        assert ran.code == code, ran.err
        if format == "junit":
            assert ElementTree.fromstring(ran.out.encode())[0].attrib["name"] == (
                f"repsimc {words[0]}"
            )
        elif format == "github":
            assert all(line.startswith("::") for line in ran.out.splitlines())
        else:
            assert all({"name", "unit", "value"} <= set(one) for one in json.loads(ran.out))
            assert json.loads(ran.out) or code == 2
    ran = repsimc("inspect", bundle, "--format", format)
    assert ran.code == 2 and "is for check, verify, bench and compile" in ran.err
    assert ran.out == ""


def test_an_error_before_anything_ran_has_its_format(repsimc: Call) -> None:
    ran = repsimc("check", "--frobnicate", "--format=github")
    assert ran.code == 2 and ran.out.startswith("::error title=check%3A UsageError::")


def test_diff(repsimc: Call, bundle: Path, tmp_path: Path) -> None:
    ran = repsimc("diff", bundle, bundle)
    assert ran.code == 0 and "nothing differs" in ran.out
    assert json.loads(repsimc("diff", bundle, bundle, "--format", "json").out)["same"] is True
    ran = repsimc("diff", bundle, tmp_path / "none")
    assert ran.code == 3 and "is not a bundle" in ran.err
