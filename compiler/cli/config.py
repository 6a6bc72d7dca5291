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
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..errors import UsageError
from ..naming import model_names, paths_per_model
from ..options import DEFAULT_OUTPUT, CompileOptions, Settings
from ..units import parse_sizes
from .console import Format
from .options import SETTINGS, CommandSettings, FramePaths, PreprocessTables, Setting

if TYPE_CHECKING:
    from ..frames.calibration import Preprocessing

FILE_NAME = "repsimc.toml"
# A file of options is a screenful; anything larger is some other file.
_MAX_NBYTES = 1 << 20
_SHOWN = 80  # characters of a value that is wrong

T = TypeVar("T")
# (value, where it stands, folder of the file) -> typed value
Reader = Callable[[object, str, Path], T]


def load_config(
    path: Path | None, folder: Path, said: Mapping[str, object] | None = None
) -> CommandSettings:
    """What a repsimc.toml says, checked and typed, under what the command line says: that wins.

    `path` None means repsimc.toml in `folder`, if there is one. Paths come back joined to the
    file's folder. `said` are the command line's words by field of CommandSettings, None for what
    it does not say. Raises UsageError for a missing or broken file, an unknown key or a value of
    the wrong type.
    """
    found = config_file(path, folder)
    values: dict[str, Any] = {}
    if found is not None:
        for key, value in _parsed(found).items():
            if key not in _READERS:
                raise UsageError(f"{found}: unknown key '{key}'", _suggestion(key, _READERS))
            name, read = _READERS[key]
            values[name] = read(value, f"{found}: '{key}'", found.parent)
    for name, words in (said or {}).items():
        if words is not None and words != []:
            values[name] = SETTINGS[name].said(words)
    return CommandSettings(**values)


def config_file(path: Path | None, folder: Path) -> Path | None:
    """The file of options: `path`, else repsimc.toml in `folder` if there is one."""
    default = folder / FILE_NAME
    return path or (default if default.is_file() else None)


def preprocessings(settings: CommandSettings, models: Iterable[str]) -> dict[str, Preprocessing]:
    """Preprocessing by 'model/input', 'model' or '' (every model): a table on top of the wider.

    Raises UsageError for an unknown field, a value that makes no sense, or an unknown model.
    """
    tables = settings.preprocess
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
        wider = (tables.get(""), tables.get(key.split("/", 1)[0]), table)
        found[key] = Preprocessing(**{k: v for each in wider for k, v in (each or {}).items()})
    return found


def calibration(
    settings: CommandSettings, models: Sequence[str]
) -> Path | Mapping[str, Path] | None:
    """Where the frames are: one path for all models, or one per model name. Raises UsageError."""
    if isinstance(settings.calib, tuple):
        return paths_per_model(settings.calib, "--calib", models)
    return settings.calib


def compile_options(settings: CommandSettings) -> CompileOptions:
    """The options of a compilation from what a command was told.

    Without an `output` the bundle goes to bundle/ in the working directory. Raises UsageError.
    """
    models = model_names(settings.models, settings.name)
    names = [name for name, _ in models]
    settings = replace(settings, output=settings.output or Path(DEFAULT_OUTPUT))
    return CompileOptions(
        models=models,
        calibration=calibration(settings, names),
        preprocessing=preprocessings(settings, names),
        **{each.name: getattr(settings, each.name) for each in fields(Settings)},
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
    except (ValueError, RecursionError) as error:  # of TOML, of Unicode, of the length of a number
        raise UsageError(f"{path} is not TOML: {error}", "see repsimc compile --help") from error


def _suggestion(key: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(key.replace("_", "-"), known, 1)
    if near or (near := difflib.get_close_matches(key, known, 1)):
        return f"did you mean '{near[0]}'?"
    return f"known keys are {', '.join(known)}"


# -- one reader per kind of value --------------------------------------------------------


def _typed(value: object, kind: type[T], what: str, where: str) -> T:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(f"{where} is {repr(value)[:_SHOWN]}, not {what}")
    return value


def _plain(kind: type[T], what: str) -> Reader[T]:
    return lambda value, where, folder: _typed(value, kind, what, where)


def _number(value: object, where: str, folder: Path) -> float:
    if not isinstance(value, float):
        return float(_whole(_typed(value, int, "a number", where), where))
    if not math.isfinite(value):  # TOML has words for infinities
        raise UsageError(f"{where} is {value}, not a finite number")
    return value


def _whole_number(value: object, where: str, folder: Path) -> int:
    return _whole(_typed(value, int, "a whole number", where), where)


def _whole(found: int, where: str) -> int:
    if abs(found) >= 1 << 63:
        raise UsageError(f"{where} is {repr(found)[:_SHOWN]}, too large a number")
    return found


def _path(value: object, where: str, folder: Path) -> Path:
    return folder / Path(_typed(value, str, "a path", where)).expanduser()


def _each(reader: Reader[T], what: str) -> Reader[tuple[T, ...]]:
    def read(value: object, where: str, folder: Path) -> tuple[T, ...]:
        items = cast("list[object]", _typed(value, list, what, where))
        return tuple(reader(item, where, folder) for item in items)

    return read


def _amount(setting: Setting, parse: Callable[[Any], object]) -> Reader[object]:
    def read(value: object, where: str, folder: Path) -> object:
        if setting.option.bare and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        return parse(_typed(value, str, setting.option.such_as, where))

    return read


def _calib(value: object, where: str, folder: Path) -> Path | dict[str, Path]:
    if isinstance(value, str):
        return _path(value, where, folder)
    return _table(_path)(value, where, folder)


def _sizes(value: object, where: str, folder: Path) -> tuple[int, ...]:
    if isinstance(value, str):
        (sizes,) = parse_sizes([f"x={value}"]).values()
        return sizes
    what = "sizes such as [1, 3, 224, 224] or '1x3x224x224'"
    items = cast("list[object]", _typed(value, list, what, where))
    return tuple(_typed(item, int, what, where) for item in items)


def _format(value: object, where: str, folder: Path) -> Format:
    if value not in [form.value for form in Format]:
        raise UsageError(f"{where} is {repr(value)[:_SHOWN]}", "use 'table', 'json' or 'markdown'")
    return Format(value)


def _table(reader: Reader[T]) -> Reader[dict[str, T]]:
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


def _refused(setting: Setting) -> Reader[object]:
    def read(value: object, where: str, folder: Path) -> object:
        raise UsageError(
            f"{where} can't be set in a file: {setting.option.not_in_file}",
            f"if you trust the script, say --{setting.key} on the command line",
        )

    return read


_text = _plain(str, "a text")
_READERS_OF_KINDS: dict[Any, Reader[object]] = {
    bool: _plain(bool, "true or false"),
    int: _whole_number,
    float: _number,
    str: _text,
    Path: _path,
    Format: _format,
    FramePaths: _calib,
    PreprocessTables: _preprocess,
    tuple[str, ...]: _each(_text, "a list of names"),
    tuple[Path, ...]: _each(_path, "a list of paths"),
    Mapping[str, float]: _table(_number),
    Mapping[str, str]: _table(_text),
    Mapping[str, Path]: _table(_path),
    Mapping[str, tuple[int, ...]]: _table(_sizes),
}


def _reader(setting: Setting) -> Reader[object]:
    if setting.option.not_in_file:
        return _refused(setting)
    if setting.option.such_as and setting.option.parse is not None:
        return _amount(setting, setting.option.parse)
    return _READERS_OF_KINDS[setting.kind]


# key -> (field, reader)
_READERS = {each.key: (each.field, _reader(each)) for each in SETTINGS.values()}
