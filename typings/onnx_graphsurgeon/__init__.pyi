"""The part of onnx-graphsurgeon that repsimc uses, typed (upstream ships no annotations)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

DType = np.dtype[Any] | type | int | None
Shape = list[int | str | None] | tuple[int | str | None, ...] | None

class LazyValues:
    tensor: onnx.TensorProto
    shape: list[int]
    dtype: DType
    nbytes: int
    def __init__(self, tensor: onnx.TensorProto) -> None: ...
    def load(self) -> NDArray[Any]: ...

class Tensor:
    name: str
    inputs: list[Node]
    outputs: list[Node]
    dtype: Any
    shape: Any
    def is_empty(self) -> bool: ...
    def to_constant(self, values: NDArray[Any]) -> Tensor: ...

class Variable(Tensor):
    type: str
    def __init__(
        self, name: str, dtype: DType = None, shape: Shape = None, type: str = "tensor_type"
    ) -> None: ...
    @staticmethod
    def empty() -> Variable: ...

class Constant(Tensor):
    values: NDArray[Any]
    _values: Any
    data_location: int | None
    export_dtype: Any
    def __init__(
        self,
        name: str,
        values: NDArray[Any] | LazyValues,
        data_location: int | None = None,
        export_dtype: DType = None,
    ) -> None: ...

class Node:
    op: str
    name: str
    attrs: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]
    domain: str | None
    def __init__(
        self,
        op: str,
        name: str | None = None,
        attrs: dict[str, Any] | None = None,
        inputs: list[Any] | None = None,
        outputs: list[Any] | None = None,
        domain: str | None = None,
    ) -> None: ...
    def subgraphs(self, recursive: bool = False) -> Iterator[Graph]: ...

class Function:
    name: str
    domain: str
    nodes: list[Node]
    def __init__(
        self,
        name: str,
        domain: str | None = None,
        *,
        opset: int | None = None,
        import_domains: Any = None,
    ) -> None: ...

class Graph:
    nodes: list[Node]
    inputs: list[Variable]
    outputs: list[Variable]
    name: str
    doc_string: str
    opset: int
    import_domains: Any
    producer_name: str
    producer_version: str
    functions: list[Function]
    ir_version: int | None
    def __init__(
        self,
        nodes: list[Node] | None = None,
        inputs: list[Any] | None = None,
        outputs: list[Any] | None = None,
        name: str | None = None,
        doc_string: str | None = None,
        opset: int | None = None,
        import_domains: Any = None,
        producer_name: str | None = None,
        producer_version: str | None = None,
        functions: list[Function] | None = None,
        ir_version: int | None = None,
    ) -> None: ...
    def copy(self, tensor_map: Any = None) -> Graph: ...
    def tensors(
        self, check_duplicates: bool = False, recurse: bool = False
    ) -> dict[str, Tensor]: ...
    def toposort(self, recurse_subgraphs: bool = True) -> Graph: ...
    def cleanup(
        self,
        remove_unused_node_outputs: bool = False,
        recurse_subgraphs: bool = True,
        remove_unused_graph_inputs: bool = False,
        recurse_functions: bool = True,
    ) -> Graph: ...
    def fold_constants(
        self,
        fold_shapes: bool = True,
        recurse_subgraphs: bool = True,
        partitioning: str | None = None,
        error_ok: bool = True,
        flatten_subgraphs: bool = True,
        size_threshold: int | None = None,
        should_exclude_node: Any = None,
        recurse_functions: bool = True,
    ) -> Graph: ...
    def subgraphs(self, recursive: bool = False) -> Iterator[Graph]: ...

def import_onnx(onnx_model: onnx.ModelProto) -> Graph: ...
def export_onnx(graph: Graph, do_type_check: bool = True, **kwargs: Any) -> onnx.ModelProto: ...
