#include "kernels/bench/bench_data.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "kernels/api/elementwise.h"
#include "kernels/api/omp_encode.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/vector_code_definition.h"
#include "proto/base/check.h"

namespace lexico::kernels::bench {
namespace {

constexpr char kDictionaryPath[] = "models/lexico-20m/dictionaries/dictionary-N4096.safetensors";
constexpr char kTensor[] = "layers.3.k";
constexpr uint32_t kSeed = 20261124;

// Normal numbers of FP16 only; a trained atom has no others that matter.
float HalfToFloat(uint16_t half) {
  const uint32_t exponent = (half >> 10) & 0x1f;
  if (exponent == 0) return 0;
  const uint32_t bits = (static_cast<uint32_t>(half & 0x8000) << 16) | ((exponent + 112) << 23) |
                        (static_cast<uint32_t>(half & 0x3ff) << 13);
  return std::bit_cast<float>(bits);
}

// Empty when the file is absent.
std::vector<float> ReadAtoms(int n_atoms, int& head_dim) {
  std::ifstream file(kDictionaryPath, std::ios::binary);
  uint64_t header_bytes = 0;
  if (!file.read(reinterpret_cast<char*>(&header_bytes), sizeof(header_bytes))) return {};
  std::string header(header_bytes, '\0');
  file.read(header.data(), static_cast<std::streamsize>(header_bytes));
  const nlohmann::json entry = nlohmann::json::parse(header).at(kTensor);
  head_dim = entry.at("shape").at(1).get<int>();
  LEXICO_CHECK_LE(n_atoms, entry.at("shape").at(0).get<int>());
  std::vector<uint16_t> halves(static_cast<size_t>(n_atoms) * head_dim);
  file.seekg(static_cast<std::streamoff>(8 + header_bytes +
                                         entry.at("data_offsets").at(0).get<uint64_t>()));
  file.read(reinterpret_cast<char*>(halves.data()),
            static_cast<std::streamsize>(halves.size() * sizeof(uint16_t)));
  LEXICO_CHECK(file.good());
  std::vector<float> atoms;
  for (const uint16_t half : halves) atoms.push_back(HalfToFloat(half));
  return atoms;
}

}  // namespace

DeviceBuffer AllocateOnDevice(size_t bytes, const Stream& stream) {
  auto buffer = DeviceBuffer::Allocate(bytes, stream);
  LEXICO_CHECK(buffer.ok());
  return *std::move(buffer);
}

DeviceBuffer UploadToDevice(const void* data, size_t bytes, const Stream& stream) {
  DeviceBuffer buffer = AllocateOnDevice(bytes, stream);
  buffer.CopyFrom(data, bytes);
  return buffer;
}

BenchDictionary LoadBenchDictionary(int n_atoms, const Stream& stream) {
  BenchDictionary dictionary;
  dictionary.atoms = ReadAtoms(n_atoms, dictionary.head_dim);
  dictionary.origin = std::string(kTensor) + " of " + kDictionaryPath;
  if (dictionary.atoms.empty()) {
    dictionary.origin = "random atoms";
    std::mt19937 random(kSeed);
    std::normal_distribution<float> normal;
    dictionary.atoms.resize(static_cast<size_t>(n_atoms) * dictionary.head_dim);
    for (float& value : dictionary.atoms) value = normal(random);
    for (int a = 0; a < n_atoms; ++a) {
      float* row = dictionary.atoms.data() + static_cast<size_t>(a) * dictionary.head_dim;
      float squares = 0;
      for (int i = 0; i < dictionary.head_dim; ++i) squares += row[i] * row[i];
      for (int i = 0; i < dictionary.head_dim; ++i) row[i] /= std::sqrt(squares);
    }
  }
  dictionary.prepared = PrepareAtoms(dictionary, stream);
  return dictionary;
}

std::shared_ptr<const PreparedDictionary> PrepareAtoms(const BenchDictionary& dictionary,
                                                       const Stream& stream) {
  const auto n_atoms = static_cast<int64_t>(dictionary.atoms.size()) / dictionary.head_dim;
  std::vector<uint16_t> halves(dictionary.atoms.size());
  Convert(TensorView(dictionary.atoms.data(), {n_atoms, dictionary.head_dim}),
          MutableTensorView(halves.data(), DType::kF16, {n_atoms, dictionary.head_dim}),
          Stream::Cpu(1));
  auto prepared = PrepareDictionary(
      TensorView(halves.data(), DType::kF16, {n_atoms, dictionary.head_dim}), stream);
  LEXICO_CHECK(prepared.ok());
  return *prepared;
}

std::vector<float> SparseVectors(const BenchDictionary& dictionary, int64_t n_vectors) {
  const int head_dim = dictionary.head_dim;
  const int n_atoms = static_cast<int>(dictionary.atoms.size()) / head_dim;
  std::mt19937 random(kSeed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(n_vectors) * head_dim);
  for (int64_t v = 0; v < n_vectors; ++v) {
    float* to = x.data() + v * head_dim;
    for (int i = 0; i < head_dim; ++i) to[i] = 0.06f * normal(random);
    for (int j = 0; j < 24; ++j) {
      const float* atom =
          dictionary.atoms.data() + static_cast<size_t>(random() % n_atoms) * head_dim;
      const float c = normal(random) * std::exp2(-0.15f * static_cast<float>(j));
      for (int i = 0; i < head_dim; ++i) to[i] += c * atom[i];
    }
  }
  return x;
}

namespace {

// One vector of normal size, as kernels/cpu/vector_code_definition.h stores it.
definition::CodedVector RandomVector(const VectorCode& code, int n_atoms, std::mt19937& random) {
  std::normal_distribution<float> normal;
  definition::CodedVector vector;
  for (int j = 0; j < code.sparsity; ++j) {
    const uint32_t atom = random() % static_cast<uint32_t>(n_atoms);
    vector.atoms[j] = static_cast<uint16_t>(code.is_packed() ? atom << 4 | random() % 16 : atom);
    vector.coefs[j] = FloatToE4m3(normal(random));
  }
  vector.scale = cpu::FloatToF16(normal(random) / 8);
  vector.residual_scale = cpu::FloatToF16(normal(random) / 8);
  for (uint8_t& byte : vector.residual) byte = static_cast<uint8_t>(random());
  return vector;
}

}  // namespace

std::vector<std::vector<uint8_t>> RandomPages(const PageLayout& layout, int64_t n_pages,
                                              int n_atoms) {
  std::mt19937 random(kSeed);
  std::vector<std::vector<uint8_t>> pages;
  for (int64_t p = 0; p < n_pages; ++p) {
    std::vector<uint8_t>& page = pages.emplace_back(layout.payload_bytes());
    for (const bool value : {false, true}) {
      const VectorCode code = layout.code(value);
      for (int i = 0; i < layout.n_kv_heads * layout.page_tokens; ++i) {
        definition::StoreVector(code, layout.head_dim, RandomVector(code, n_atoms, random),
                                page.data() + layout.head_offset(value, i / layout.page_tokens),
                                layout.page_tokens, i % layout.page_tokens);
      }
    }
  }
  return pages;
}

}  // namespace lexico::kernels::bench
