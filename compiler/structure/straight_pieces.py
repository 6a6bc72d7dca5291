"""Activation functions made of straight pieces: where they are, and what they are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..graph.arrays import Float64
from ..graph.program import is_standard
from ..graph.weights import array_of
from .intervals import per_channel


@dataclass(frozen=True)
class StraightPiece:
    """A stretch [low, high] of inputs on which an activation is slope x + offset, per channel."""

    low: Float64
    high: Float64
    slope: Float64
    offset: Float64


def straight(node: gs.Node, low: Float64, high: Float64, axis: int) -> tuple[Float64, Float64]:
    """Slope and offset per channel of an activation on inputs in [low, high]; nan where bent.

    `axis` is that of the channels. Relu, LeakyRelu, PRelu, Clip, HardSigmoid, HardSwish and
    ThresholdedRelu have straight pieces; others are bent everywhere.
    """
    slope, offset = np.full(len(low), np.nan), np.full(len(low), np.nan)
    for piece in _pieces(node, len(low), axis):
        inside = (low >= piece.low) & (high <= piece.high) & np.isnan(slope)
        slope = np.where(inside, piece.slope, slope)
        offset = np.where(inside, piece.offset, offset)
    return slope, offset


def is_identity(node: gs.Node) -> bool:
    """Whether the activation gives back whatever it is given, by its own parameters."""
    if not is_standard(node):
        return False
    if node.op == "LeakyRelu":
        return float(node.attrs.get("alpha", 0.01)) == 1
    if node.op == "PRelu":
        slope = node.inputs[1]
        shape = node.inputs[0].shape
        if not isinstance(slope, gs.Constant) or array_of(slope).dtype.kind != "f":
            return False
        # A slope of more axes would change the result's shape.
        fits = shape is not None and array_of(slope).ndim <= len(shape)
        return fits and bool(np.all(slope.values == 1))
    if node.op == "Clip":
        limits = _limits(node)
        return limits is not None and limits[0] == -np.inf and limits[1] == np.inf
    return False


def _pieces(node: gs.Node, channels: int, axis: int) -> list[StraightPiece]:
    if not is_standard(node):
        return []

    def piece(low: Any, high: Any, slope: Any, offset: Any) -> StraightPiece:
        given = (np.asarray(value, np.float64) for value in (low, high, slope, offset))
        return StraightPiece(*(np.broadcast_to(value, (channels,)) for value in given))

    if node.op in ("Relu", "LeakyRelu", "PRelu"):
        below = _slope_below(node, channels, axis)
        if below is None:
            return []
        always = np.where(below == 1, -np.inf, 0.0)
        return [piece(always, np.inf, 1, 0), piece(-np.inf, 0, below, 0)]
    if node.op == "ThresholdedRelu":
        alpha = float(node.attrs.get("alpha", 1.0))
        return [piece(np.nextafter(alpha, np.inf), np.inf, 1, 0), piece(-np.inf, alpha, 0, 0)]
    if node.op == "Clip":
        limits = _limits(node)
        if limits is None:
            return []
        low, high = limits
        found = [piece(low, high, 1, 0)]
        found += [piece(-np.inf, low, 0, low)] if np.isfinite(low) else []
        return found + ([piece(high, np.inf, 0, high)] if np.isfinite(high) else [])
    if node.op == "HardSigmoid":
        alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
        if alpha <= 0:
            return []
        left, right = -beta / alpha, (1 - beta) / alpha
        return [
            piece(left, right, alpha, beta),
            piece(-np.inf, left, 0, 0),
            piece(right, np.inf, 0, 1),
        ]
    if node.op == "HardSwish":
        return [piece(3, np.inf, 1, 0), piece(-np.inf, -3, 0, 0)]
    return []


def _slope_below(node: gs.Node, channels: int, axis: int) -> Float64 | None:
    """The slope of negative inputs per channel; None where it varies within a channel."""
    if node.op == "Relu":
        return np.zeros(channels)
    if node.op == "LeakyRelu":
        return np.full(channels, float(node.attrs.get("alpha", 0.01)))
    slope, shape = node.inputs[1], node.inputs[0].shape
    if not isinstance(slope, gs.Constant) or shape is None:
        return None
    return per_channel(slope.values.astype(np.float64), len(shape), axis, channels)


def _limits(node: gs.Node) -> tuple[float, float] | None:
    limits = [float(node.attrs.get("min", -np.inf)), float(node.attrs.get("max", np.inf))]
    for index, tensor in enumerate(node.inputs[1:3]):
        if tensor.is_empty():
            continue
        if not isinstance(tensor, gs.Constant):
            return None
        limits[index] = float(tensor.values.reshape(-1)[0])
    return limits[0], limits[1]
