"""What a model is made of, as values and tables; what a bundle is, is in `bundle_contents`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...runtime.json_values import JsonValue
from ..execution.measured_sizes import told_sizes
from ..graph.cuts import Cut, cuts
from ..graph.export import held_nbytes_by_bits, named_sizes
from ..graph.free_size import FreeSize, size_of
from ..graph.program import Program, is_standard, own_name
from ..structure.cost import model_cost
from ..units import format_bytes, format_count
from .bundle_contents import SCHEMA, TensorLine, shape_text
from .table import Grid, figures, sizes_text, unknown_sizes_text, weights_text, words

# A deep network has hundreds of cuts; a table shows this many, spread over the depth.
_CUTS_SHOWN = 24


@dataclass(frozen=True)
class CutLine(JsonValue):
    """A cut by own value names, the shapes of its values, and its depth (0..1)."""

    values: tuple[str, ...]
    shapes: tuple[tuple[int | str | None, ...] | None, ...]
    depth: float

    def to_json(self) -> dict[str, Any]:
        """The value as JSON types."""
        return {**super().to_json(), "depth": round(self.depth, 6)}


@dataclass(frozen=True)
class ModelInspection:
    """One model: its interface, its nodes by operator, what it needs for one frame, its cuts.

    `sizes` are what one frame of each input of free size is, for which activations and MACs count;
    these are None where an input is among `sizes_unknown`. `weights_by_bits` are the bytes of
    weights by the bits that an element takes ("32", "8").
    """

    name: str
    file: str
    opset: int
    inputs: tuple[TensorLine, ...]
    outputs: tuple[TensorLine, ...]
    operators: Mapping[str, int]
    weights_nbytes: int
    activations_peak_nbytes: int | None
    macs: int | None
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    sizes_unknown: tuple[str, ...] = ()
    unknown_values: tuple[str, ...] = ()
    cuts: tuple[CutLine, ...] = field(default=())
    weights_by_bits: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def nodes(self) -> int:
        """How many nodes the model has."""
        return sum(self.operators.values())

    def to_json(self) -> dict[str, Any]:
        """The value as JSON types, with its schema."""
        return {
            "schema": SCHEMA,
            "model": self.name,
            "file": self.file,
            "opset": self.opset,
            "inputs": [line.to_json() for line in self.inputs],
            "outputs": [line.to_json() for line in self.outputs],
            "nodes": self.nodes,
            "operators": dict(self.operators),
            "weights_nbytes": self.weights_nbytes,
            "weights_by_bits": dict(self.weights_by_bits),
            "activations_peak_nbytes": self.activations_peak_nbytes,
            "macs": self.macs,
            "sizes": {name: list(sizes) for name, sizes in self.sizes.items()},
            "sizes_unknown": list(self.sizes_unknown),
            "unknown_values": list(self.unknown_values),
            "cuts": [cut.to_json() for cut in self.cuts],
        }


def inspect_model(program: Program, name: str) -> ModelInspection:
    """What that model of the program is made of; bytes and MACs are for one frame."""
    model = program.models[name]
    values = program.values()

    def line(own: str, value_name: str) -> TensorLine:
        value = values.get(value_name)
        return TensorLine(own, _dtype(value), _shape(value))

    def cut_line(cut: Cut) -> CutLine:
        return CutLine(
            tuple(own_name(value) for value in cut.values),
            tuple(_measured_shape(values.get(value)) for value in cut.values),
            cut.depth,
        )

    cost = model_cost(program, name)
    told = told_sizes(program)
    unknown = tuple(own for (_, own), sizes in told.items() if sizes is None)
    nodes = program.nodes_of(name)
    operators = Counter(
        f"{node.domain}::{node.op}" if not is_standard(node) else node.op for node in nodes
    )
    return ModelInspection(
        name=name,
        file=str(model.source.path),
        opset=program.graph.opset,
        inputs=tuple(line(own, value) for own, value in model.inputs.items()),
        outputs=tuple(line(own, value) for own, value in model.outputs.items()),
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        weights_nbytes=cost.weights_nbytes,
        activations_peak_nbytes=None if unknown else cost.activations_peak_nbytes,
        macs=None if unknown else cost.macs,
        sizes={own: sizes for (_, own), sizes in told.items() if sizes is not None},
        sizes_unknown=unknown,
        unknown_values=() if unknown else tuple(own_name(value) for value in cost.unknown),
        cuts=tuple(cut_line(cut) for cut in cuts(program, name)),
        weights_by_bits=held_nbytes_by_bits(nodes),
    )


def model_grids(found: ModelInspection) -> tuple[Grid, ...]:
    """Two tables: the model at a glance, and its cuts (some of them, where there are many)."""
    operators = ", ".join(f"{count} {op}" for op, count in found.operators.items())
    rows = [
        ("file", found.file),
        *(("input", str(line)) for line in found.inputs),
        *(("output", str(line)) for line in found.outputs),
        ("opset", str(found.opset)),
        ("nodes", f"{found.nodes} ({operators})"),
        ("weights", weights_text(found.weights_nbytes, found.weights_by_bits)),
        ("activations, peak", _per_frame(found.activations_peak_nbytes, format_bytes)),
        ("MACs", _per_frame(found.macs, format_count)),
    ]
    if found.sizes and not found.sizes_unknown:
        rows.append(("frame", sizes_text(found.sizes)))
    notes = [unknown_sizes_text(found.sizes_unknown)] if found.sizes_unknown else list[str]()
    if found.unknown_values:
        some = ", ".join(found.unknown_values[:3])
        notes.append(
            f"{len(found.unknown_values)} values have no known shape and count as nothing in "
            f"activations and MACs: {some}"
        )
    glance = Grid(f"model {found.name}", words("", ""), tuple(rows), notes=tuple(notes))
    step = max(1, -(-len(found.cuts) // _CUTS_SHOWN))
    shown = found.cuts[::step]
    skipped = (
        (f"one in {step} of the {len(found.cuts)} cuts; --format json has all",) if step > 1 else ()
    )
    table = Grid(
        "cuts: where this model can be fed by another",
        figures("depth") + words("values", "shapes"),
        tuple(
            (
                f"{100 * cut.depth:.0f} %",
                "\n".join(cut.values),
                "\n".join("?" if shape is None else shape_text(shape) for shape in cut.shapes),
            )
            for cut in shown
        ),
        notes=skipped,
    )
    return (glance, table) if found.cuts else (glance,)


def _per_frame(amount: int | None, form: Callable[[float], str]) -> str:
    return "unknown" if amount is None else f"{form(amount)} per frame"


def _dtype(value: Any) -> str:
    if value is None or value.dtype is None:
        return "?"
    try:
        import numpy as np

        return np.dtype(value.dtype).name
    except TypeError:  # an ONNX type that NumPy has no word for
        return str(value.dtype)


def _shape(value: Any) -> tuple[int | str | None, ...] | None:
    return None if value is None or value.shape is None else tuple(named_sizes(value) or ())


def _measured_shape(value: Any) -> tuple[int | str | None, ...] | None:
    """The shape with sizes as they are on the frames; the number of frames keeps its name."""
    shape: Any = _shape(value)
    if shape is None:
        return None
    return tuple(
        known if known is not None and not (isinstance(old, FreeSize) and old.per_frame) else dim
        for old, dim, known in zip(value.shape, shape, map(size_of, value.shape))
    )
