"""Six small models of as many kinds, and a seeded mutator of model files.

Half of the mutants are of bytes, half of the message: `mutant(files, index, seed)` is always the
same for the same arguments.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import helper, numpy_helper, parser

_NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 65535, 65536, 10**6, 2**24, 2**30),
    *(2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**53, 2**62, 2**63 - 1, -(2**63)),
)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))
_TEXTS = (
    *("", "x", "../../x", "/etc/hostname", "a" * 300, "a/b", "a\nb: c", "\u202e\u2028x", "ai.onnx"),
    *("Identity", "Loop", "If", "Constant", "Conv", "QuantizeLinear", "NoSuchOperator", "?", " "),
)


def models() -> dict[str, bytes]:
    """The six models, by name; the first input of each is float with a free or fixed batch."""
    made = {
        "convolutions": _convolutions(),
        "attention": _attention(),
        "branches": _branches(),
        "scans": _scans(),
        "quantised": _quantised(),
        "functions": _functions(),
    }
    return {name: model.SerializeToString() for name, model in made.items()}


def _parsed(
    text: str, weights: dict[str, Any], opset: int = 17, domains: str = ""
) -> onnx.ModelProto:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}{domains}]> {text}')
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return onnx.shape_inference.infer_shapes(model)


def _normal(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return (0.3 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def _convolutions() -> onnx.ModelProto:
    weights = {
        "w1": _normal(4, 3, 3, 3),
        "w2": _normal(4, 4, 1, 1, seed=1),
        "w3": _normal(4, 5, seed=2),
        "b3": _normal(5, seed=3),
        **{name: np.abs(_normal(4, seed=4)) + 0.5 for name in "sbmv"},
    }
    return _parsed(
        """convolutions (float[N,3,8,8] x) => (float[N,5] y) {
            c1 = Conv<pads=[1,1,1,1]>(x, w1)
            n1 = BatchNormalization<epsilon=0.001>(c1, s, b, m, v)
            r1 = Relu(n1)
            c2 = Conv(r1, w2)
            a2 = Add(c2, r1)
            p2 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a2)
            g = GlobalAveragePool(p2)
            f = Flatten(g)
            y = Gemm<transB=0>(f, w3, b3)
        }""",
        weights,
    )


def _attention() -> onnx.ModelProto:
    weights: dict[str, Any] = {
        name: _normal(6, 6, seed=seed) for seed, name in enumerate(("wq", "wk", "wv", "wo"))
    }
    weights |= {"g": np.ones(6, np.float32), "b": _normal(6), "half": np.float32(0.5)}
    return _parsed(
        """attention (float[N,4,6] x) => (float[N,4,6] y) {
            l = LayerNormalization<axis=-1>(x, g, b)
            q = MatMul(l, wq)
            k = MatMul(l, wk)
            v = MatMul(l, wv)
            t = Transpose<perm=[0,2,1]>(k)
            d = MatMul(q, t)
            s = Mul(d, half)
            p = Softmax<axis=-1>(s)
            m = MatMul(p, v)
            o = MatMul(m, wo)
            y = Add(o, x)
        }""",
        weights,
    )


def _branches() -> onnx.ModelProto:
    model = _parsed(
        """branches (float[N,4] x, bool c) => (float[N,3] y) {
            h = MatMul(x, w)
            r = If (c) <
                then_branch = yes () => (float[N,4] o) { o = Relu(h) },
                else_branch = no () => (float[N,4] p) { q = Mul(h, two) p = Tanh(q) }
            >
            y = MatMul(r, u)
        }""",
        {"w": _normal(4, 4), "u": _normal(4, 3, seed=1), "two": np.float32(2)},
    )
    return model


def _scans() -> onnx.ModelProto:
    return _parsed(
        """scans (float[5,4] x, float[4] start) => (float[4] last, float[5,4] y) {
            last, all = Scan <num_scan_inputs=1, body = step (float[4] s, float[4] i)
                => (float[4] so, float[4] z) { a = Add(s, i) so = Mul(a, d) z = Identity(so) }
            > (start, x)
            y = MatMul(all, w)
        }""",
        {"d": np.full(4, 0.9, np.float32), "w": _normal(4, 4)},
    )


def _quantised() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.integers(-100, 100, (4, 3, 3, 3)).astype(np.int8),
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
        "xs": np.float32(0.05),
        "xz": np.uint8(128),
        "v": _normal(4, 2),
    }
    return _parsed(
        """quantised (float[1,3,6,6] x) => (float[1,2] y) {
            q = QuantizeLinear(x, xs, xz)
            d = DequantizeLinear(q, xs, xz)
            e = DequantizeLinear<axis=0>(w, ws, wz)
            c = Conv(d, e)
            r = Relu(c)
            m = ReduceMean<axes=[2,3], keepdims=0>(r)
            y = MatMul(m, v)
        }""",
        weights,
        opset=13,
    )


def _functions() -> onnx.ModelProto:
    model = _parsed(
        """functions (float[N,2,6] x) => (float[M,4] y) {
            s = Shape(x)
            b = Gather<axis=0>(s, zero)
            u = Unsqueeze(b, axes)
            t = Concat<axis=0>(u, minus)
            f = Reshape(x, t)
            h = local.dense(f, w)
            z = Add(h, sparse)
            y = MatMul(z, v)
        }
        <domain: "local", opset_import: ["" : 17]>
        dense (i, k) => (o) { m = MatMul(i, k) o = Sigmoid(m) }""",
        {
            "zero": np.int64(0),
            "axes": np.array([0], np.int64),
            "minus": np.array([-1], np.int64),
            "w": _normal(12, 4),
            "v": _normal(4, 4, seed=1),
        },
        domains=', "local" : 1',
    )
    values = helper.make_tensor("sparse", onnx.TensorProto.FLOAT, [2], [0.5, -0.5])
    places = helper.make_tensor("places", onnx.TensorProto.INT64, [2], [0, 3])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))
    return model


# -- mutations -----------------------------------------------------------------------------


def mutant(files: Sequence[bytes], index: int, seed: int = 0) -> bytes:
    """Mutant number `index` of the models in turn: one to three mutations, at one of two levels."""
    draw = random.Random(f"{seed}/{index}")
    original = content = files[index % len(files)]
    bytes_level = index // len(files) % 2
    left = draw.choice((1, 1, 2, 3))
    while left > 0 or content == original:
        changed = _of_bytes(content, files, draw) if bytes_level else _of_message(content, draw)
        content, left = changed or content, left - 1
    return content


def _of_bytes(content: bytes, files: Sequence[bytes], draw: random.Random) -> bytes:
    """Flipped bits, extreme bytes, cut, chunks left out, doubled, or spliced from another file."""
    data = bytearray(content)
    size = len(data)
    start = draw.randrange(size)
    length = min(draw.choice((1, 2, 4, 16, 64, 256)), size - start)
    chunk = bytes(data[start : start + length])
    kind = draw.randrange(8)
    if kind <= 1:
        for _ in range(draw.choice((1, 2, 8))):
            data[draw.randrange(size)] ^= 1 << draw.randrange(8)
    elif kind == 2:
        for _ in range(draw.choice((1, 2, 8))):
            data[draw.randrange(size)] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
    elif kind == 3:
        del data[start:]
    elif kind == 4:
        del data[start : start + length]
    elif kind == 5:
        data[start:start] = chunk * draw.choice((1, 2, 8))
    elif kind == 6:
        other = draw.choice(files)
        begin = draw.randrange(len(other))
        data[start : start + length] = other[begin : begin + length]
    else:  # the last one of a field that stands twice wins, and messages are merged
        data += draw.choice((bytes(data), bytes(data[: start + 1]), draw.choice(files)))
    return bytes(data)


def _of_message(content: bytes, draw: random.Random) -> bytes | None:
    """Another value of one field, or its elements swapped, doubled, left out or moved elsewhere."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception:  # an earlier mutation of bytes; protobuf's error has no stable class
        return None
    places = _places(model)
    owner, field = draw.choice(places)
    value: Any = getattr(owner, field.name)
    try:
        if not _is_list(field):
            _one_field(owner, field, value, places, draw)
        elif len(value):
            _one_list(owner, field, value, places, draw)
        return model.SerializeToString()
    except (ValueError, TypeError):  # no value of that field's type: 2**63 in an int32
        return None


def _places(model: Message) -> list[tuple[Message, FieldDescriptor]]:
    """Every field that is set anywhere in the message."""
    found: list[tuple[Message, FieldDescriptor]] = []
    stack: list[Any] = [model]
    while stack:
        owner = stack.pop()
        for field, value in owner.ListFields():
            found.append((owner, field))
            if field.message_type is not None:
                stack += list(value) if _is_list(field) else [value]
    return found


def _is_list(field: FieldDescriptor) -> bool:
    label: Any = getattr(field, "is_repeated", None)
    return bool(label) if label is not None else field.label == FieldDescriptor.LABEL_REPEATED


def _another(field: FieldDescriptor, value: Any, draw: random.Random) -> Any:
    if isinstance(value, (bool, int)):
        return draw.choice((*_NUMBERS, value + 1, value - 1, -value, value * 1000))
    if isinstance(value, float):
        return draw.choice((*_FLOATS, value * 1e6))
    if isinstance(value, str):
        return draw.choice((*_TEXTS, value + "2", value[:-1]))
    if field.name == "raw_data" and len(value) >= 4 and draw.random() < 0.5:
        return value[:-4] + draw.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff" * 4))
    return draw.choice((b"", value[: len(value) // 2], value * 2, b"\xff" * len(value)))


def _one_field(
    owner: Any,
    field: FieldDescriptor,
    value: Any,
    places: Sequence[tuple[Message, FieldDescriptor]],
    draw: random.Random,
) -> None:
    if draw.random() < 0.15:
        owner.ClearField(field.name)
    elif field.message_type is not None:
        value.CopyFrom(draw.choice(_alike(field, places)))
    else:
        setattr(owner, field.name, _another(field, value, draw))


def _one_list(
    owner: Any,
    field: FieldDescriptor,
    value: Any,
    places: Sequence[tuple[Message, FieldDescriptor]],
    draw: random.Random,
) -> None:
    one, other = draw.randrange(len(value)), draw.randrange(len(value))
    changes: list[Callable[[list[Any]], object]] = [
        lambda items: items.pop(one),
        lambda items: items.append(items[one]),
        lambda items: items.insert(0, items.pop(one)),
        lambda items: items.__setitem__(one, items[other]),
        lambda items: items.extend(items[one:] * 3),
        lambda items: items.__setitem__(slice(None), items[::-1]),
    ]
    items = list(value)
    if field.message_type is not None:
        items = [type(item).FromString(item.SerializeToString()) for item in items]
        changes.append(lambda items: items.__setitem__(one, draw.choice(_alike(field, places))))
    else:
        changes += [
            lambda items: items.__setitem__(one, _another(field, items[one], draw)),
            lambda items: items.__setitem__(one, _another(field, items[one], draw)),
        ]
    draw.choice(changes)(items)
    owner.ClearField(field.name)
    getattr(owner, field.name).extend(items)


def _alike(field: FieldDescriptor, places: Sequence[tuple[Message, FieldDescriptor]]) -> list[Any]:
    """All messages of a field's type in the model, as copies."""
    found: list[Any] = []
    for owner, other in places:
        if other.message_type is field.message_type:
            value: Any = getattr(owner, other.name)
            found += list(value) if _is_list(other) else [value]
    return [type(item).FromString(item.SerializeToString()) for item in found]
