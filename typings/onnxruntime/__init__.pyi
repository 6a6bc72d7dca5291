"""The part of onnxruntime that repsimc uses, typed (upstream is only partly annotated)."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

__version__: str

class GraphOptimizationLevel:
    ORT_DISABLE_ALL: GraphOptimizationLevel
    ORT_ENABLE_BASIC: GraphOptimizationLevel
    ORT_ENABLE_EXTENDED: GraphOptimizationLevel
    ORT_ENABLE_LAYOUT: GraphOptimizationLevel
    ORT_ENABLE_ALL: GraphOptimizationLevel

class ExecutionMode:
    ORT_SEQUENTIAL: ExecutionMode
    ORT_PARALLEL: ExecutionMode

class ExecutionOrder:
    DEFAULT: ExecutionOrder
    PRIORITY_BASED: ExecutionOrder

class NodeArg:
    name: str
    shape: list[int | str | None]
    type: str

class SessionOptions:
    enable_cpu_mem_arena: bool
    enable_mem_pattern: bool
    enable_mem_reuse: bool
    enable_profiling: bool
    execution_mode: ExecutionMode
    execution_order: ExecutionOrder
    graph_optimization_level: GraphOptimizationLevel
    inter_op_num_threads: int
    intra_op_num_threads: int
    log_severity_level: int
    logid: str
    optimized_model_filepath: str
    profile_file_prefix: str
    use_deterministic_compute: bool
    def __init__(self) -> None: ...
    def add_session_config_entry(self, key: str, value: str, /) -> None: ...
    def get_session_config_entry(self, key: str, /) -> str: ...
    def add_free_dimension_override_by_name(self, name: str, value: int, /) -> None: ...
    def add_initializer(self, name: str, value: OrtValue, /) -> None: ...

class RunOptions:
    log_severity_level: int
    logid: str
    only_execute_path_to_fetches: bool
    terminate: bool
    def __init__(self) -> None: ...
    def add_run_config_entry(self, key: str, value: str, /) -> None: ...

class OrtValue:
    @staticmethod
    def ortvalue_from_numpy(
        numpy_obj: NDArray[Any], device_type: str = "cpu", device_id: int = 0
    ) -> OrtValue: ...
    def numpy(self) -> NDArray[Any]: ...
    def shape(self) -> list[int]: ...
    def data_type(self) -> str: ...

class InferenceSession:
    def __init__(
        self,
        path_or_bytes: str | bytes,
        sess_options: SessionOptions | None = None,
        providers: Sequence[str | tuple[str, Mapping[str, Any]]] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None: ...
    def get_inputs(self) -> list[NodeArg]: ...
    def get_outputs(self) -> list[NodeArg]: ...
    def get_overridable_initializers(self) -> list[NodeArg]: ...
    def get_providers(self) -> list[str]: ...
    # Outputs that are sequences or maps arrive as lists and dicts; tensors as arrays.
    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: RunOptions | None = None,
    ) -> list[NDArray[Any]]: ...
    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict_ort_values: Mapping[str, OrtValue],
        run_options: RunOptions | None = None,
    ) -> list[OrtValue]: ...
    def end_profiling(self) -> str: ...

def get_available_providers() -> list[str]: ...
def get_all_providers() -> list[str]: ...
def get_device() -> str: ...
def set_default_logger_severity(severity: int, /) -> None: ...
def set_seed(seed: int, /) -> None: ...
