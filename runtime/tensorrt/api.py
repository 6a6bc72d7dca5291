"""TensorRT as repsimc uses it: the only file that touches the module.

Features are asked for, never versions: what 8.5 has, 10.3 renamed and 11 removed is told apart by
whether the name is there; surface.py lists every name. Nothing here may be called before a CUDA
probe (`probe`): without a GPU, `Runtime` of TensorRT 8.6 ends the process.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import BackendError, ModelError
from .surface import EITHER, NEEDED

Log = Callable[[str, str], None]  # severity ('ERROR', 'INFO', ...), message

# Layers that stay in float32 where flags choose precision, as the lowering keeps them in graphs.
_SENSITIVE = ("SOFTMAX", "NORMALIZATION", "REDUCE", "UNARY", "TOPK", "CUMULATIVE", "RAGGED_SOFTMAX")


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine. A dimension of -1 is free within `least` and `most`."""

    name: str
    is_input: bool
    dtype: str  # a NumPy name
    shape: tuple[int, ...]
    least: tuple[int, ...] | None = None
    most: tuple[int, ...] | None = None


@dataclass(frozen=True)
class BuildRequest:
    """What to build: an ONNX file, and how.

    `precision` is 'fp32', 'fp16' or 'int8'; the file already has it where `typed`. `profile`
    gives (least, usual, most) shapes of inputs with free dimensions. `capability` is that of the
    GPU to build for, where the library builds without one (86 for sm_86).
    """

    graph: Path
    precision: str = "fp32"
    typed: bool = False
    quantised: bool = False
    workspace_nbytes: int | None = None
    timing_cache: bytes = b""
    profile: Mapping[str, Sequence[Sequence[int]]] = field(
        default_factory=dict[str, Sequence[Sequence[int]]]
    )
    capability: int | None = None


@dataclass(frozen=True)
class Built:
    """A serialized engine and the timing cache after building it."""

    plan: bytes
    timing_cache: bytes


class TensorRT:
    """The module `tensorrt` or `tensorrt_rtx`; `log` gets everything it says.

    `plugins` are shared libraries with operators of the user's, which register when loaded.
    Raises BackendError where it is not installed, or lacks what no version should.
    """

    def __init__(self, module: str | ModuleType, log: Log, plugins: Sequence[str] = ()) -> None:
        if isinstance(module, str):
            try:
                module = importlib.import_module(module)
            except ImportError as error:
                raise BackendError(
                    f"{module} cannot be imported: {error}",
                    "JetPack brings tensorrt for its own Python: make the virtual environment "
                    "with --system-site-packages"
                    if module == "tensorrt"
                    else "pip install 'repsimc[rtx]'",
                ) from error
        self.module: Any = module
        self.version = str(self.module.__version__)
        missing = [name for name in NEEDED if not self.has(name)]
        missing += [" or ".join(names) for names in EITHER if not any(map(self.has, names))]
        if missing:
            raise BackendError(
                f"{module.__name__} {self.version} lacks {', '.join(missing)}",
                "TensorRT 8.5 and later are supported",
            )
        self._errors: list[str] = []
        self._logger = _logger(self.module, log, self._errors)
        self._runtime: Any = None
        self._plugins = plugins
        self._ready = False

    def has(self, name: str) -> bool:
        """True if the module has 'Class.attribute' (or a function of that name)."""
        found: Any = self.module
        for part in name.split("."):
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True

    @property
    def has_flags(self) -> bool:
        """True if precision can be chosen by builder flags: up to TensorRT 10."""
        return self.has("BuilderFlag.FP16")

    @property
    def wants_types(self) -> bool:
        """True if precision belongs into the graph.

        Strong typing came with 9 and is recommended from 10.12 on; `build_engine_with_config`
        tells those versions from 10.3, where flags are the safer way. From 11 there is no other.
        """
        return not self.has_flags or self.has("Builder.build_engine_with_config")

    def fast(self, precision: str) -> bool:
        """False if the GPU has no fast arithmetic of that precision (and says so)."""
        name = {"fp16": "platform_has_fast_fp16", "int8": "platform_has_fast_int8"}.get(precision)
        if name is None or not self.has(f"Builder.{name}"):
            return True
        return bool(getattr(self.module.Builder(self._logger), name))

    # -- building ------------------------------------------------------------------------

    def build(self, request: BuildRequest) -> Built:
        """The engine. Raises ModelError if the graph is refused, BackendError if building fails."""
        trt = self.module
        self._load_plugins()
        builder = trt.Builder(self._logger)
        network = builder.create_network(self._network_flags(request))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(request.graph)):
            raise ModelError(
                f"{trt.__name__} {self.version} refuses the graph: {_parse_errors(parser)}",
                "a custom operator needs its plugin library: --plugin FILE; otherwise export the "
                "model with other operators",
            )
        config = builder.create_builder_config()
        self._set_precision(request, network, config)
        if request.workspace_nbytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_nbytes)
        if self.has("IBuilderConfig.max_aux_streams"):
            # Branches on streams of their own each take scratch memory. Of eleven merged networks
            # TensorRT-RTX 1.7 reports 58.8 MB of activations by default, and 8.9 MB so.
            config.max_aux_streams = 0
        cache = config.create_timing_cache(request.timing_cache)
        if cache is not None:
            # A cache of another device or version is refused by TensorRT itself.
            config.set_timing_cache(cache, False)
        self._set_profile(request, builder, network, config)
        if request.capability is not None and self.has("IBuilderConfig.set_compute_capability"):
            config.num_compute_capabilities = 1
            wanted = getattr(trt.ComputeCapability, f"SM{request.capability}")
            config.set_compute_capability(wanted, 0)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BackendError(
                f"{trt.__name__} {self.version} built no engine: {self._said()}",
                "where memory is too little, close other programs or give less --workspace",
            )
        after = config.get_timing_cache()
        return Built(bytes(plan), bytes(after.serialize()) if after is not None else b"")

    def _network_flags(self, request: BuildRequest) -> int:
        flags = 0
        if self.has("NetworkDefinitionCreationFlag.EXPLICIT_BATCH"):
            flags |= 1 << int(self.module.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        if request.typed and self.has("NetworkDefinitionCreationFlag.STRONGLY_TYPED"):
            flags |= 1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return flags

    def _set_precision(self, request: BuildRequest, network: Any, config: Any) -> None:
        trt = self.module
        if request.typed or not self.has_flags:
            return
        if request.quantised:
            config.set_flag(trt.BuilderFlag.INT8)
        if request.precision == "fp32":
            return
        config.set_flag(trt.BuilderFlag.FP16)
        if not self.has("ILayer.precision") or not self.has(
            "BuilderFlag.OBEY_PRECISION_CONSTRAINTS"
        ):
            return
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        sensitive = [
            getattr(trt.LayerType, name) for name in _SENSITIVE if self.has(f"LayerType.{name}")
        ]
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            # Integer layers have no precision to hold: TensorRT refuses it.
            if layer.type in sensitive and layer.get_output(0).dtype == trt.float32:
                layer.precision = trt.float32

    def _set_profile(self, request: BuildRequest, builder: Any, network: Any, config: Any) -> None:
        if not request.profile:
            return
        profile = builder.create_optimization_profile()
        names = {network.get_input(i).name for i in range(network.num_inputs)}
        for name, shapes in sorted(request.profile.items()):
            if name in names:
                least, usual, most = (tuple(shape) for shape in shapes)
                profile.set_shape(name, least, usual, most)
        config.add_optimization_profile(profile)

    # -- running -------------------------------------------------------------------------

    def engine(self, plan: bytes, where: str) -> Engine:
        """The engine of a plan built on this device by this version. Raises BackendError."""
        self._load_plugins()
        if self._runtime is None:
            self._runtime = self.module.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendError(
                f"{self.module.__name__} {self.version} does not load {where}: {self._said()}",
                "it was built by another version or for another device: build it again",
            )
        return Engine(self, engine)

    def _said(self) -> str:
        """The errors it told since the last time somebody asked."""
        told = "; ".join(self._errors[:2]) or "it gives no reason"
        self._errors.clear()
        return told

    def _load_plugins(self) -> None:
        if self._ready:
            return
        self.module.init_libnvinfer_plugins(self._logger, "")
        for path in self._plugins:
            try:
                ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise BackendError(
                    f"plugin library {path} cannot be loaded: {error}", "check --plugin"
                ) from error
        self._ready = True


class Engine:
    """A loaded engine: its tensors, and the scratch memory that a run needs (bytes)."""

    def __init__(self, tensorrt: TensorRT, engine: Any) -> None:
        self._tensorrt = tensorrt
        self._engine = engine
        trt = tensorrt.module
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.tensors = {
            name: self._tensor(name, engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
            for name in names
        }
        newer = tensorrt.has("ICudaEngine.device_memory_size_v2")
        self.scratch_nbytes = int(
            engine.device_memory_size_v2 if newer else engine.device_memory_size
        )

    def _tensor(self, name: str, is_input: bool) -> Tensor:
        shape = tuple(int(size) for size in self._engine.get_tensor_shape(name))
        least = most = None
        if is_input and -1 in shape:
            found = self._engine.get_tensor_profile_shape(name, 0)
            least, _, most = (tuple(int(size) for size in one) for one in found)
        dtype = _numpy_name(self._engine.get_tensor_dtype(name))
        return Tensor(name, is_input, dtype, shape, least, most)

    def context(self, scratch: int, nbytes: int) -> Context:
        """A context that uses the caller's scratch memory: address, aligned to 256, and bytes.

        Contexts that never run at the same time may be given the same memory.
        """
        trt = self._tensorrt
        if trt.has("ExecutionContextAllocationStrategy.USER_MANAGED"):
            strategy = trt.module.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._engine.create_execution_context(strategy)
        else:
            context = self._engine.create_execution_context_without_device_memory()
        if context is None:
            raise BackendError("TensorRT made no execution context", "is the GPU's memory full?")
        if trt.has("IExecutionContext.set_device_memory"):
            context.set_device_memory(scratch, nbytes)
        else:
            context.device_memory = scratch
        return Context(context)


class Context:
    """One engine, ready to run."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """The shape of an input. Raises ModelError outside of the profile."""
        if not self._context.set_input_shape(name, shape):
            raise ModelError(
                f"input '{name}' of shape {list(shape)} is outside of what the engine was built "
                "for",
                "build again with --batch LEAST:USUAL:MOST",
            )

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, given those of the inputs; -1 where it depends on values."""
        return tuple(int(size) for size in self._context.get_tensor_shape(name))

    def set_address(self, name: str, address: int) -> None:
        """Where the tensor lies on the device."""
        self._context.set_tensor_address(name, address)

    def execute(self, stream: int) -> None:
        """Put a run into the stream. Raises BackendError."""
        if not self._context.execute_async_v3(stream):
            raise BackendError("TensorRT could not run the engine", "its messages are in the log")


def _logger(trt: Any, log: Log, errors: list[str]) -> Any:
    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            word = str(severity).rsplit(".", 1)[-1]
            if word in ("ERROR", "INTERNAL_ERROR"):
                errors.append(msg.strip())
            log(word, msg)

    return Logger()


def _parse_errors(parser: Any) -> str:
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(str(error).strip() for error in found[:3]) or "it gives no reason"


def _numpy_name(dtype: Any) -> str:
    names = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "FP8": "float8_e4m3fn"}
    word = str(dtype).rsplit(".", 1)[-1]
    return names.get(word, word.lower())
