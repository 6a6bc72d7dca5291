from __future__ import annotations

from pathlib import Path

import pytest

from repsimc.compiler.errors import UsageError
from repsimc.compiler.naming import model_names, named, paths_per_model, per_model, sanitised

A, B = Path("models/a.onnx"), Path("models/b.onnx")


def test_a_model_is_called_by_its_stem_in_order() -> None:
    assert model_names([B, A]) == (("b", B), ("a", A))


def test_a_given_name_wins_over_the_stem() -> None:
    assert model_names([A, B], {"eye": Path("models/../models/a.onnx")}) == (("eye", A), ("b", B))


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("resnet-50_v1.5", "resnet-50_v1.5"),
        ("my net (1)", "my_net_1"),
        ("münchen", "m_nchen"),
        ("..", "model"),
        ("日本", "model"),
        (".hidden", "hidden"),
        ("-v", "v"),
        ("a/b", "a_b"),
    ],
)
def test_stems_become_plain_names(stem: str, name: str) -> None:
    assert sanitised(stem) == name


def test_a_clash_says_which_name_to_give() -> None:
    with pytest.raises(UsageError) as error:
        model_names([A, Path("other/a.onnx")])
    assert "models/a.onnx and other/a.onnx" in error.value.message
    assert error.value.hint.endswith("--name a_2=other/a.onnx")


def test_the_suggested_name_is_free() -> None:
    with pytest.raises(UsageError, match="would be called 'a'") as error:
        model_names([A, Path("a_2.onnx"), Path("other/a.onnx")])
    assert "--name a_3=" in error.value.hint


def test_one_file_twice_takes_two_names() -> None:
    assert model_names([A, A], {"left": A, "right": A}) == (("left", A), ("right", A))


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-a", ".a", "..", "a\x1b", "ä"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UsageError, match="can't be a model's name"):
        model_names([A], {name: A})


def test_a_name_for_no_model() -> None:
    with pytest.raises(UsageError, match=r"--name c=c\.onnx names no model"):
        model_names([A], {"c": Path("c.onnx")})


def test_per_model_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert per_model(["frames.npz"], "--calib", ["a", "b"]) == "frames.npz"
    assert per_model(["a=x", "b=y=z"], "--calib", ["a", "b"]) == {"a": "x", "b": "y=z"}
    assert paths_per_model(["a=x"], "--calib", ["a"]) == {"a": Path("x")}
    (tmp_path / "a=x").touch()
    assert per_model(["a=x"], "--calib", ["a"]) == "a=x"


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["x.npz", "y.npz"], "x.npz names no model"),
        (["a=x.npz", "y.npz"], "y.npz names no model"),
        (["a=x.npz", "a=y.npz"], "gives 'a' twice"),
        (["c=x.npz"], "c=x.npz is for no model"),
    ],
)
def test_per_model_texts_that_make_no_sense(texts: list[str], said: str) -> None:
    with pytest.raises(UsageError) as error:
        per_model(texts, "--calib", ["a", "b"])
    assert said in error.value.message


@pytest.mark.parametrize("text", ["a", "=x", "a="])
def test_named_needs_both_sides(text: str) -> None:
    with pytest.raises(UsageError, match="is not NAME=VALUE"):
        named([text], "--name")
