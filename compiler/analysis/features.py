"""What is kept of every layer from the one pass over the frames, in a few megabytes per layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..errors import DataError
from ..graph.program import Program
from .execution import Segment
from .layers import Layer, Skipped
from .linear import value_rows
from .sketch import WIDTH, mixed_down, sketch
from .statistics import SignCounts, two_nn

Array = NDArray[Any]
Float32 = NDArray[np.float32]

# Frames per Gram matrix of whole maps (exact mode) and per batch of the minibatch estimates.
BATCH = 64
MIN_BATCH = 8
# All layers of a batch are in memory at once, some four times over (ONNX Runtime's and ours, of
# this batch and the next); large maps are run fewer frames at a time.
BATCH_NBYTES = 64 << 20
# Sampled places: rows in all, per frame at most; the channels of a row at most.
ROWS = 4096
SKETCH_ROWS = 2048
PLACES = 8
ROW_WIDTH = 256
# Rows for the intrinsic dimension: it needs all distances between them.
_DIMENSION_ROWS = 256


@dataclass(frozen=True)
class Recipe:
    """What is kept: equal recipes on equal models and frames give equal features.

    Without `maps`, whole maps are not looked at, which saves a third of the time.
    """

    sketched: bool = False
    seed: int = 0
    batch: int = BATCH
    maps: bool = True


@dataclass(frozen=True)
class LayerStatistics:
    """Annotations of one layer; nan where undefined.

    `entropy` of on and off and `sign_entropy` of three states in bits (mean over channels),
    `positive` and `negative` the shares of its numbers, `dimension` the intrinsic one (TwoNN),
    `influence` 1 - mean cosine to the nearest layer before it of equal shape, `influence_of` its
    name ('' if there is none), `finite` and `constant` over the frames.
    """

    entropy: float
    sign_entropy: float
    positive: float
    negative: float
    dimension: float
    influence: float
    influence_of: str
    finite: bool
    constant: bool


@dataclass(frozen=True)
class LayerFeatures:
    """One layer over n frames.

    `pooled` [n, c]: each frame's mean over places. `maps`: a sketch [n, 254], or in exact mode the
    Gram matrices of batches stacked, [n - remainder, batch]; None where they were not asked for,
    and for features (no places), for which `pooled` stands. `rows` [frames * places, <= 256]:
    sampled places. `halves` says whether `pooled` is a sketch of two halves.
    """

    layer: Layer
    pooled: Float32
    maps: Float32 | None
    rows: Float32
    halves: bool
    statistics: LayerStatistics


@dataclass(frozen=True)
class ModelFeatures:
    """All layers of one model over the same frames, which `frames` counts.

    `skipped` holds layers that turned out to give something else than the graph says.
    """

    model: str
    frames: int
    recipe: Recipe
    layers: tuple[LayerFeatures, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(
            layer.pooled.nbytes
            + layer.rows.nbytes
            + (0 if layer.maps is None else layer.maps.nbytes)
            for layer in self.layers
        )


def batch_for(layers: Sequence[Layer], recipe: Recipe) -> int:
    """Frames per batch, a power of two up to the recipe's, so that all layers fit in memory.

    At least 8 where whole maps are compared within a batch.
    """
    per_frame = 4 * sum(int(np.prod(layer.shape)) for layer in layers)
    batch = recipe.batch
    least = MIN_BATCH if recipe.maps and not recipe.sketched else 1
    while batch > least and batch * per_frame > BATCH_NBYTES:
        batch //= 2
    return batch


def extract(
    program: Program,
    model: str,
    layers: Sequence[Layer],
    batches: Iterator[Mapping[str, Array]],
    frames: int,
    recipe: Recipe,
    advance: Callable[[int], None] = lambda _: None,
) -> ModelFeatures:
    """The features of every layer in one forward pass; `batches` feed the program's inputs.

    A layer that does not keep frames on axis 0, with the sizes that the graph declares, is
    skipped. Raises ModelError when the model does not run.
    """
    if not layers:
        return ModelFeatures(model, frames, recipe, ())
    segment = Segment(program, None, [layer.value for layer in layers])
    faults: dict[int, Skipped] = {}

    def arrays() -> Iterator[list[Array]]:
        for feeds in batches:
            outputs = segment({name: feeds[name] for name in segment.inputs})
            count = len(next(iter(feeds.values())))
            for index, (layer, array) in enumerate(zip(layers, outputs)):
                if array.shape != (count, *layer.shape):
                    reason = (
                        f"it gave {list(array.shape)} for {count} frames of {list(layer.shape)}"
                    )
                    faults.setdefault(index, Skipped(model, layer.name, reason))
                if index in faults:
                    outputs[index] = np.zeros((count, *layer.shape), np.float32)
            yield outputs

    keepers = [_Keeper(model, layer, frames, recipe) for layer in layers]
    # The next batch runs while this one is looked at. ONNX Runtime's threads have the cores;
    # small products on more than one thread would only wait for them.
    with threadpool_limits(1, user_api="blas"):
        for outputs in _ahead(_rebatched(arrays(), recipe.batch)):
            for index, (keeper, array) in enumerate(zip(keepers, outputs)):
                if index not in faults:
                    keeper.add(array)
            advance(len(outputs[0]))
        kept = [keeper for index, keeper in enumerate(keepers) if index not in faults]
        found = _finished(model, frames, recipe, kept)
    return replace(found, skipped=tuple(faults.values()))


def features_of_arrays(
    model: str, arrays: Mapping[str, Array], recipe: Recipe, channels_last: bool | None = None
) -> ModelFeatures:
    """The features of layers given as arrays [n, ...] of equal n.

    `channels_last` None means: channels on axis 1 from four axes on, on the last below. Raises
    DataError for anything but floats of 2 to 5 axes and equal n.
    """
    frames = len(next(iter(arrays.values()))) if arrays else 0
    keepers: list[_Keeper] = []
    for name, array in arrays.items():
        where = f"array '{name}' of '{model}'"
        if array.dtype.kind != "f" or not 2 <= array.ndim <= 5 or 0 in array.shape:
            raise DataError(
                f"{where} is {array.dtype} {list(array.shape)}",
                "give float arrays [frames, channels], [frames, tokens, channels] or "
                "[frames, channels, height, width]",
            )
        if len(array) != frames:
            raise DataError(f"{where} has {len(array)} frames, others have {frames}")
        last = array.ndim < 4 if channels_last is None else channels_last
        layer = Layer(name, f"{model}/{name}", tuple(array.shape[1:]), last or array.ndim == 2)
        keeper = _Keeper(model, layer, frames, recipe)
        for start in range(0, frames, recipe.batch):
            keeper.add(array[start : start + recipe.batch])
        keepers.append(keeper)
    return _finished(model, frames, recipe, keepers)


def _finished(model: str, frames: int, recipe: Recipe, keepers: Sequence[_Keeper]) -> ModelFeatures:
    found: list[LayerFeatures] = []
    for index, keeper in enumerate(keepers):
        before = [k for k in keepers[:index] if k.layer.shape == keeper.layer.shape]
        found.append(keeper.finish(before[-1] if before else None))
    return ModelFeatures(model, frames, recipe, tuple(found))


def _ahead(parts: Iterator[list[Array]]) -> Iterator[list[Array]]:
    """The same parts, each made in another thread while the one before is in use."""
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(next, parts, None)
        while (part := coming.result()) is not None:
            coming = worker.submit(next, parts, None)
            yield part


def _rebatched(parts: Iterator[list[Array]], size: int) -> Iterator[list[Array]]:
    """The same frames in batches of exactly `size`, but for the last."""
    held: list[list[Array]] = []
    count = 0
    for part in parts:
        if not held and len(part[0]) == size:
            yield part
            continue
        held.append(part)
        count += len(part[0])
        while count >= size:
            whole = [np.concatenate(each) for each in zip(*held)] if len(held) > 1 else held[0]
            yield [array[:size] for array in whole]
            held = [[array[size:] for array in whole]] if count > size else []
            count -= size
    if count:
        yield [np.concatenate(each) for each in zip(*held)]


class _Keeper:
    """Takes in a layer's activations batch by batch and keeps its features."""

    def __init__(self, model: str, layer: Layer, frames: int, recipe: Recipe) -> None:
        self.layer = layer
        self._name = f"{model}/{layer.name}"
        self._recipe = recipe
        self._done = 0
        self._halves = recipe.sketched and layer.channels > WIDTH
        width = WIDTH if self._halves else layer.channels
        self.pooled: Float32 = np.zeros((frames, width), np.float32)
        self._maps: Float32 | None = None
        if layer.spatial and recipe.maps:
            size = (frames, WIDTH)
            if not recipe.sketched:
                batch = min(recipe.batch, frames)
                size = (frames // batch * batch, batch)
            self._maps = np.zeros(size, np.float32)
        limit = SKETCH_ROWS if recipe.sketched else ROWS
        self._places = max(1, min(PLACES, limit // max(frames, 1))) if layer.spatial else 1
        # Seeded alike for every layer: row k is the same relative place of the same frame.
        self._random = np.random.default_rng((recipe.seed, 17))
        self._rows: list[Float32] = []
        self._signs = SignCounts.empty(layer.channels)
        self._finite = True
        self._cosines: list[Array] = []

    def add(self, array: Array) -> None:
        """The next frames' activations."""
        count, end = len(array), self._done + len(array)
        array = np.ascontiguousarray(array, dtype=np.float32)
        spatial = self.layer.spatial
        last = self.layer.channels_last
        if spatial:
            by_place = array.reshape(
                (count, -1, array.shape[-1]) if last else (*array.shape[:2], -1)
            )
            # A product with ones sums several times as fast as a mean over an axis.
            places = by_place.shape[1 if last else 2]
            share = np.full(places, 1 / places, np.float32)
            pooled = share @ by_place if last else by_place @ share
        else:
            pooled = array
        # The mean of a map that is not finite anywhere is not finite either.
        self._finite = self._finite and bool(np.isfinite(pooled).all())
        seed = self._recipe.seed
        if self._halves:
            pooled = sketch(pooled, seed, f"{self._name} pooled")
        self.pooled[self._done : end] = pooled
        if self._maps is not None:
            self._keep_maps(array, end)
        places = self._random.random((count, PLACES, 3))[:, : self._places]
        positions = np.zeros(places.shape[:2], np.int64)
        for axis, size in enumerate(spatial):
            place = np.minimum((places[:, :, axis] * size).astype(np.int64), size - 1)
            positions = positions * size + place
        rows = value_rows(array, positions, True) if not spatial else value_rows(
            array, positions, self.layer.channels_last
        )  # fmt: skip
        if rows.shape[1] > ROW_WIDTH:
            self._signs.add(rows)
            rows = mixed_down(rows, ROW_WIDTH, seed)
        self._rows.append(rows)
        self._done = end

    def _keep_maps(self, array: Array, end: int) -> None:
        assert self._maps is not None
        if self._recipe.sketched:
            self._maps[self._done : end] = sketch(array, self._recipe.seed, self._name)
            return
        if len(array) != self._maps.shape[1]:
            return  # the remainder, which has no whole Gram matrix
        flat = array.reshape(len(array), -1)
        if not self._finite:
            return  # nothing will be told of this layer
        gram: Float32 = flat @ flat.T
        # CKA centres later; doing it here costs as much as the product, and is only needed where
        # the mean is so large that float32 would lose the rest.
        if float(gram.mean(dtype=np.float64)) > 0.9 * float(np.trace(gram)) / len(gram):
            centred: Float32 = flat - flat.mean(axis=0)
            gram = centred @ centred.T
        self._maps[self._done : end] = gram

    def finish(self, before: _Keeper | None) -> LayerFeatures:
        """The features of all frames; `before` is the nearest earlier layer of equal shape."""
        rows = self.rows()
        if self.layer.channels <= ROW_WIDTH:
            self._signs.add(rows)
        influence = float("nan")
        if before is not None and self._finite:
            other = before.rows()
            with np.errstate(invalid="ignore", divide="ignore"):
                norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(other, axis=1)
                products: Array = (rows * other).sum(axis=1) / norms
            known = products[norms > 0]
            influence = 1 - float(known.mean()) if len(known) else influence
        mean = self.pooled.mean(axis=0, dtype=np.float64) if len(self.pooled) else np.zeros(1)
        varied = float(np.square(rows - rows.mean(axis=0)).sum()) if len(rows) else 0.0
        constant = varied <= 1e-10 * max(float(np.square(rows).sum()), 1e-30)
        constant = constant and float(np.abs(self.pooled - mean).max(initial=0)) <= 1e-6 * max(
            float(np.abs(mean).max()), 1e-30
        )
        dimension = float("nan")
        if self._finite and not constant:
            dimension = two_nn(self.pooled[:_DIMENSION_ROWS])
        statistics = LayerStatistics(
            self._signs.entropy() if self._finite else float("nan"),
            self._signs.sign_entropy() if self._finite else float("nan"),
            *self._signs.shares(),
            dimension,
            influence,
            before.layer.name if before is not None else "",
            self._finite,
            constant,
        )
        return LayerFeatures(self.layer, self.pooled, self._maps, rows, self._halves, statistics)

    def rows(self) -> Float32:
        """All rows so far, in one array."""
        if len(self._rows) > 1:
            self._rows = [np.concatenate(self._rows)]
        return self._rows[0] if self._rows else np.zeros((0, 1), np.float32)
