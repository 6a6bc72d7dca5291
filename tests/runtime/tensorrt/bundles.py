"""Bundles for tests of engines: small, with references, of more than one segment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from repsimc.compiler.bundle.references import References
from repsimc.compiler.bundle.writing import BundleContents, write_bundle
from repsimc.compiler.graph.program import Program
from repsimc.runtime.manifest import ReferenceGroup
from tests.programs import joined, run
from tests.runtime.bundles import share

NET = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 1, 4, 4] x) => (float[N, 3] y, int64[N, 1] best)
<float[2, 1, 3, 3] w = {0.1,0.2,3.3,4,5,6,7,8,9,9,8,7,6,5,4,3,2,1},
 float[2, 3] v = {0.01,0.02,0.03,0.04,0.05,0.06}>
{
  t = Conv <pads = [1, 1, 1, 1]> (x, w)
  r = Relu (t)
  m = ReduceMean <axes = [2, 3], keepdims = 0> (r)
  s = MatMul (m, v)
  y = Softmax (s)
  best = ArgMax <axis = 1> (y)
}
"""
FIXED = NET.replace("[N,", "[1,")
FRAMES = np.random.default_rng(0).standard_normal((2, 1, 4, 4)).astype(np.float32)


def pair(text: str = FIXED) -> Program:
    """Models `a` and `b` that share their first convolution and take the same frame."""
    program = joined(
        [[("a", "x"), ("b", "x")]], a=text, b=text.replace("{0.01,0.02,0.03,", "{0.02,0.05,0.01,")
    )
    return share(program, "a/r", "b/r")


def references(program: Program) -> References:
    """Two runs of one frame each."""
    arrays: dict[str, Any] = {}
    for index in range(2):
        frame = FRAMES[index : index + 1]
        arrays[f"0/{index}/in/x"] = frame
        for name, made in run(program, {"x": frame}).items():
            arrays[f"0/{index}/out/{name}"] = made
    return References((ReferenceGroup(tuple(program.models), 2),), arrays)


def bundle(
    folder: Path, program: Program | None = None, overwrite: bool = False, **wishes: Any
) -> Path:
    """A bundle with references, in `folder`/bundle."""
    program = program or pair()
    wishes = {"plan": {}, "report": {}} | wishes
    if "references" not in wishes:
        wishes["references"] = references(program)
    return write_bundle(folder / "bundle", BundleContents(program, **wishes), overwrite)
