"""repsimc.toml: the command line's options under the same names, and tables per model.

    models = ["a.onnx", "b.onnx"]
    budget = "60%"
    calib = "frames.npz"              # or a table: calib = { a = "a.npz", b = "b.npz" }

    [preprocess]                      # of image frames, for every model
    size = [32, 32]
    [preprocess.b]                    # for model b, on top of that
    mean = [0.485, 0.456, 0.406]
    [fidelity]                        # floors by model or model/output
    "b/boxes" = 0.95
    [metrics]                         # top1 or variance, by model or model/output
    b = "top1"

Paths are relative to the file. What the command line says wins.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..errors import UsageError
from ..naming import model_names, paths_per_model
from ..options import DEFAULT_OUTPUT, CompileOptions, Format
from ..units import Budget, MacsLimit, parse_budget, parse_macs, parse_seconds

if TYPE_CHECKING:
    from ..frames.calibration import Preprocessing

FILE_NAME = "repsimc.toml"
# A file of options is a screenful; anything larger is some other file.
_MAX_NBYTES = 1 << 20

T = TypeVar("T")


def load_config(path: Path | None, folder: Path) -> dict[str, Any]:
    """The options a repsimc.toml sets, by key, checked and typed; {} without such a file.

    `path` None means repsimc.toml in `folder`, if there is one. Paths come back joined to the
    file's folder, `budget` as a Budget, `calib` as a Path or {model: Path}, `preprocess` as
    {model or '': {field: value}}. Raises UsageError for a missing or broken file, an unknown key
    or a value of the wrong type.
    """
    found = path if path is not None else folder / FILE_NAME
    if path is None and not found.is_file():
        return {}
    settings: dict[str, Any] = {}
    for key, value in _parsed(found).items():
        reader = _READERS.get(key)
        if reader is None:
            raise UsageError(f"{found}: unknown key '{key}'", _suggestion(key, _READERS))
        settings[key] = reader(value, f"{found}: '{key}'", found.parent)
    return settings


def preprocessings(config: Mapping[str, Any], models: Iterable[str]) -> dict[str, Preprocessing]:
    """Preprocessing by 'model/input', 'model' or '' (every model): a table on top of the wider.

    Raises UsageError for an unknown field, a value that makes no sense, or an unknown model.
    """
    tables = cast("Mapping[str, dict[str, Any]]", config.get("preprocess", {}))
    if not tables:
        return {}
    from ..frames.calibration import Preprocessing

    names = list(models)
    known = [field.name for field in fields(Preprocessing)]
    for model, table in tables.items():
        where = f"[preprocess.{model}]" if model else "[preprocess]"
        if model and model.split("/", 1)[0] not in names:
            raise UsageError(
                f"{where} is for no model of this call", f"the models are {', '.join(names)}"
            )
        for key in table:
            if key not in known:
                raise UsageError(f"{where} has an unknown key '{key}'", _suggestion(key, known))
    found: dict[str, Preprocessing] = {}
    for key, table in tables.items():
        wider = tables.get("", {}) | tables.get(key.split("/", 1)[0], {})
        found[key] = Preprocessing(**(wider | table))
    return found


def compile_options(
    settings: Mapping[str, Any], calib: Sequence[str] = (), allow_script: bool = False
) -> CompileOptions:
    """The options of a compilation from settings as `load_config` gives them.

    `calib` are the command line's '[MODEL=]PATH', which win over the settings' own. Without an
    `output` the bundle goes to bundle/ in the working directory. Raises UsageError.
    """
    models = model_names(settings.get("models", ()), settings.get("name"))
    names = [name for name, _ in models]
    same = {
        field: settings[key]
        for key in _READERS
        if key in settings and (field := key.replace("-", "_")) in _SAME_NAME
    }
    return CompileOptions(
        models=models,
        calibration=paths_per_model(calib, "--calib", names) if calib else settings.get("calib"),
        preprocessing=preprocessings(settings, names),
        output=settings.get("output", Path(DEFAULT_OUTPUT)),
        output_fidelity=settings.get("fidelity", {}),
        allow_script=allow_script,
        **same,
    )


def _parsed(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_NBYTES + 1)
    except OSError as error:
        raise UsageError(
            f"{path} can't be read: {error.strerror or error}", "check --config"
        ) from error
    if len(content) > _MAX_NBYTES:
        raise UsageError(f"{path} is too large for a file of options", "check --config")
    try:
        import tomllib
    except ModuleNotFoundError:  # JetPack 6 has Python 3.10
        raise UsageError(
            f"{path} cannot be read by Python 3.10", "say the options on the command line"
        ) from None
    try:
        return tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}", "see repsimc compile --help") from error


def _suggestion(key: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(key.replace("_", "-"), known, 1)
    if near or (near := difflib.get_close_matches(key, known, 1)):
        return f"did you mean '{near[0]}'?"
    return f"known keys are {', '.join(known)}"


# -- one reader per kind of value: (value, where, folder of the file) -> typed value -----


def _typed(value: object, kind: type[T], what: str, where: str) -> T:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(f"{where} is {value!r}, not {what}")
    return value


def _flag(value: object, where: str, folder: Path) -> bool:
    return _typed(value, bool, "true or false", where)


def _count(value: object, where: str, folder: Path) -> int:
    return _typed(value, int, "a whole number", where)


def _number(value: object, where: str, folder: Path) -> float:
    return float(_typed(value, int | float, "a number", where))  # type: ignore[arg-type]


def _text(value: object, where: str, folder: Path) -> str:
    return _typed(value, str, "a text", where)


def _path(value: object, where: str, folder: Path) -> Path:
    return folder / Path(_typed(value, str, "a path", where)).expanduser()


def _paths(value: object, where: str, folder: Path) -> list[Path]:
    items = cast("list[object]", _typed(value, list, "a list of paths", where))
    return [_path(item, where, folder) for item in items]


def _budget(value: object, where: str, folder: Path) -> Budget:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return parse_budget(_typed(value, str, "an amount such as '2GB' or '60%'", where))


def _macs(value: object, where: str, folder: Path) -> MacsLimit:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return parse_macs(_typed(value, str, "an amount such as '120M' or '60%'", where))


def _seconds(value: object, where: str, folder: Path) -> float:
    return parse_seconds(_typed(value, str, "a time such as '8ms'", where))


def _calib(value: object, where: str, folder: Path) -> Path | dict[str, Path]:
    if isinstance(value, str):
        return _path(value, where, folder)
    return _table(_path)(value, where, folder)


def _format(value: object, where: str, folder: Path) -> Format:
    if value not in [form.value for form in Format]:
        raise UsageError(f"{where} is {value!r}", "use 'table', 'json' or 'markdown'")
    return Format(value)


def _table(reader: Callable[[object, str, Path], T]) -> Callable[[object, str, Path], dict[str, T]]:
    def read(value: object, where: str, folder: Path) -> dict[str, T]:
        table = cast("dict[str, object]", _typed(value, dict, "a table", where))
        return {key: reader(item, f"{where}, entry '{key}'", folder) for key, item in table.items()}

    return read


def _preprocess(value: object, where: str, folder: Path) -> dict[str, dict[str, Any]]:
    entries = cast("dict[str, object]", _typed(value, dict, "a table", where))
    tables: dict[str, dict[str, Any]] = {}
    for key, item in entries.items():
        if isinstance(item, dict):
            table = cast("dict[str, object]", item)
            tables[key] = {name: _frozen(entry) for name, entry in table.items()}
        else:
            tables.setdefault("", {})[key] = _frozen(item)
    return tables


def _frozen(value: object) -> object:
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


def _refused_script(value: object, where: str, folder: Path) -> bool:
    # A configuration that comes along with someone's models must not be able to run code.
    raise UsageError(
        f"{where} can't be set in a file: a script runs code on your machine",
        "if you trust the script, say --allow-script on the command line",
    )


_READERS: dict[str, Callable[[object, str, Path], Any]] = {
    "models": _paths,
    "name": _table(_path),
    "budget": _budget,
    "calib": _calib,
    "output": _path,
    "min-fidelity": _number,
    "exact-only": _flag,
    "plan": _path,
    "only": _text,
    "max-macs": _macs,
    "max-latency": _seconds,
    "dry-run": _flag,
    "seed": _count,
    "format": _format,
    "same-frames": _flag,
    "tie-inputs": _flag,
    "allow-script": _refused_script,
    "overwrite": _flag,
    "frames": _count,
    "held-out": _number,
    "layout": _text,
    "precision": _text,
    "preprocess": _preprocess,
    "fidelity": _table(_number),
    "metrics": _table(_text),
}

# The settings that are fields of CompileOptions as they stand.
_SAME_NAME = frozenset(
    {
        *("budget", "min_fidelity", "metrics", "exact_only", "plan", "dry_run", "seed"),
        *("overwrite", "same_frames", "tie_inputs", "frames", "held_out"),
        *("layout", "precision", "only", "max_macs", "max_latency"),
    }
)
