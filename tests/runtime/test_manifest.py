from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repsimc.runtime.errors import ModelError
from repsimc.runtime.manifest import (
    FileEntry,
    Manifest,
    ModelEntry,
    SourceFile,
    TensorSpec,
)

DIGEST = "0123456789abcdef" * 4


def entry(name: str, **changes: Any) -> ModelEntry:
    fields: dict[str, Any] = {
        "source": SourceFile(f"{name}.onnx", DIGEST, 10),
        "inputs": (TensorSpec("x", "x", "float32", ("N", 3, None)),),
        "outputs": (TensorSpec("y", f"{name}/y", "float32", None),),
        "fidelity": ({"output": "y", "value": 0.5},),
    }
    return ModelEntry(name, **{**fields, **changes})


def manifest(*models: ModelEntry) -> Manifest:
    names = ("merged.onnx", "plan.json", "report.json")
    files = {name: FileEntry(DIGEST, 10) for name in names}
    return Manifest(
        repsimc="0.1.0",
        models=models or (entry("a"), entry("b")),
        files=files,
        memory={"merged_nbytes": 5},
    )


def test_a_manifest_survives_writing_and_reading() -> None:
    written = manifest(entry("b", needs=(("a", "x"),)), entry("a"))
    assert Manifest.loads(written.dumps()) == written


def test_where_a_model_lay_is_read_of_older_bundles_and_written_no_more() -> None:
    data = json.loads(manifest().dumps())
    assert "path" not in data["models"][0]["source"]
    data["models"][0]["source"]["path"] = "../a.onnx"
    del data["made_from"]
    older = Manifest.loads(json.dumps(data))
    assert older.made_from == ""
    assert [model.source.path for model in older.models] == ["../a.onnx", ""]
    assert Manifest.loads(older.dumps()) == older


def test_the_text_has_sorted_keys_and_keeps_the_order_of_models() -> None:
    text = manifest(entry("b"), entry("a")).dumps()
    data = json.loads(text)
    assert list(data) == sorted(data)
    assert [model["name"] for model in data["models"]] == ["b", "a"]
    assert text.endswith("\n")


BAD: list[tuple[list[str | int], Any, str]] = [
    (["schema"], "repsimc.bundle/9", "schema 'repsimc.bundle/9'"),
    (["models"], [], "no models"),
    (["models"], {}, "'models' is not a list"),
    (["models", 0, "name"], "a/b", "'models[0].name' is not a model name"),
    (["models", 0, "name"], "b", "two models have one name"),
    (["models", 0, "inputs", 0, "dtype"], "float31", "dtype"),
    (["models", 0, "inputs", 0, "dtype"], "float64", "has two dtypes"),
    (["models", 0, "inputs", 0, "shape"], [-1], "'models[0].inputs[0].shape[0]' is not a count"),
    (["models", 0, "inputs", 0, "shape"], [True], "not a count"),
    (["models", 0, "inputs", 0, "shape"], [1.5], "not a count"),
    (["models", 0, "outputs"], [], "no outputs"),
    (["models", 0, "needs"], [{"model": "b", "input": "q"}], "there is none"),
    (["models", 0, "source", "sha256"], "00", "sha256"),
    (["models", 0, "source", "path"], 1, "'models[0].source.path' is not a non-empty text"),
    (["made_from"], "new", "'made_from' is not a sha256 digest"),
    (["models", 0, "fidelity", 0, "value"], [], "texts and numbers"),
    (["memory"], {"merged_nbytes": -5}, "not a count"),
    (["graph"], "../merged.onnx", "inside the bundle"),
    (["graph"], "other.onnx", "not among the files"),
    (["files"], {"/etc/passwd": {"sha256": DIGEST, "nbytes": 1}}, "inside the bundle"),
    (["files"], {"manifest.json": {"sha256": DIGEST, "nbytes": 1}}, "inside the bundle"),
]


@pytest.mark.parametrize(("path", "value", "says"), BAD, ids=[case[2] for case in BAD])
def test_what_is_wrong_is_refused_by_its_place(
    path: list[str | int], value: Any, says: str
) -> None:
    data: Any = copy.deepcopy(manifest().to_json())
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ModelError) as caught:
        Manifest.from_json(data)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"schema": NaN}', '{"schema": 1, "schema": 1}', "null", "1" * 9999],
    ids=["empty", "cut", "deep", "nan", "twice", "null", "long number"],
)
def test_text_that_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ModelError):
        Manifest.loads(text)


def test_an_infinity_spelled_as_a_number_is_refused() -> None:
    text = manifest().dumps().replace('"value": 0.5', '"value": 1e999')
    with pytest.raises(ModelError, match="1e999 is too large a number"):
        Manifest.loads(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += places(inner, (*path, index))
    return found


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_any_value_anywhere_is_read_or_refused_but_never_crashes(data: st.DataObject) -> None:
    whole: Any = manifest().to_json()
    path = data.draw(st.sampled_from(places(whole)[1:]))
    place = whole
    for key in path[:-1]:
        place = place[key]
    if data.draw(st.booleans()):
        del place[path[-1]]
    else:
        place[path[-1]] = data.draw(VALUES)
    try:
        read = Manifest.from_json(whole)
    except ModelError:
        return
    assert Manifest.loads(read.dumps()) == read


def test_optional_inputs_are_written_only_where_there_are_some() -> None:
    spec = TensorSpec("k", "a/k", "float32", ())
    whole = manifest(entry("a", optional=(spec,)), entry("b"))
    first, second = whole.to_json()["models"]
    assert "optional" in first and "optional" not in second
    assert Manifest.from_json(whole.to_json()) == whole
    with pytest.raises(ModelError, match="two inputs of model 'a' have one name"):
        Manifest.from_json(
            manifest(entry("a", optional=(TensorSpec("x", "q", "bool", ()),))).to_json()
        )


@pytest.mark.parametrize("dtype", ["optional(sequence(int64))", "map(int64,float32)"])
def test_what_inputs_may_hold(dtype: str) -> None:
    found = manifest(entry("a", inputs=(TensorSpec("x", "x", dtype, None),)))
    assert Manifest.loads(found.dumps()) == found


@pytest.mark.parametrize("dtype", ["set(int64)", "sequence(int65)", "map(int64)x", "sequence("])
def test_what_they_may_not_hold(dtype: str) -> None:
    found = manifest(entry("a", inputs=(TensorSpec("x", "x", dtype, None),)))
    with pytest.raises(ModelError, match="a dtype that repsimc knows"):
        Manifest.loads(found.dumps())


@pytest.mark.parametrize(
    "sizes", [{"nowhere": [1]}, {"VALUE": [1, 2, 3, 4, 5, 6, 7]}, {"VALUE": "1x3"}, {"VALUE": [-1]}]
)
def test_sizes_are_those_of_an_input(sizes: dict[str, object]) -> None:
    content = json.loads(manifest().dumps())
    value = content["models"][0]["inputs"][0]["value"]
    content["sizes"] = {value if key == "VALUE" else key: told for key, told in sizes.items()}
    with pytest.raises(ModelError):
        Manifest.from_json(content)
