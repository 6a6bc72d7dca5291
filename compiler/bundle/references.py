"""A few frames with the outputs that belong to them: what an engine is checked against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...runtime.array_archive import write_arrays
from ...runtime.manifest import ReferenceGroup
from ..execution.executable import Executable
from ..execution.feeds import run_groups
from ..frames.calibration import Frames
from ..graph.arrays import Array, Int64
from ..graph.program import Program, node_inputs

FRAMES = 4  # an engine that computes the wrong thing does so on the first frame
MAX_NBYTES = 64 * 2**20  # of all frames and outputs together: they travel with the bundle


@dataclass(frozen=True)
class References:
    """Frames and expected outputs, by group of models that one run feeds.

    `arrays` are named 'GROUP/RUN/in/VALUE' and 'GROUP/RUN/out/VALUE', values as in the merged
    graph; a run is one frame, or a batch where the models' batch is fixed.
    """

    groups: tuple[ReferenceGroup, ...]
    arrays: Mapping[str, Array]


def references_of(program: Program, frames: Frames, count: int = FRAMES) -> References | None:
    """The first held-out frames of every group of models, and what the program makes of them.

    At most `count` runs a group; fewer where they would take more than MAX_NBYTES, and None if
    not even one fits. ONNX Runtime computes
    the outputs on one thread, so that the same program gives the same bytes on any machine of a
    kind. Raises ModelError if it cannot run the program.
    """
    left = MAX_NBYTES
    groups: list[ReferenceGroup] = []
    arrays: dict[str, Array] = {}
    for models in run_groups(frames):
        # One frame at a time, so that an engine built for a batch of one can be checked too.
        unit = next((size for name in models if (size := frames.batch(name))), 1)
        rows = frames.held_out_rows(models[0])[: count * unit]
        runs = 0
        for start in range(0, len(rows) - unit + 1, unit):
            found = _run(program, frames, models, rows[start : start + unit])
            nbytes = sum(array.nbytes for array in found.values())
            if not found or nbytes > left or runs == count:
                break
            left -= nbytes
            arrays |= {f"{len(groups)}/{runs}/{name}": array for name, array in found.items()}
            runs += 1
        if runs:
            groups.append(ReferenceGroup(models, runs))
    return References(tuple(groups), arrays) if groups else None


def write_references(path: Path, references: References) -> None:
    """Write them as an .npz that has the same bytes for the same arrays."""
    write_arrays(path, {name: references.arrays[name] for name in sorted(references.arrays)})


def _run(
    program: Program, frames: Frames, models: tuple[str, ...], rows: Int64
) -> dict[str, Array]:
    """'in/VALUE' and 'out/VALUE' arrays of one run; models that need others' frames are left out.

    Outputs that hold text are left out too: there is nothing to compare within a tolerance.
    """
    feeds: dict[str, Array] = {}
    for name in models:
        arrays = frames.feed(name, rows)
        feeds |= {value: arrays[own] for own, value in program.models[name].inputs.items()}
    unfed = program.input_names - set(feeds)
    for node in program.graph.nodes:
        if any(tensor.name in unfed for tensor in node_inputs(node)):
            unfed.update(value.name for value in node.outputs if not value.is_empty())
    outputs = (value for name in models for value in program.models[name].outputs.values())
    wanted = [value for value in dict.fromkeys(outputs) if value not in unfed]
    if not wanted:
        return {}
    segment = Executable(program, None, wanted, threads=1)
    made = dict(zip(wanted, segment({name: feeds[name] for name in segment.inputs})))
    found = {f"in/{name}": feeds[name] for name in segment.inputs}
    return found | {f"out/{n}": a for n, a in made.items() if a.dtype.kind in "fiub"}
