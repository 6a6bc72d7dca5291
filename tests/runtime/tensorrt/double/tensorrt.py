"""A test double of the Python module `tensorrt`: plans are ONNX files that ONNX Runtime runs.

It has the part of the interface that repsimc uses, in the form of the version that DOUBLE_VERSION
names (8.6.1, 10.3.0, 10.13.3, 11.4.0), on the addresses of the stub of the CUDA driver. It proves
the logic around TensorRT and nothing about TensorRT.
"""

from __future__ import annotations

import base64
import ctypes
import enum
import json
import os
import signal
import struct
from pathlib import Path
from typing import Any

import numpy as np

__version__ = os.environ.get("DOUBLE_VERSION", "10.3.0")
_MAJOR = int(__version__.split(".")[0])
_MINOR = int(__version__.split(".")[1])
_PASSED = os.environ.get("DOUBLE_LOG")  # a file that gets what a build was asked for
_cuda = ctypes.CDLL("libcuda.so.1")
_HOST = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _note(**what: Any) -> None:
    if _PASSED:
        with Path(_PASSED).open("a") as file:
            file.write(json.dumps(what) + "\n")


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self) -> None:
        pass


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    INT64 = 5


if _MAJOR < 10:

    class DataType(enum.Enum):  # type: ignore[no-redef]
        FLOAT = 0
        HALF = 1
        INT8 = 2
        INT32 = 3
        BOOL = 4


float32 = DataType.FLOAT


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class LayerType(enum.Enum):
    SOFTMAX = 0
    NORMALIZATION = 1
    REDUCE = 2
    UNARY = 3
    CONVOLUTION = 4
    TOPK = 5


class BuilderFlag(enum.Enum):
    TF32 = 0
    if _MAJOR < 11:
        FP16 = 1
        INT8 = 2
        OBEY_PRECISION_CONSTRAINTS = 3


class NetworkDefinitionCreationFlag(enum.IntEnum):
    if _MAJOR < 11:
        EXPLICIT_BATCH = 0
    if _MAJOR >= 10:
        STRONGLY_TYPED = 1


if _MAJOR >= 10:

    class ExecutionContextAllocationStrategy(enum.Enum):
        STATIC = 0
        USER_MANAGED = 2


def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
    return True


class ITensor:
    dtype = float32
    name = ""


class ILayer:
    type = LayerType.CONVOLUTION

    def __init__(self, node: Any) -> None:
        kinds = {"Softmax": "SOFTMAX", "ReduceMean": "REDUCE", "Exp": "UNARY"}
        self.name = node.name
        self.type = LayerType[kinds.get(node.op_type, "CONVOLUTION")]
        if _MAJOR < 11:
            self.precision = None

    def get_output(self, index: int) -> Any:
        return ITensor()


if _MAJOR < 11:
    ILayer.precision = None  # type: ignore[attr-defined]


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.model: Any = None
        self._layers: list[ILayer] = []

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]

    @property
    def num_inputs(self) -> int:
        assert self.model is not None
        return len(self.model.graph.input)

    def get_input(self, index: int) -> Any:
        assert self.model is not None
        return self.model.graph.input[index]


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._errors: list[str] = []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> str:
        return self._errors[index]

    def parse_from_file(self, path: str) -> bool:
        import onnx  # only here: a process that only looks around starts faster without

        model = onnx.load(path)
        refused = [n for n in model.graph.node if n.domain not in ("", "ai.onnx")]
        if refused:
            self._errors.append(f"In node {refused[0].name}: no importer for {refused[0].op_type}")
            return False
        self._network.model = model
        self._network._layers = [ILayer(node) for node in model.graph.node]
        return True


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, least: Any, usual: Any, most: Any) -> None:
        self.shapes[name] = [list(least), list(usual), list(most)]


class IBuilderConfig:
    max_aux_streams = 7

    def __init__(self) -> None:
        self.flags: list[str] = []
        self.workspace: int | None = None
        self.cache: ITimingCache | None = None
        self.profiles: list[IOptimizationProfile] = []

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.append(flag.name)

    def set_memory_pool_limit(self, pool: MemoryPoolType, nbytes: int) -> None:
        self.workspace = nbytes

    def create_timing_cache(self, content: bytes) -> ITimingCache:
        return ITimingCache(content)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return ITimingCache(b"timings of " + __version__.encode())

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return 0


class Builder:
    def __init__(self, logger: ILogger) -> None:
        if os.environ.get("DOUBLE_CRASH") == "builder":
            os.kill(os.getpid(), signal.SIGSEGV)
        self._logger = logger

    if _MAJOR < 11:
        platform_has_fast_fp16 = property(lambda self: not os.environ.get("DOUBLE_NO_FP16"))
        platform_has_fast_int8 = property(lambda self: not os.environ.get("DOUBLE_NO_INT8"))

    if (_MAJOR, _MINOR) >= (10, 13):

        def build_engine_with_config(self, network: Any, config: Any) -> Any: ...

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> bytes | None:
        assert network.model is not None
        self._logger.log(ILogger.Severity.INFO, "Total Activation Memory: 4096 bytes")
        self._logger.log(ILogger.Severity.INFO, "Total Weights Memory: 1024 bytes")
        free = [
            i.name
            for i in network.model.graph.input
            if any(not d.HasField("dim_value") for d in i.type.tensor_type.shape.dim)
        ]
        shapes = config.profiles[0].shapes if config.profiles else {}
        if set(free) - set(shapes):
            self._logger.log(ILogger.Severity.ERROR, "no profile for dynamic inputs")
            return None
        if os.environ.get("DOUBLE_FAIL") == "build":
            self._logger.log(ILogger.Severity.ERROR, "Could not find any implementation")
            return None
        precise = [layer.name for layer in network._layers if getattr(layer, "precision", None)]
        _note(
            flags=config.flags,
            typed=bool(network.flags & 2),
            explicit=bool(network.flags & 1),
            aux_streams=config.max_aux_streams,
            workspace=config.workspace,
            cache=len(config.cache.content) if config.cache else None,
            profile=shapes,
            whole=precise,
            halves=sum(i.data_type == 10 for i in network.model.graph.initializer),
        )
        if wrong := os.environ.get("DOUBLE_WRONG"):
            import onnx

            for tensor in network.model.graph.initializer:
                array = onnx.numpy_helper.to_array(tensor)
                if array.dtype == np.float32 and array.size > 1:
                    tensor.CopyFrom(
                        onnx.numpy_helper.from_array(array * np.float32(wrong), tensor.name)
                    )
        value = {
            "model": base64.b64encode(network.model.SerializeToString()).decode(),
            "shapes": shapes,
        }
        head = (
            b"ftrt"
            + struct.pack("<I", 0)
            + bytes(16)
            + bytes([*map(int, __version__.split(".")[:3]), 0])
        )
        return head + json.dumps(value, sort_keys=True).encode()


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine | None:
        if plan[:4] != b"ftrt" or list(plan[24:27]) != [*map(int, __version__.split(".")[:3])]:
            self._logger.log(ILogger.Severity.ERROR, "Version tag does not match")
            return None
        value = json.loads(plan[28:])
        return ICudaEngine(base64.b64decode(value["model"]), value["shapes"])


_TYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64"}
_TYPES |= {"tensor(int32)": "INT32", "tensor(bool)": "BOOL", "tensor(int8)": "INT8"}
_NUMPY = {"FLOAT": "f4", "HALF": "f2", "INT64": "i8", "INT32": "i4", "BOOL": "?", "INT8": "i1"}


class ICudaEngine:
    def __init__(self, content: bytes, shapes: dict[str, Any]) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._shapes = shapes
        self._inputs = {v.name: v for v in self._session.get_inputs()}
        self._all = {**self._inputs, **{v.name: v for v in self._session.get_outputs()}}

    num_io_tensors = property(lambda self: len(self._all))
    if _MAJOR < 11:
        device_memory_size = property(lambda self: 1000 * len(self._all))
    if _MAJOR >= 10:
        device_memory_size_v2 = property(lambda self: 1000 * len(self._all))

    def get_tensor_name(self, index: int) -> str:
        return list(self._all)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        kind = _TYPES[self._all[name].type]
        return DataType["INT32" if kind == "INT64" and _MAJOR < 10 else kind]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(s if isinstance(s, int) else -1 for s in self._all[name].shape)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._shapes[name]]

    def create_execution_context(self, strategy: Any = None) -> IExecutionContext:
        return IExecutionContext(self)

    if _MAJOR < 11:

        def create_execution_context_without_device_memory(self) -> IExecutionContext:
            return IExecutionContext(self)


class IExecutionContext:
    device_memory = 0

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._set: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._callback = _HOST(self._run)  # must live as long as a graph that holds it

    if _MAJOR >= 10:

        def set_device_memory(self, memory: int, size: int) -> None:
            assert memory % 256 == 0 and size > 0
            self.device_memory = memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine._shapes[name]
        if any(not a <= size <= b for a, size, b in zip(least, shape, most)):
            return False
        self._set[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        fixed = self._engine.get_tensor_shape(name)
        if name in self._engine._inputs:
            return self._set.get(name, fixed)
        symbols = {}
        for value in self._engine._inputs.values():
            for symbol, size in zip(value.shape, self._set.get(value.name, ())):
                symbols[symbol] = size
        return tuple(
            size if size >= 0 else symbols.get(symbol, -1)
            for size, symbol in zip(fixed, self._engine._all[name].shape)
        )

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert self.device_memory, "no scratch memory was given"
        return _cuda.cuLaunchHostFunc(ctypes.c_void_p(stream), self._callback, None) == 0

    def _array(self, name: str) -> np.ndarray:
        dtype = np.dtype(_NUMPY[self._engine.get_tensor_dtype(name).name])
        shape = self.get_tensor_shape(name)
        count = int(np.prod(shape))
        raw = (ctypes.c_ubyte * (count * dtype.itemsize)).from_address(self._addresses[name])
        return np.frombuffer(raw, dtype, count).reshape(shape)

    def _run(self, _: Any) -> None:
        session = self._engine._session
        feeds = {}
        for value in session.get_inputs():
            array = self._array(value.name).copy()
            feeds[value.name] = array.astype("i8") if "int64" in value.type else array
        names = [value.name for value in session.get_outputs()]
        for name, made in zip(names, session.run(names, feeds)):
            np.copyto(self._array(name), made.astype(self._array(name).dtype))
