// A stand-in for ONNX Runtime's C++ header: what examples/integration uses of it, under its names and
// with its types. Its model has one input of four floats, and two outputs that are their sum.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

enum OrtLoggingLevel { ORT_LOGGING_LEVEL_WARNING = 2 };
enum OrtAllocatorType { OrtArenaAllocator = 1 };
enum OrtMemType { OrtMemTypeDefault = 0 };
enum ONNXTensorElementDataType { ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1 };

namespace Ort {

struct Env {
  Env(OrtLoggingLevel, const char*) {}
};
struct SessionOptions {
  SessionOptions& SetIntraOpNumThreads(int) { return *this; }
};
struct RunOptions {
  explicit RunOptions(std::nullptr_t) {}
};
struct AllocatorWithDefaultOptions {};
struct MemoryInfo {
  static MemoryInfo CreateCpu(OrtAllocatorType, OrtMemType) { return {}; }
};

struct TensorTypeAndShapeInfo {
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> GetShape() const { return shape; }
  ONNXTensorElementDataType GetElementType() const { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }
  std::size_t GetElementCount() const {
    std::size_t count = 1;
    for (auto size : shape) count *= static_cast<std::size_t>(size);
    return count;
  }
};
struct TypeInfo {
  TensorTypeAndShapeInfo GetTensorTypeAndShapeInfo() const { return {{-1, 4}}; }
};

class Value {
 public:
  template <typename T>
  static Value CreateTensor(const MemoryInfo&, T* data, std::size_t count,
                            const std::int64_t* shape, std::size_t rank) {
    Value value;
    value.values.assign(data, data + count);
    value.shape.assign(shape, shape + rank);
    return value;
  }
  Value(Value&&) = default;
  Value& operator=(Value&&) = default;
  template <typename T>
  const T* GetTensorData() const {
    return values.data();
  }
  TensorTypeAndShapeInfo GetTensorTypeAndShapeInfo() const { return {shape}; }

  std::vector<float> values;
  std::vector<std::int64_t> shape;

 private:
  Value() = default;
};

struct AllocatedStringPtr {
  std::string text;
  const char* get() const { return text.c_str(); }
};

struct Session {
  Session(const Env&, const char*, const SessionOptions&) {}
  std::size_t GetInputCount() const { return 1; }
  std::size_t GetOutputCount() const { return 2; }
  AllocatedStringPtr GetInputNameAllocated(std::size_t, AllocatorWithDefaultOptions&) const {
    return {"x"};
  }
  AllocatedStringPtr GetOutputNameAllocated(std::size_t index, AllocatorWithDefaultOptions&) const {
    return {index ? "b/y" : "a/y"};
  }
  TypeInfo GetInputTypeInfo(std::size_t) const { return {}; }
  std::vector<Value> Run(const RunOptions&, const char* const*, const Value* fed, std::size_t,
                         const char* const*, std::size_t count) {
    float sum = 0;
    for (float value : fed[0].values) sum += value;
    const std::int64_t one = 1;
    std::vector<Value> found;
    for (std::size_t i = 0; i < count; ++i) {
      found.push_back(Value::CreateTensor<float>(MemoryInfo{}, &sum, 1, &one, 1));
    }
    return found;
  }
};

}  // namespace Ort
