// Runs a bundle's graph once with ONNX Runtime's C++ API: all models in one session.
//
//   run_bundle BUNDLE [frame.bin]
//
// frame.bin holds the float32 values of the first input; without it all inputs are zeros. Free
// sizes, such as the batch, are taken for 1. Output "a/y" of the graph is output "y" of model "a".

#include <onnxruntime_cxx_api.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Input {
  std::string name;
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

Input input_of(const Ort::Session& session, std::size_t index,
               Ort::AllocatorWithDefaultOptions& allocator) {
  Input input;
  input.name = session.GetInputNameAllocated(index, allocator).get();
  const auto type = session.GetInputTypeInfo(index);
  const auto tensor = type.GetTensorTypeAndShapeInfo();
  if (tensor.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    throw std::runtime_error("input '" + input.name + "' is not float32");
  }
  input.shape = tensor.GetShape();
  std::size_t count = 1;
  for (auto& size : input.shape) {
    if (size < 0) size = 1;
    count *= static_cast<std::size_t>(size);
  }
  input.values.resize(count);
  return input;
}

void read_frame(const char* path, Input& input) {
  std::ifstream file(path, std::ios::binary);
  const auto nbytes = static_cast<std::streamsize>(input.values.size() * sizeof(float));
  if (!file.read(reinterpret_cast<char*>(input.values.data()), nbytes)) {
    throw std::runtime_error(std::string(path) + " does not hold " +
                             std::to_string(input.values.size()) + " float32 values");
  }
}

int run(const std::filesystem::path& bundle, const char* frame) {
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "run_bundle");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  const std::filesystem::path graph = bundle / "merged.onnx";
  if (!std::filesystem::is_regular_file(graph)) {
    throw std::runtime_error(bundle.string() + " is no bundle: it has no merged.onnx");
  }
  Ort::Session session(env, graph.c_str(), options);
  Ort::AllocatorWithDefaultOptions allocator;

  std::vector<Input> inputs;
  for (std::size_t i = 0; i < session.GetInputCount(); ++i) {
    inputs.push_back(input_of(session, i, allocator));
  }
  if (frame != nullptr && !inputs.empty()) read_frame(frame, inputs.front());

  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::vector<const char*> input_names;
  std::vector<Ort::Value> fed;
  for (auto& input : inputs) {
    input_names.push_back(input.name.c_str());
    fed.push_back(Ort::Value::CreateTensor<float>(memory, input.values.data(),
                                                  input.values.size(), input.shape.data(),
                                                  input.shape.size()));
  }
  std::vector<std::string> outputs;
  for (std::size_t i = 0; i < session.GetOutputCount(); ++i) {
    outputs.emplace_back(session.GetOutputNameAllocated(i, allocator).get());
  }
  std::vector<const char*> output_names;
  for (const auto& name : outputs) output_names.push_back(name.c_str());

  const auto found = session.Run(Ort::RunOptions{nullptr}, input_names.data(), fed.data(),
                                 fed.size(), output_names.data(), output_names.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto tensor = found[i].GetTensorTypeAndShapeInfo();
    std::printf("%s:", outputs[i].c_str());
    if (tensor.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
      const float* values = found[i].GetTensorData<float>();
      for (std::size_t k = 0; k < tensor.GetElementCount(); ++k) std::printf(" %g", values[k]);
    }
    std::printf("\n");
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "usage: run_bundle BUNDLE [frame.bin]\n");
    return 2;
  }
  try {
    return run(argv[1], argc == 3 ? argv[2] : nullptr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "run_bundle: %s\n", error.what());
    return 1;
  }
}
