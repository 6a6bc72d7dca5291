"""Small bundles for tests of the runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from repsimc.compiler.bundle.writing import BundleContents, write_bundle
from repsimc.compiler.graph.program import Program
from tests.programs import joined

TRUNK = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x, float[N, 3] extra) => (float[N, 3] y, float[N, 3] z)
<float[3] w = {1, -2, 3}>
{
  t = Mul (x, w)
  y = Relu (t)
  z = Add (t, extra)
}
"""
# Its Gather fails for an index out of range: a run that must not compute it shows if it did.
PICK = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x, int64[K] index) => (float[N, K] y)
<float[3] w = {1, -2, 3}>
{
  t = Mul (x, w)
  y = Gather <axis = 1> (t, index)
}
"""
PLAIN = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x) => (float[N, 3] y) { y = Tanh (x) }
"""
NEGATIVE = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x) => (float[N, 3] y) { y = Neg (x) }
"""

# What both models take, and the value of `trunk` in between.
X = np.float32([[1, 2, 3], [4, 5, 6]])

EXTRA = np.ones((2, 3), np.float32)

INDEX = np.int64([2, 0])

T = X * np.float32([1, -2, 3])


def share(program: Program, new: str, old: str) -> Program:
    """The program in which readers of value `old` read value `new`, and `old` is gone."""
    values = program.values()
    program.replace_uses(values[old], values[new])
    kept = {id(n) for n in program.needed_nodes(program.graph.outputs)}
    for node in [n for n in program.graph.nodes if id(n) not in kept]:
        node.inputs.clear()
        node.outputs.clear()
        program.graph.nodes.remove(node)
    return program


def trunk_and_pick(tied: bool = True) -> Program:
    """Models `trunk` and `pick`; with `tied` inputs they share the value trunk/t."""
    if not tied:
        return joined(trunk=TRUNK, pick=PICK)
    program = joined([[("trunk", "x"), ("pick", "x")]], trunk=TRUNK, pick=PICK)
    return share(program, "trunk/t", "pick/t")


def tied_pair() -> Program:
    """Models `a` (tanh) and `b` (negative), each with the one input x that feeds both."""
    return joined([[("a", "x"), ("b", "x")]], a=PLAIN, b=NEGATIVE)


def bundled(folder: Path, program: Program, overwrite: bool = False, **parts: Any) -> Path:
    """The program as a bundle in `folder`."""
    contents = BundleContents(program, **{"plan": {}, "report": {}, **parts})
    return write_bundle(folder / "bundle", contents, overwrite)


def in_child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """What a fresh Python says to `code`."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
