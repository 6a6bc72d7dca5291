"""How convolutions slide: which places of the input each place of the output reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from ..graph.arrays import Int64


@dataclass(frozen=True)
class Window:
    """How a convolution slides: kernel, strides, dilations per axis; pads: all begins, all ends."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    def output_size(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial size of the output for an input of that size."""
        rank = len(spatial)
        return tuple(
            (size + self.pads[axis] + self.pads[rank + axis] - (k - 1) * d - 1) // s + 1
            for axis, (size, k, s, d) in enumerate(
                zip(spatial, self.kernel, self.strides, self.dilations)
            )
        )

    def reads(self, spatial: tuple[int, ...]) -> list[Int64]:
        """Per axis [outputs, kernel]: where each tap reads; the input's size where it reads none.

        What no tap reads counts as zero: padding, and for a transposed convolution all taps of
        another phase.
        """
        return [
            _within(np.arange(size)[:, None] * stride - pad + self._taps(axis), limit)
            for axis, (size, stride, pad, limit) in enumerate(
                zip(self.output_size(spatial), self.strides, self.pads, spatial)
            )
        ]

    def _taps(self, axis: int) -> Int64:
        return np.arange(self.kernel[axis]) * self.dilations[axis]


@dataclass(frozen=True)
class TransposedWindow(Window):
    """How a transposed convolution slides: it writes where a Window of these numbers would read.

    `output_padding` are places at the end that the size of the input leaves open.
    """

    output_padding: tuple[int, ...]

    def output_size(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial size of the output for an input of that size."""
        rank = len(spatial)
        return tuple(
            (size - 1) * s + (k - 1) * d + 1 + more - self.pads[axis] - self.pads[rank + axis]
            for axis, (size, k, s, d, more) in enumerate(
                zip(spatial, self.kernel, self.strides, self.dilations, self.output_padding)
            )
        )

    def reads(self, spatial: tuple[int, ...]) -> list[Int64]:
        """Per axis [outputs, kernel]: as for a Window; output o reads (o + pad - tap) / stride."""
        found: list[Int64] = []
        for axis, (size, stride, pad, limit) in enumerate(
            zip(self.output_size(spatial), self.strides, self.pads, spatial)
        ):
            ahead = np.arange(size)[:, None] + pad - self._taps(axis)
            found.append(_within(np.where(ahead % stride == 0, ahead // stride, limit), limit))
        return found


def _within(places: Int64, limit: int) -> Int64:
    return np.where((places >= 0) & (places < limit), places, limit)


def window_of(
    node: gs.Node, kernel: tuple[int, ...], spatial: tuple[int, ...] | None = None
) -> Window | None:
    """The window of a Conv; None where padding depends on the input's size, which is not given."""
    strides, dilations, pads = _numbers(node, len(kernel))
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto == "VALID":
        pads = (0,) * len(pads)
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        if spatial is None and any(size != 1 for size in kernel):
            return None
        before: list[int] = []
        after: list[int] = []
        for size, k, s, d in zip(spatial or kernel, kernel, strides, dilations):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            small, large = total // 2, total - total // 2
            before.append(small if auto == "SAME_UPPER" else large)
            after.append(large if auto == "SAME_UPPER" else small)
        pads = (*before, *after)
    return Window(kernel, strides, dilations, pads)


def transposed_window_of(node: gs.Node, kernel: tuple[int, ...]) -> TransposedWindow | None:
    """The window of a ConvTranspose; None where its padding follows from a wished output size."""
    strides, dilations, pads = _numbers(node, len(kernel))
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID") or node.attrs.get("output_shape"):
        return None
    more = tuple(node.attrs.get("output_padding") or [0] * len(kernel))
    return TransposedWindow(
        kernel, strides, dilations, (0,) * len(pads) if auto == "VALID" else pads, more
    )


def may_pad(node: gs.Node) -> bool:
    """Whether a convolution reads, or may read, zeros around its input."""
    auto = node.attrs.get("auto_pad", "NOTSET")
    return any(node.attrs.get("pads") or ()) or auto not in ("NOTSET", "VALID")


def _numbers(node: gs.Node, rank: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Strides, dilations and pads as the node has them."""
    return (
        tuple(node.attrs.get("strides") or [1] * rank),
        tuple(node.attrs.get("dilations") or [1] * rank),
        tuple(node.attrs.get("pads") or [0] * (2 * rank)),
    )
