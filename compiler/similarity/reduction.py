"""What is taken from a layer's activations while they are there: means over places, sampled places.

Whole maps are a hundred times larger. For models the reductions are nodes of the graph that runs,
so that maps never leave ONNX Runtime's arena; for arrays they are done here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from ..errors import ModelError
from ..execution.executable import Executable
from ..execution.rows import value_rows
from ..graph.arrays import Array, Float32, Float64, Int64
from ..graph.program import Program, qualified
from .layers import Layer

Places = Float64


@dataclass(frozen=True)
class Reduced:
    """A layer over n frames: `pooled` [n, c] means over places, `rows` [n, p, c] sampled places.

    `maps` is the whole activation where it was asked for, else empty.
    """

    pooled: Float32
    rows: Float32
    maps: Array

    @staticmethod
    def nothing(frames: int) -> Reduced:
        """Frames of no channels."""
        return Reduced(*(np.zeros((frames, 0), np.float32) for _ in range(3)))

    def __len__(self) -> int:
        return len(self.pooled)

    def __getitem__(self, frames: slice) -> Reduced:
        return Reduced(self.pooled[frames], self.rows[frames], self.maps[frames])


def joined(parts: Sequence[Reduced]) -> Reduced:
    """The frames of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    return Reduced(
        np.concatenate([part.pooled for part in parts]),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.maps for part in parts]),
    )


def positions(places: Places, spatial: Sequence[int]) -> Int64:
    """Relative places [n, p, 3] in 0..1 as indices [n, p] of a flattened map; [n, 1] of none."""
    if not spatial:
        return np.zeros((len(places), 1), np.int64)
    found = np.zeros(places.shape[:2], np.int64)
    for axis, size in enumerate(spatial):
        index = np.minimum((places[:, :, axis] * size).astype(np.int64), size - 1)
        found = found * size + index
    return found


def reduce_array(array: Array, layer: Layer, places: Places, maps: bool) -> Reduced:
    """The reductions of an activation [n, ...] of the layer at relative places [n, p, 3]."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    if not layer.spatial:
        return Reduced(array, array[:, None], array[:, :0])
    if layer.channels_last:
        by_place = array.reshape(len(array), -1, layer.channels)
    else:
        by_place = array.reshape(len(array), layer.channels, -1)
    # A product with ones sums several times as fast as a mean over an axis.
    size = prod(layer.spatial)
    share = np.full(size, 1 / size, np.float32)
    pooled = share @ by_place if layer.channels_last else by_place @ share
    rows = value_rows(array, positions(places, layer.spatial), layer.channels_last)
    return Reduced(
        pooled,
        rows.reshape(len(array), -1, layer.channels),
        array if maps else array.reshape(len(array), -1)[:, :0],
    )


class ReducedRun:
    """A model compiled by ONNX Runtime with the reductions of its layers for outputs.

    Calling it with a batch of feeds and places [n, p, 3] gives every layer's reductions or, for
    one that is not [n, *shape], the shape it has. Whole maps of layers that have places come along
    where `maps` is set. Raises ModelError when the model does not run.
    """

    def __init__(
        self,
        program: Program,
        model: str,
        layers: Sequence[Layer],
        maps: bool,
        threads: int | None = None,
    ) -> None:
        self._threads = threads
        self._program = program
        self._layers = layers
        self._maps = maps
        work = program.copy()
        added = _Reductions(work, model)
        self._names = [added.of(layer, maps) for layer in layers]
        self._positions = added.positions
        wanted = dict.fromkeys(name for names in self._names for name in names)
        self._segment = Executable(work, None, list(wanted), threads)
        self._whole: Executable | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The model's inputs that have to be fed."""
        own = set(self._positions.values())
        return tuple(name for name in self._segment.inputs if name not in own)

    def __call__(self, feeds: Mapping[str, Array], places: Places) -> list[Reduced | list[int]]:
        """One batch of n frames."""
        if self._whole is None:
            try:
                return self._reduced(feeds, places)
            except ModelError:
                # What is not as the graph says cannot be reduced there; whole, it says what it is.
                values = [layer.value for layer in self._layers]
                self._whole = Executable(self._program, None, values, self._threads)
        return [
            reduce_array(array, layer, places, self._maps)
            if array.shape == (len(places), *layer.shape)
            else list(array.shape)
            for layer, array in zip(self._layers, self._whole(feeds))
        ]

    def _reduced(self, feeds: Mapping[str, Array], places: Places) -> list[Reduced | list[int]]:
        at = {name: positions(places, spatial) for spatial, name in self._positions.items()}
        arrays = dict(zip(self._segment.outputs, self._segment({**feeds, **at})))
        found: list[Reduced | list[int]] = []
        for layer, (shape, pooled, *rest) in zip(self._layers, self._names):
            if tuple(arrays[shape]) != (len(places), *layer.shape):
                found.append([int(size) for size in arrays[shape]])
            elif not layer.spatial:
                found.append(
                    Reduced(arrays[pooled], arrays[pooled][:, None], arrays[pooled][:, :0])
                )
            else:
                rows, *whole = (arrays[name] for name in rest)
                if not layer.channels_last:
                    rows = rows.transpose(0, 2, 1)
                maps = whole[0] if whole else np.zeros((len(places), 0), np.float32)
                means = arrays[pooled].reshape(len(places), layer.channels)
                found.append(Reduced(means, rows, maps))
        return found


class _Reductions:
    """Adds the nodes that reduce layers to a program, which is changed."""

    def __init__(self, program: Program, model: str) -> None:
        self._graph = program.graph
        self._values = program.values()
        taken = {*self._values, *(node.name for node in program.graph.nodes), *program.weights()}
        self._prefix = qualified(model, "reduced")
        while any(name.startswith(self._prefix) for name in taken):
            self._prefix += "_"
        self._count = 0
        # The graph input with the places' positions [n, p], by the sizes of the maps.
        self.positions: dict[tuple[int, ...], str] = {}
        self._index: dict[tuple[int, ...], gs.Variable] = {}

    def of(self, layer: Layer, maps: bool) -> list[str]:
        """Names of the layer's shape and means; with places also its rows, and maybe its map.

        Means are [n, c, 1 ...] or [n, 1, c], rows [n, c, p], or [n, p, c] of channels last.
        """
        value: gs.Variable = self._values[layer.value]
        shape = self._node("Shape", [value], np.int64)
        if np.dtype(value.dtype) != np.float32:
            value = self._node("Cast", [value], to=int(TensorProto.FLOAT))
        if not layer.spatial:
            return [shape.name, value.name]
        size, channels = prod(layer.spatial), layer.channels
        if layer.channels_last:
            flat = self._node("Reshape", [value, self._ints([0, -1, channels])])
            share = self._constant(np.full((1, size), 1 / size, np.float32))
            means = self._node("MatMul", [share, flat])
            index = self._at(layer.spatial, 2)
            rows = self._node("GatherND", [flat, index], batch_dims=1)
        else:
            means = self._node("GlobalAveragePool", [value])
            flat = self._node("Reshape", [value, self._ints([0, 0, -1])])
            index = self._node(
                "Expand", [self._at(layer.spatial, 1), self._ints([1, channels, 1])], np.int64
            )
            rows = self._node("GatherElements", [flat, index], axis=2)
        return [shape.name, means.name, rows.name, *([value.name] if maps else ())]

    def _at(self, spatial: tuple[int, ...], axis: int) -> gs.Variable:
        """The positions for maps of these sizes, with an axis of length 1 put in."""
        if spatial not in self.positions:
            name = f"{self._prefix}.at.{'x'.join(map(str, spatial))}"
            given = gs.Variable(name, np.dtype(np.int64), ["reduced_n", "reduced_p"])
            self._graph.inputs.append(given)
            self.positions[spatial] = name
            self._values[name] = given
        given = self._values[self.positions[spatial]]
        key = (*spatial, -axis)
        if key not in self._index:
            self._index[key] = self._node("Unsqueeze", [given, self._ints([axis])], np.int64)
        return self._index[key]

    def _ints(self, values: Sequence[int]) -> gs.Constant:
        return self._constant(np.asarray(values, np.int64))

    def _constant(self, array: Array) -> gs.Constant:
        self._count += 1
        return gs.Constant(f"{self._prefix}.{self._count}", array)

    def _node(
        self, op: str, inputs: list[gs.Tensor], dtype: type = np.float32, **attributes: int
    ) -> gs.Variable:
        self._count += 1
        name = f"{self._prefix}.{self._count}"
        output = gs.Variable(name, np.dtype(dtype))
        self._graph.nodes.append(
            gs.Node(op, name, attrs=attributes, inputs=inputs, outputs=[output])
        )
        return output
