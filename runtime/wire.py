"""A model file's graph, read and cut into parts without the onnx package.

ONNX Runtime (1.31, as published) ignores `RunOptions.only_execute_path_to_fetches`: asked for
one output it computes all. To run one model of a merged graph and not the others, the runtime
cuts the file itself, on the level of protobuf's wire format: a part is a model whose nodes,
weights and values are byte ranges of the original. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from .errors import ModelError

_GRAPH, _FUNCTIONS = 7, 25  # of ModelProto
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _VALUE_INFO, _SPARSE = 1, 5, 11, 12, 13, 15  # of GraphProto
_QUANTIZATION = 14
_KINDS = frozenset({1, 4, 5, 7, 8, 9})  # of TypeProto: tensor, sequence, map, ...
_NOTHING = memoryview(b"")
_MAX_DEPTH = 32  # of If/Loop/Scan bodies within each other; a file is untrusted


@dataclass(frozen=True)
class Node:
    """A node of the main graph: what it reads (bodies included), what it makes, its bytes.

    `operator` is empty where it is not one of ONNX's own.
    """

    reads: frozenset[str]
    makes: tuple[str, ...]
    content: bytes
    operator: str = ""


@dataclass(frozen=True)
class GraphPart:
    """A piece of a graph as a model of its own: `content` computes `outputs` from `inputs`.

    `optional` are further inputs, which have a default in it.
    """

    models: frozenset[str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    content: bytes
    optional: tuple[str, ...] = ()


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _damaged()
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | None, memoryview]]:
    """Field number, payload (None unless the field has a length), and the whole field."""
    at = 0
    while at < len(data):
        start = at
        key, at = _varint(data, at)
        kind = key & 7
        payload: memoryview | None = None
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 1:
            at += 8
        elif kind == 2:
            length, at = _varint(data, at)
            payload = data[at : at + length]
            at += length
        elif kind == 5:
            at += 4
        else:
            raise _damaged()
        if at > len(data):
            raise _damaged()
        yield key >> 3, payload, data[start:at]


def _damaged(why: str = "it is not an ONNX model") -> ModelError:
    return ModelError(f"the graph file is damaged: {why}", "compile it again")


def _text(data: memoryview) -> str:
    try:
        return bytes(data).decode()
    except UnicodeDecodeError as error:
        raise _damaged() from error


def _payloads(data: memoryview, number: int) -> Iterator[memoryview]:
    return (p for field, p, _ in _fields(data) if field == number and p is not None)


def _single(data: memoryview, number: int) -> memoryview | None:
    """The payload of a field that may stand there once.

    Of two, protobuf takes the last, or merges them: a file that says things twice is made to be
    read in two ways.
    """
    found = list(_payloads(data, number))
    if len(found) > 1:
        raise _damaged(f"it has field {number} of a message twice")
    return found[0] if found else None


def _name(data: memoryview, number: int) -> str:
    found = _single(data, number)
    return "" if found is None else _text(found)


def _length(size: int) -> bytes:
    out = bytearray()
    while size >= 0x80:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    return _length(number << 3 | 2) + _length(len(payload)) + payload


def _bodies(node: memoryview) -> Iterator[memoryview]:
    """The graphs among a node's attributes (AttributeProto.g and .graphs)."""
    for attribute in _payloads(node, 5):
        for number, payload, _ in _fields(attribute):
            if number in (6, 11) and payload is not None:
                yield payload


def _reads(node: memoryview, depth: int = 0) -> set[str]:
    """Names a node reads; of its bodies all names read, a superset of what they capture."""
    if depth > _MAX_DEPTH:
        raise _damaged()
    found = {_text(p) for p in _payloads(node, 1)}
    for body in _bodies(node):
        for inner in _payloads(body, _NODE):
            found |= _reads(inner, depth + 1)
        found |= {_name(output, 1) for output in _payloads(body, _OUTPUT)}
    return found - {""}


def _dimension(data: memoryview) -> int | str | None:
    found: list[int | str | None] = []
    for number, payload, whole in _fields(data):
        if number == 1 and payload is None:
            _, at = _varint(whole, 0)
            size, _ = _varint(whole, at)
            found.append(size if size < 1 << 63 else None)  # negative: nobody knows
        if number == 2 and payload is not None:
            found.append(_text(payload) or None)
    if len(found) > 1:
        raise _damaged("a dimension has two sizes")
    return found[0] if found else None


class GraphFile:
    """The main graph of a serialized model, by value name. Raises ModelError if damaged."""

    def __init__(self, content: bytes) -> None:
        data = memoryview(content)
        self._head = [bytes(whole) for number, _, whole in _fields(data) if number != _GRAPH]
        graphs = list(_payloads(data, _GRAPH))
        if len(graphs) != 1:
            raise _damaged()
        self.nodes: list[Node] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self._rest: list[bytes] = []
        self._weights: dict[str, bytes] = {}
        self._types: dict[str, bytes] = {}
        for number, payload, whole in _fields(graphs[0]):
            if payload is None:
                continue
            if number == _NODE:
                makes = tuple(_text(p) for p in _payloads(payload, 2))
                own = _name(payload, 7) in ("", "ai.onnx")
                operator = _name(payload, 4) if own else ""
                self.nodes.append(Node(frozenset(_reads(payload)), makes, bytes(whole), operator))
            elif number == _INITIALIZER:
                self._weights[_name(payload, 8)] = bytes(whole)
            elif number == _SPARSE:
                self._weights[_name(_single(payload, 1) or _NOTHING, 8)] = bytes(whole)
            elif number in (_INPUT, _OUTPUT, _VALUE_INFO):
                name = _name(payload, 1)
                if _single(payload, 2) is not None:
                    self._types.setdefault(name, bytes(payload))
                if number == _INPUT:
                    self.inputs.append(name)
                elif number == _OUTPUT:
                    self.outputs.append(name)
            elif number != _QUANTIZATION:
                self._rest.append(bytes(whole))
        self.optional = [name for name in self.inputs if name in self._weights]
        self.inputs = [name for name in self.inputs if name not in self._weights]

    def shape(self, name: str) -> tuple[int | str | None, ...] | None:
        """The shape that the file gives a value: sizes, symbols, None where nothing is known.

        None where the file tells no shape, or the value is no tensor.
        """
        shape = _single(self._tensor_type(name), 2)
        return None if shape is None else tuple(map(_dimension, _payloads(shape, 1)))

    def element_type(self, name: str) -> int:
        """The number of a tensor's type in onnx.TensorProto; 0 where the file does not tell."""
        found = [0]
        for number, payload, whole in _fields(self._tensor_type(name)):
            if number == 1 and payload is None:
                _, at = _varint(whole, 0)
                found.append(_varint(whole, at)[0])
        if len(found) > 2:
            raise _damaged(f"'{name}' has two types")
        return found[-1]

    def _tensor_type(self, name: str) -> memoryview:
        """The TypeProto.Tensor of a value; nothing where it is no tensor."""
        kind = _single(memoryview(self._types.get(name, b"")), 2) or _NOTHING
        said = [number for number, payload, _ in _fields(kind) if payload is not None]
        if len(_KINDS.intersection(said)) > 1:
            raise _damaged(f"'{name}' has two types")
        return _single(kind, 1) or _NOTHING

    def _input_type(self, name: str, shapes: bool) -> bytes:
        """What a part says of an input: of a value from another part, with or without its shape."""
        told = self._types[name]
        if shapes or name in self.inputs:
            return told
        return b"".join(
            _field(2, _without_shape(payload))
            if number == 2 and payload is not None
            else bytes(whole)
            for number, payload, whole in _fields(memoryview(told))
        )

    def parts(
        self, wanted: Mapping[str, Iterable[str]], shapes: bool = True
    ) -> list[GraphPart] | None:
        """The graph cut by which models need a node, in an order in which they can run.

        `wanted` maps models to the values they ask for. Running the parts whose `models` name
        one of some models computes exactly what those models need. A weight that several parts
        read is in each of them, also if a node makes it of its codes. None if the file does not
        tell the type of a value that would cross from one part to another, or asks for a value that
        no node makes.

        What a file tells of the shapes of values that it computes may be stale. ONNX Runtime passes
        over that within a graph, but not for inputs: without `shapes` only their types are told.
        """
        maker = {name: i for i, node in enumerate(self.nodes) for name in node.makes if name}
        needed_by: list[set[str]] = [set() for _ in self.nodes]
        for model, values in wanted.items():
            stack = list(values)
            if any(v not in maker and v not in self.inputs for v in stack):
                return None
            while stack:
                index = maker.get(stack.pop())
                if index is not None and model not in needed_by[index]:
                    needed_by[index].add(model)
                    stack.extend(self.nodes[index].reads)
        asked = {value for values in wanted.values() for value in values}
        made_weights = self._made_weights(asked)
        groups: dict[frozenset[str], list[Node]] = {}
        for node, models in zip(self.nodes, needed_by):
            if models and made_weights.get(node.makes[0]) is not node:
                groups.setdefault(frozenset(models), []).append(node)
        for nodes in groups.values():
            read = {name for node in nodes for name in node.reads}
            nodes[:0] = [node for name, node in made_weights.items() if name in read]
        # What makes a value is needed by every model that needs the value: larger sets first.
        order = sorted(groups, key=lambda models: (-len(models), sorted(models)))
        reads = {models: {n for node in groups[models] for n in node.reads} for models in order}
        found: list[GraphPart] = []
        for models in order:
            made = [name for node in groups[models] for name in node.makes if name]
            elsewhere = asked.union(*(reads[other] for other in order if other != models))
            outputs = tuple(n for n in made if n in elsewhere and n not in made_weights)
            given = reads[models] - set(made)
            inputs = tuple(n for n in sorted(given) if n in maker or n in self.inputs)
            if any(name not in self._types for name in (*inputs, *outputs)):
                return None
            optional = tuple(n for n in self.optional if n in given and n in self._types)
            content = self._model(groups[models], (*inputs, *optional), outputs, given, shapes)
            found.append(GraphPart(models, inputs, outputs, content, optional))
        return found

    def _made_weights(self, asked: set[str]) -> dict[str, Node]:
        """The nodes that make a weight of its codes, by its name; none that is asked for itself."""
        constant = self._weights.keys() - set(self.optional)
        return {
            node.makes[0]: node
            for node in self.nodes
            if node.operator == "DequantizeLinear"
            and node.reads <= constant
            and len(node.makes) == 1
            and node.makes[0] not in asked
        }

    def _model(
        self,
        nodes: list[Node],
        inputs: Iterable[str],
        outputs: Iterable[str],
        given: set[str],
        shapes: bool,
    ) -> bytes:
        graph = [node.content for node in nodes]
        graph += self._rest
        graph += [weight for name, weight in self._weights.items() if name in given]
        graph += [_field(_INPUT, self._input_type(name, shapes)) for name in inputs]
        graph += [_field(_OUTPUT, self._types[name]) for name in outputs]
        return b"".join(self._head) + _field(_GRAPH, b"".join(graph))


def _without_shape(kind: memoryview) -> bytes:
    """A TypeProto whose tensor, if it is one, has any shape."""
    written: list[bytes] = []
    for number, payload, whole in _fields(kind):
        if number == 1 and payload is not None:
            kept = b"".join(bytes(part) for inner, _, part in _fields(payload) if inner != 2)
            written.append(_field(1, kept))
        else:
            written.append(bytes(whole))
    return b"".join(written)


# What a message holds that leads to tensors: field number -> kind of message, as in onnx.proto.
_HOLDS: dict[str, dict[int, str]] = {
    "model": {_GRAPH: "graph", _FUNCTIONS: "function"},
    "function": {7: "node"},
    "graph": {_NODE: "node", _INITIALIZER: "tensor", _SPARSE: "sparse"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        10: "tensor",
        22: "sparse",
        23: "sparse",
        6: "body",
        11: "body",
    },
    "sparse": {1: "tensor", 2: "tensor"},
}
_HOLDS["body"] = _HOLDS["graph"]


def external_files(content: bytes) -> list[str]:
    """Names of the files that hold weights of a serialized model, as written in it, sorted."""
    return sorted(
        {
            _name(entry, 2)
            for tensor in _tensors(memoryview(content), "model", 0)
            for entry in _payloads(tensor, 13)
            if _name(entry, 1) == "location"
        }
    )


def _tensors(message: memoryview, kind: str, depth: int) -> Iterator[memoryview]:
    """The tensors within a message, those in bodies included."""
    if kind == "tensor":
        yield message
        return
    depth += kind == "body"
    if depth > _MAX_DEPTH:
        raise _damaged()
    for number, payload, _ in _fields(message):
        inner = _HOLDS[kind].get(number)
        if inner is not None and payload is not None:
            yield from _tensors(payload, inner, depth)
