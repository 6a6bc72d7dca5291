"""Every name of TensorRT that api.py touches.

A test holds the lists against the bindings of 8.6.1, 10.3.0, 10.13.3.9, 10.16.1.11, 11.4.0.106 and
TensorRT-RTX.
"""

from __future__ import annotations

# What must be there in every version.
NEEDED = (
    "Builder.build_serialized_network",
    "Builder.create_builder_config",
    "Builder.create_network",
    "Builder.create_optimization_profile",
    "IBuilderConfig.add_optimization_profile",
    "IBuilderConfig.create_timing_cache",
    "IBuilderConfig.get_timing_cache",
    "IBuilderConfig.set_flag",
    "IBuilderConfig.set_memory_pool_limit",
    "IBuilderConfig.set_timing_cache",
    "ICudaEngine.create_execution_context",
    "ICudaEngine.get_tensor_dtype",
    "ICudaEngine.get_tensor_mode",
    "ICudaEngine.get_tensor_name",
    "ICudaEngine.get_tensor_profile_shape",
    "ICudaEngine.get_tensor_shape",
    "ICudaEngine.num_io_tensors",
    "IExecutionContext.device_memory",
    "IExecutionContext.execute_async_v3",
    "IExecutionContext.get_tensor_shape",
    "IExecutionContext.set_input_shape",
    "IExecutionContext.set_tensor_address",
    "ILayer.get_output",
    "ILayer.type",
    "ILogger.Severity",
    "INetworkDefinition.get_input",
    "INetworkDefinition.get_layer",
    "INetworkDefinition.num_inputs",
    "INetworkDefinition.num_layers",
    "IOptimizationProfile.set_shape",
    "ITensor.dtype",
    "ITensor.name",
    "ITimingCache.serialize",
    "LayerType.SOFTMAX",
    "MemoryPoolType.WORKSPACE",
    "OnnxParser.get_error",
    "OnnxParser.num_errors",
    "OnnxParser.parse_from_file",
    "Runtime.deserialize_cuda_engine",
    "TensorIOMode.INPUT",
    "float32",
    "init_libnvinfer_plugins",
)
# What is asked for first: present in some versions only.
PROBED = (
    "Builder.build_engine_with_config",
    "Builder.platform_has_fast_fp16",
    "Builder.platform_has_fast_int8",
    "BuilderFlag.FP16",
    "BuilderFlag.INT8",
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS",
    "ComputeCapability.SM86",
    "DataType.INT64",
    "ExecutionContextAllocationStrategy.USER_MANAGED",
    "IBuilderConfig.max_aux_streams",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "ICudaEngine.create_execution_context_without_device_memory",
    "ICudaEngine.device_memory_size",
    "ICudaEngine.device_memory_size_v2",
    "IExecutionContext.set_device_memory",
    "ILayer.precision",
    "LayerType.NORMALIZATION",
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
)
# Of each line at least one must be there.
EITHER = (
    ("ICudaEngine.device_memory_size", "ICudaEngine.device_memory_size_v2"),
    (
        "ICudaEngine.create_execution_context_without_device_memory",
        "ExecutionContextAllocationStrategy.USER_MANAGED",
    ),
)
SURFACE = (*NEEDED, *PROBED)
