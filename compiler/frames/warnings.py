"""What makes frames a poor sample: too few, nearly constant, nearly all alike, copies."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .calibration import Frames
from .sources import SameArray

# With 128 frames one best match in seven is another than with 2 000, with 256 one in nine
# (resnet20 x resnet44, CKA).
ENOUGH_FRAMES = 256
# Frames that are looked at.
_LOOKED_AT = 256
# Shares of variance that count as none, and of frames that count as many.
_NO_VARIANCE = 1e-4
_ALIKE = 0.01
_MANY = 0.1
# Frames that are made float64 at a time.
_BLOCK = 16


def frame_warnings(frames: Frames, model: str, rows: NDArray[np.int64]) -> list[str]:
    """Warnings about the frames of one stream, told by the inputs of `model`; [] for good ones."""
    found: list[str] = []
    if len(rows) < ENOUGH_FRAMES:
        found.append(
            f"{len(rows)} frames are few: what is measured moves with the sample; "
            f"{ENOUGH_FRAMES} or more are better"
        )
    unit = frames.batch(model) or 1
    looked_at = rows[: max(_LOOKED_AT // unit, 1) * unit]
    sources = {spec.name: frames.sources[model, spec.name] for spec in frames.inputs[model]}
    # Frames first, whatever axis the model counts them on, and those of one size together.
    kinds = frames.alike([model], looked_at)
    parts = [{name: source.rows(some) for name, source in sources.items()} for some in kinds]
    count = len(looked_at)
    distinct = {
        hashlib.sha256(
            b"".join(np.ascontiguousarray(a[k]).tobytes() for a in fed.values())
        ).digest()
        for fed, some in zip(parts, kinds)
        for k in range(len(some))
    }
    if len(distinct) == 1 and count > 1:
        return [*found, "all frames are the same: nothing varies, so every measure is undefined"]
    if len(distinct) < (1 - _MANY) * count:
        found.append(
            f"{count - len(distinct)} of {count} frames are copies of others, and tell nothing new"
        )
    # Frames of other sizes cannot be held against each other: the most frequent size tells.
    most = max(range(len(kinds)), key=lambda place: len(kinds[place]))
    count = len(kinds[most])
    for name, array in parts[most].items():
        if array.dtype.kind not in "iuf" or isinstance(sources[name], SameArray) or count < 2:
            continue
        within, across, power = _variances(array.reshape(count, -1))
        if len(within) and array[0].size > 1 and power > 0:
            flat_frames = int((within < _NO_VARIANCE * power).sum())
            if flat_frames > _MANY * count:
                found.append(
                    f"{flat_frames} of {count} frames are nearly constant in input '{name}'"
                )
        if power > 0 and across < _ALIKE * power:
            found.append(
                f"the frames are nearly all alike in input '{name}': they differ by "
                f"{100 * across / power:.2g} % of their variance, so similarity sees little"
            )
    return found


def _variances(flat: NDArray[Any]) -> tuple[NDArray[np.float64], float, float]:
    """Of frames [n, size]: each one's own variance [n], the mean over places of that between
    frames, and the variance of all numbers; a few frames at a time."""
    shift = float(flat[0].mean(dtype=np.float64))
    sums, squares = np.zeros(flat.shape[1]), np.zeros(flat.shape[1])
    within = np.zeros(len(flat))
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.float64) - shift
        sums += block.sum(axis=0)
        means = block.mean(axis=1)
        np.square(block, out=block)
        squares += block.sum(axis=0)
        within[start : start + _BLOCK] = np.maximum(block.mean(axis=1) - np.square(means), 0)
    count = len(flat)
    across = np.maximum(squares / count - np.square(sums / count), 0)
    mean = float(sums.sum()) / flat.size
    return within, float(across.mean()), max(float(squares.sum()) / flat.size - mean * mean, 0.0)
