"""What makes frames a poor sample: too few, nearly constant, nearly all alike, copies."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from .analysis.calibration import Frames

# With 128 frames one best match in six is another than with 2 000, with 256 one in eleven
# (resnet20 x resnet44, CKA).
ENOUGH_FRAMES = 256
# Frames that are looked at.
_LOOKED_AT = 256
# Shares of variance that count as none, and of frames that count as many.
_NO_VARIANCE = 1e-4
_ALIKE = 0.01
_MANY = 0.1


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
    fed = frames.feed(model, looked_at)
    count = len(looked_at)
    distinct = {
        hashlib.sha256(
            b"".join(np.ascontiguousarray(a[k]).tobytes() for a in fed.values())
        ).digest()
        for k in range(count)
    }
    if len(distinct) == 1 and count > 1:
        return [*found, "all frames are the same: nothing varies, so every measure is undefined"]
    if len(distinct) < (1 - _MANY) * count:
        found.append(
            f"{count - len(distinct)} of {count} frames are copies of others, and tell nothing new"
        )
    for name, array in fed.items():
        if array.dtype.kind not in "iuf":
            continue
        flat = array.reshape(count, -1).astype(np.float64)
        power = float(np.square(flat - flat.mean()).mean())
        within = flat.var(axis=1)
        if flat.shape[1] > 1 and power > 0:
            flat_frames = int((within < _NO_VARIANCE * power).sum())
            if flat_frames > _MANY * count:
                found.append(
                    f"{flat_frames} of {count} frames are nearly constant in input '{name}'"
                )
        across = float(flat.var(axis=0).mean())
        if power > 0 and across < _ALIKE * power:
            found.append(
                f"the frames are nearly all alike in input '{name}': they differ by "
                f"{100 * across / power:.2g} % of their variance, so similarity sees little"
            )
    return found
