"""From activations to features: every layer of a model in one pass over the frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from math import prod
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from ..errors import DataError
from ..execution.executable import workers
from ..execution.signs import SignCounts, two_nn
from ..graph.arrays import Array, Float32, Float64
from ..graph.program import Program
from .features import LayerFeatures, LayerStatistics, ModelFeatures, Recipe
from .layers import Layer, Skipped
from .reduction import Reduced, ReducedRun, joined, reduce_array
from .sketch import WIDTH, mixed_down, sketch

_Result = TypeVar("_Result")

# The fewest frames per Gram matrix of whole maps.
MIN_BATCH = 8
# All layers' maps of a batch are in memory some four times over (ONNX Runtime's and ours, of this
# batch and the next); large ones are run fewer frames at a time.
BATCH_NBYTES = 64 << 20
# The largest map of a batch whose maps stay in ONNX Runtime.
RUN_NBYTES = 1 << 20
# Sampled places: rows in all, per frame at most; the channels of a row at most.
ROWS = 4096
SKETCH_ROWS = 2048
PLACES = 8
ROW_WIDTH = 256
# Rows for the intrinsic dimension: it needs all distances between them.
_DIMENSION_ROWS = 256


def batch_for(layers: Sequence[Layer], recipe: Recipe) -> int:
    """Frames per run of the model, a power of two up to the recipe's.

    With whole maps, as many as fit in memory with those of all layers; at least 8 where maps are
    compared within a batch. Without, maps never leave ONNX Runtime, and fewer frames are as fast
    while their maps are in the processor's cache.
    """
    sizes = [4 * prod(layer.shape) for layer in layers]
    if recipe.maps:
        per_frame, limit = sum(sizes), BATCH_NBYTES
        least = 1 if recipe.sketched else MIN_BATCH
    else:
        per_frame, limit, least = max(sizes, default=0), RUN_NBYTES, 1
    batch = recipe.batch
    while batch > least and batch * per_frame > limit:
        batch //= 2
    return batch


def workers_for(recipe: Recipe) -> int:
    """How many batches run at a time, on one thread each.

    One convolution of small maps does not keep several cores busy. Whole maps of more than one
    batch would be too much for memory.
    """
    return 1 if recipe.maps else workers()


def extract(
    program: Program,
    layers: Sequence[Layer],
    batches: Iterator[Mapping[str, Array]],
    frames: int,
    recipe: Recipe,
    advance: Callable[[int], None] = lambda _: None,
) -> ModelFeatures:
    """The features of the one model's layers in one forward pass over `frames` frames.

    `batches` feed the program's inputs. A layer that does not keep frames on axis 0, with the
    sizes that the graph declares, is skipped. Raises ModelError when the model does not run.
    """
    (model,) = program.models
    if not layers:
        return ModelFeatures(model, frames, recipe, ())
    at_once = workers_for(recipe)
    run = ReducedRun(program, model, layers, recipe.maps, None if at_once == 1 else 1)
    places = _Places(recipe, frames)
    faults: dict[int, Skipped] = {}

    def call(feeds: Mapping[str, Array], at: Array) -> tuple[int, list[Reduced | list[int]]]:
        return len(at), run({name: feeds[name] for name in run.inputs}, at)

    def parts() -> Iterator[list[Reduced]]:
        calls = ((feeds, places.next(len(next(iter(feeds.values()))))) for feeds in batches)
        for count, reduced in _ahead(call, calls, at_once):
            taken: list[Reduced] = []
            for index, (layer, part) in enumerate(zip(layers, reduced)):
                if not isinstance(part, Reduced):
                    reason = f"it gave {part} for {count} frames of {list(layer.shape)}"
                    faults.setdefault(index, Skipped(model, layer.name, reason))
                    part = Reduced.nothing(count)
                taken.append(part)
            yield taken

    keepers = [_Keeper(model, layer, frames, recipe, places.per_frame) for layer in layers]
    # Gram matrices of whole maps need batches of one size; means and rows take what comes.
    batched = _rebatched(parts(), recipe.batch) if recipe.maps else parts()
    # ONNX Runtime has the cores: small products on more than one thread would only wait for them.
    with threadpool_limits(1, user_api="blas"):
        for reduced in batched:
            for index, (keeper, part) in enumerate(zip(keepers, reduced)):
                if index not in faults:
                    keeper.add(part)
            advance(len(reduced[0]))
        kept = [keeper for index, keeper in enumerate(keepers) if index not in faults]
        found = _finished(model, frames, recipe, kept)
    return replace(found, skipped=tuple(faults.values()))


def features_of_arrays(model: str, arrays: Mapping[str, Array], recipe: Recipe) -> ModelFeatures:
    """The features of layers given as arrays [n, ...] of equal n.

    Channels are on axis 1 from four axes on, on the last below. Raises DataError for anything but
    floats of 2 to 5 axes and equal n.
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
        layer = Layer(name, f"{model}/{name}", tuple(array.shape[1:]), array.ndim < 4)
        # Seeded alike for every layer: row k is the same relative place of the same frame.
        places = _Places(recipe, frames)
        keeper = _Keeper(model, layer, frames, recipe, places.per_frame)
        for start in range(0, frames, recipe.batch):
            part = array[start : start + recipe.batch]
            keeper.add(reduce_array(part, layer, places.next(len(part)), recipe.maps))
        keepers.append(keeper)
    return _finished(model, frames, recipe, keepers)


def _finished(model: str, frames: int, recipe: Recipe, keepers: Sequence[_Keeper]) -> ModelFeatures:
    before: list[_Keeper | None] = []
    latest: dict[tuple[int, ...], _Keeper] = {}
    for keeper in keepers:
        before.append(latest.get(keeper.layer.shape))
        latest[keeper.layer.shape] = keeper
    with ThreadPoolExecutor(workers()) as pool:
        found = tuple(pool.map(_Keeper.finish, keepers, before))
    return ModelFeatures(model, frames, recipe, found)


def _ahead(
    run: Callable[..., _Result], calls: Iterator[tuple[Any, ...]], at_once: int
) -> Iterator[_Result]:
    """What `run` gives for each call, in order, `at_once` at a time while the last is in use."""
    with ThreadPoolExecutor(at_once) as pool:
        coming: deque[Future[_Result]] = deque()
        for call in calls:
            coming.append(pool.submit(run, *call))
            if len(coming) > at_once:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _rebatched(parts: Iterator[list[Reduced]], size: int) -> Iterator[list[Reduced]]:
    """The same frames in batches of exactly `size`, but for the last."""
    held: list[list[Reduced]] = []
    count = 0
    for part in parts:
        if not held and len(part[0]) == size:
            yield part
            continue
        held.append(part)
        count += len(part[0])
        while count >= size:
            whole = [joined(each) for each in zip(*held)]
            yield [each[:size] for each in whole]
            held = [[each[size:] for each in whole]] if count > size else []
            count -= size
    if count:
        yield [joined(each) for each in zip(*held)]


class _Places:
    """Relative places [n, per_frame, 3] in 0..1, drawn frame by frame: equal for every layer."""

    def __init__(self, recipe: Recipe, frames: int) -> None:
        limit = SKETCH_ROWS if recipe.sketched else ROWS
        self.per_frame = max(1, min(PLACES, limit // max(frames, 1)))
        self._random = np.random.default_rng((recipe.seed, 17))

    def next(self, count: int) -> Float64:
        """Those of the next `count` frames."""
        return self._random.random((count, PLACES, 3))[:, : self.per_frame]


class _Keeper:
    """Takes in a layer's reduced activations batch by batch and keeps its features."""

    def __init__(self, model: str, layer: Layer, frames: int, recipe: Recipe, places: int) -> None:
        self.layer = layer
        self._name = f"{model}/{layer.name}"
        self._recipe = recipe
        self._done = 0
        self._halves = recipe.sketched and layer.channels > WIDTH
        width = WIDTH if self._halves else layer.channels
        self.pooled: Float32 = np.empty((frames, width), np.float32)
        self._maps: Float32 | None = None
        if layer.spatial and recipe.maps:
            size = (frames, WIDTH)
            if not recipe.sketched:
                batch = min(recipe.batch, frames)
                size = (frames // batch * batch, batch)
            self._maps = np.zeros(size, np.float32)
        self._places = places if layer.spatial else 1
        self.rows: Float32 = np.empty(
            (frames * self._places, min(layer.channels, ROW_WIDTH)), np.float32
        )
        self._signs = SignCounts.empty(layer.channels)
        self._finite = True

    def add(self, part: Reduced) -> None:
        """The next frames' activations."""
        end = self._done + len(part)
        pooled, seed = part.pooled, self._recipe.seed
        # The mean of a map that is not finite anywhere is not finite either.
        self._finite = self._finite and bool(np.isfinite(pooled).all())
        if self._halves:
            pooled = sketch(pooled, seed, f"{self._name} pooled")
        self.pooled[self._done : end] = pooled
        if self._maps is not None:
            self._keep_maps(part.maps, end)
        rows = part.rows.reshape(-1, self.layer.channels)
        if self.layer.channels > ROW_WIDTH:
            self._signs.add(rows)
            rows = mixed_down(rows, ROW_WIDTH, seed)
        self.rows[self._done * self._places : end * self._places] = rows
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
        rows = self.rows
        if self.layer.channels <= ROW_WIDTH:
            self._signs.add(rows)
        constant = self._constant()
        dimension = float("nan")
        if self._finite and not constant:
            dimension = two_nn(self.pooled[:_DIMENSION_ROWS])
        statistics = LayerStatistics(
            self._signs.entropy() if self._finite else float("nan"),
            self._signs.sign_entropy() if self._finite else float("nan"),
            *self._signs.shares(),
            dimension,
            float("nan") if before is None else self._influence(before),
            before.layer.name if before is not None else "",
            self._finite,
            constant,
        )
        return LayerFeatures(self.layer, self.pooled, self._maps, rows, self._halves, statistics)

    @cached_property
    def powers(self) -> Float32:
        """The squared length of every row, once all are there."""
        with np.errstate(over="ignore", invalid="ignore"):
            found: Float32 = np.einsum("nc,nc->n", self.rows, self.rows)
        return found

    def _influence(self, before: _Keeper) -> float:
        if not self._finite:
            return float("nan")
        with np.errstate(invalid="ignore", over="ignore"):
            norms = np.sqrt(self.powers) * np.sqrt(before.powers)
            products = np.einsum("nc,nc->n", self.rows, before.rows)
        known = norms > 0
        return 1 - float((products[known] / norms[known]).mean()) if known.any() else float("nan")

    def _constant(self) -> bool:
        """Whether neither places nor frames differ by more than rounding."""
        rows, pooled = self.rows, self.pooled
        if not len(rows) or not self._finite:
            return not len(rows)
        mean = rows.mean(axis=0, dtype=np.float64)
        power = float(self.powers.sum(dtype=np.float64))
        # Far from constant is told without looking at every number again.
        if power - len(rows) * float(mean @ mean) > 1e-3 * power:
            return False
        varied = float(np.square(rows - mean).sum())
        if varied > 1e-10 * max(power, 1e-30):
            return False
        mean = pooled.mean(axis=0, dtype=np.float64)
        deviation = float(np.abs(pooled - mean).max(initial=0))
        return deviation <= 1e-6 * max(float(np.abs(mean).max()), 1e-30)
