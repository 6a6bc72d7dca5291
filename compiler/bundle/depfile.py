"""What a bundle was compiled from, in the syntax of Make and Ninja: a depfile, as of C compilers.

    bundle/manifest.json: \\
      a.onnx \\
      my\\ frames.npz

    a.onnx:
    my\\ frames.npz:

The rules without prerequisites let Make go on where a file is gone: what needed it is made again.
Make takes parentheses for an archive's member, Ninja stops at quotes, '&' and the like: for a name
with these they call each time, and find that there is nothing to do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ...runtime.manifest import MANIFEST
from ...runtime.placing import replacing_file
from ..errors import UsageError
from .compile_inputs import CompileInputs

# Make and Ninja read these escapes alike.
_ESCAPES = {" ": "\\ ", "#": "\\#", ":": "\\:", "$": "$$"}
# A rule of its own cannot be for these: the first makes a pattern, the second a variable.
_NO_TARGET = ("%", "=")


def check_depfile(path: Path, bundle: Path, inputs: CompileInputs) -> None:
    """Nothing, if the depfile of a bundle at `bundle` can be written to `path`. Raises UsageError.

    Called before the work: a file of the user's is never overwritten, nor is anything put into the
    bundle, and every name can be written.
    """
    place = path.resolve()
    if place.is_dir():
        raise UsageError(f"{path} is a folder", "name a file with --depfile")
    if place.is_relative_to(bundle.resolve()):
        raise UsageError(
            f"{path} would lie in the bundle, which is replaced as a whole",
            "name a file beside it with --depfile",
        )
    if place in {file.resolve() for file in inputs.files}:
        raise UsageError(
            f"{path} is what the bundle is compiled from", "name another file with --depfile"
        )
    depfile_text(bundle, inputs)


def write_depfile(path: Path, bundle: Path, inputs: CompileInputs) -> None:
    """Put the depfile in its place, in one step; one of the same content stays as it is.

    Raises UsageError where it cannot be written.
    """
    content = depfile_text(bundle, inputs)
    try:
        if path.read_bytes() == content:
            return
    except OSError:
        pass
    with replacing_file(path) as partial:
        partial.write_bytes(content)


def depfile_text(bundle: Path, inputs: CompileInputs) -> bytes:
    """A rule for the bundle's manifest: all files and folders of frames that it is made from.

    Paths are as they were given, so relative ones are so to the working directory. Raises
    UsageError for a name that Make would take for something else.
    """
    target = _escaped(bundle / MANIFEST)
    if _holds(target, _NO_TARGET):
        raise _unwritable(bundle / MANIFEST, " or ".join(_NO_TARGET))
    names = [_escaped(path) for path in dict.fromkeys((*inputs.files, *inputs.folders))]
    # 'target: a=b' would set a variable.
    names.sort(key=lambda name: "=" in name)
    if names and "=" in names[0]:
        raise _unwritable(inputs.files[0], "=, as all others do,")
    rule = " \\\n  ".join([f"{target}:", *names])
    alone = [f"{name}:\n" for name in names if not _holds(name, _NO_TARGET)]
    return os.fsencode(f"{rule}\n\n{''.join(alone)}")


def _holds(name: str, signs: Sequence[str]) -> bool:
    return any(sign in name for sign in signs)


def _escaped(path: Path) -> str:
    name = path.as_posix()
    # A recipe begins at ';', a line ends at a line break, and '\' would change what follows.
    if ";" in name or any(ord(sign) < 32 or ord(sign) == 127 for sign in name):
        raise _unwritable(path, "; or a control character")
    if name.endswith("\\") or any(f"\\{sign}" in name for sign in _ESCAPES):
        raise _unwritable(path, "\\ before a space, #, :, $ or its end")
    return "".join(_ESCAPES.get(sign, sign) for sign in name)


def _unwritable(path: Path, what: str) -> UsageError:
    return UsageError(
        f"{path} has {what} in its name, which no depfile can hold",
        "rename it, or leave out --depfile",
    )
