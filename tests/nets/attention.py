"""One layer of attention as exporters write it, in several ways that compute alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from tests.nets.networks import Array, Net

HEADS, DIMS, TOKENS, WIDTH = 2, 8, 6, 16


class _Layer:
    """Queries, keys and values of `HEADS` heads, of which queries and keys have only some rank."""

    def __init__(self, net: Net, rank: int) -> None:
        self.net = net
        shape = (HEADS, WIDTH + 1, rank)
        self.maps = [
            net.normal(*shape, scale=0.4) @ net.normal(HEADS, rank, DIMS, scale=0.4),
            net.normal(*shape, scale=0.4) @ net.normal(HEADS, rank, DIMS, scale=0.4),
            net.normal(HEADS, WIDTH + 1, DIMS, scale=0.3),
        ]

    def projected(self, x: str, *parts: int, factor: float = 1.0) -> str:
        """Some of queries, keys and values side by side, one head after another."""
        arrays: list[Array] = [self.maps[part].transpose(1, 0, 2) for part in parts]
        joined = factor * np.concatenate([a.reshape(WIDTH + 1, -1) for a in arrays], axis=1)
        product = self.net.node("MatMul", x, self.net.weight(joined[:-1]))
        return self.net.node("Add", product, self.net.weight(joined[-1]))

    def reshaped(self, x: str, *shape: int) -> str:
        return self.net.node("Reshape", x, self.net.weight(np.array(shape, np.int64)))

    def transposed(self, x: str, *perm: int) -> str:
        return self.net.node("Transpose", x, perm=list(perm))

    def headed(self, x: str, *perm: int) -> str:
        return self.transposed(self.reshaped(x, 0, -1, HEADS, DIMS), *perm)

    def one(self, x: str, index: int) -> str:
        return self.net.node("Gather", x, self.net.weight(np.array(index, np.int64)), axis=0)

    def times(self, x: str, factor: float) -> str:
        return self.net.node("Mul", x, self.net.weight(np.float32(factor)))

    def ints(self, *numbers: int) -> str:
        return self.net.weight(np.array(numbers, np.int64))


_SCALE = DIMS**-0.5
_Parts = tuple[str, str, str]


def _apart(layer: _Layer, x: str) -> _Parts:
    q, k, v = (layer.projected(x, part) for part in range(3))
    k = layer.headed(k, 0, 2, 3, 1)
    return layer.times(layer.headed(q, 0, 2, 1, 3), _SCALE), k, layer.headed(v, 0, 2, 1, 3)


def _timm(layer: _Layer, x: str) -> _Parts:
    cut = layer.reshaped(layer.projected(x, 0, 1, 2), -1, TOKENS, 3, HEADS, DIMS)
    cut = layer.transposed(cut, 2, 0, 3, 1, 4)
    q, k, v = (layer.one(cut, part) for part in range(3))
    return layer.times(q, _SCALE), layer.transposed(k, 0, 1, 3, 2), v


def _split(layer: _Layer, x: str) -> _Parts:
    # Both are scaled, as PyTorch writes scaled_dot_product_attention.
    q, k, v = layer.net.split(layer.projected(x, 0, 1, 2), *[HEADS * DIMS] * 3)
    q = layer.times(layer.headed(q, 0, 2, 1, 3), _SCALE**0.5)
    k = layer.transposed(layer.headed(k, 0, 2, 1, 3), 0, 1, 3, 2)
    return q, layer.times(k, _SCALE**0.5), layer.headed(v, 0, 2, 1, 3)


def _slices(layer: _Layer, x: str) -> _Parts:
    cut = layer.reshaped(layer.projected(x, 0, 1, 2), 0, -1, 3, HEADS, DIMS)
    cut = layer.transposed(cut, 2, 0, 3, 1, 4)
    q, k, v = (
        layer.net.node(
            "Squeeze",
            layer.net.node("Slice", cut, layer.ints(i), layer.ints(i + 1), layer.ints(0)),
            layer.ints(0),
        )
        for i in range(3)
    )
    divided = layer.net.node("Div", q, layer.net.weight(np.float32(1 / _SCALE)))
    return divided, layer.transposed(k, 0, 1, 3, 2), v


def _two(layer: _Layer, x: str) -> _Parts:
    # Keys and values from one projection; the shape is computed.
    q, kv = layer.projected(x, 0, factor=_SCALE), layer.projected(x, 1, 2)
    frames = layer.net.node("Gather", layer.net.node("Shape", kv), layer.ints(0), axis=0)
    shape = layer.net.node("Concat", frames, layer.ints(TOKENS, 2, HEADS, DIMS), axis=0)
    cut = layer.transposed(layer.net.node("Reshape", kv, shape), 2, 0, 3, 1, 4)
    k, v = (layer.one(cut, part) for part in range(2))
    return layer.headed(q, 0, 2, 1, 3), layer.transposed(k, 0, 1, 3, 2), v


def _tokens_first(layer: _Layer, x: str) -> _Parts:
    x = layer.transposed(x, 1, 0, 2)
    q, k, v = (layer.reshaped(layer.projected(x, part), TOKENS, -1, DIMS) for part in range(3))
    q = layer.times(layer.transposed(q, 1, 0, 2), _SCALE)
    return q, layer.transposed(k, 1, 2, 0), layer.transposed(v, 1, 0, 2)


WAYS: dict[str, Callable[[_Layer, str], _Parts]] = {
    "apart": _apart,
    "timm": _timm,
    "split": _split,
    "slices": _slices,
    "two": _two,
    "tokens_first": _tokens_first,
}
"""How queries, keys and values are written, by name; all compute the same."""


def attention_layer(
    way: str = "timm",
    rank: int = 3,
    seed: int = 11,
    frames: int | str = "N",
    tokens: int | str = TOKENS,
) -> onnx.ModelProto:
    """Tokens x [6, 10] -> e -> attention with map s, a mask and a skip -> scores y.

    There is no mask where the number of tokens is free.
    """
    net = Net(seed)
    x = net.node("Tanh", net.linear("x", 10, WIDTH), out="e")
    q, k, v = WAYS[way](_Layer(net, rank), x)
    logits = net.node("MatMul", q, k, out="l")
    if tokens == TOKENS:
        mask = np.where(np.tri(TOKENS, k=2, dtype=bool), 0.0, -1e4)
        logits = net.node("Add", logits, net.weight(mask))
    mixed = net.node("MatMul", net.node("Softmax", logits, axis=-1, out="s"), v)
    if way == "tokens_first":
        shape = net.weight(np.array([-1, HEADS, TOKENS, DIMS], np.int64))
        mixed = net.node("Reshape", mixed, shape)
    mixed = net.node("Transpose", mixed, perm=[0, 2, 1, 3])
    shape = net.weight(np.array([0, -1, HEADS * DIMS], np.int64))
    x = net.node("Add", x, net.linear(net.node("Reshape", mixed, shape), HEADS * DIMS, WIDTH))
    net.gemm(net.node("ReduceMean", x, axes=[1], keepdims=0), WIDTH, 5, out="y")
    return net.model(x=(frames, tokens, 10))
