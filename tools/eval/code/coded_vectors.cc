#include "tools/eval/code/coded_vectors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <system_error>
#include <utility>

#include "kernels/api/dictionary.h"
#include "kernels/api/omp_encode.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/vector_code_definition.h"
#include "proto/base/options.h"
#include "proto/base/profile.h"
#include "proto/base/status.h"
#include "worker/model/safetensors.h"

namespace lexico::eval {
namespace {

absl::StatusOr<std::vector<float>> FiniteRows(const kernels::TensorView& vectors) {
  std::vector<float> rows(vectors.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i] = kernels::cpu::LoadFloat(vectors.data, vectors.dtype, static_cast<int64_t>(i));
    if (!std::isfinite(rows[i])) {
      return absl::InvalidArgumentError(fmt::format("vector {} is not finite: number {} is {}",
                                                    i / vectors.dim(1), i % vectors.dim(1),
                                                    rows[i]));
    }
  }
  return rows;
}

absl::Status CheckShapes(const kernels::TensorView& dictionary, const kernels::TensorView& vectors,
                         const base::VectorCode& code) {
  if (vectors.dim(1) != dictionary.dim(1)) {
    return absl::InvalidArgumentError(
        fmt::format("vectors have {} numbers, atoms {}", vectors.dim(1), dictionary.dim(1)));
  }
  if (vectors.dim(0) == 0) return absl::InvalidArgumentError("there are no vectors: 0 rows");
  const base::CodingModel model{.head_dim = static_cast<int>(dictionary.dim(1)),
                                .n_atoms = static_cast<int>(dictionary.dim(0))};
  if (code.is_empty() || code.sparsity > base::SparsityMax(model)) {
    return absl::InvalidArgumentError(
        fmt::format("{} atoms a vector; this dictionary allows 1 to "
                    "{}",
                    code.sparsity, base::SparsityMax(model)));
  }
  const absl::Status fits = base::CheckProfile({.name = "asked for", .k = code, .v = code}, model);
  return fits.ok() ? fits : absl::InvalidArgumentError(fits.message());
}

// What stands in one safetensors file.
struct OutTensor {
  const char* name;
  const char* dtype;
  std::vector<int64_t> shape;
  const void* data;
  size_t bytes;
};

template <typename T>
OutTensor Out(const char* name, const char* dtype, std::vector<int64_t> shape,
              const std::vector<T>& values) {
  return {name, dtype, std::move(shape), values.data(), values.size() * sizeof(T)};
}

std::string Header(const std::vector<OutTensor>& tensors) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  size_t offset = 0;
  for (const OutTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes}}};
    offset += tensor.bytes;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i));
  return length + text;
}

// Replaces what the pursuit found of vector i by what its code holds.
void StoreOne(const base::VectorCode& code, const kernels::cpu::Dictionary& dictionary,
              const float* rows, int64_t i, CodedVectors* coded) {
  namespace definition = kernels::definition;
  const int dim = coded->head_dim;
  const float* x = rows + i * dim;
  uint16_t* atoms = coded->atoms.data() + i * code.sparsity;
  float* values = coded->coef_values.data() + i * code.sparsity;
  const definition::CodedVector vector =
      definition::EncodeVector(code, dim, &dictionary, x, atoms, values);
  for (int j = 0; j < code.sparsity; ++j) {
    atoms[j] = static_cast<uint16_t>(definition::AtomOf(code, vector, j));
    coded->coefs[i * code.sparsity + j] =
        code.is_packed() ? static_cast<uint8_t>(vector.atoms[j] & 15) : vector.coefs[j];
    values[j] = static_cast<float>(definition::CoefficientOf(code, vector, j));
  }
  const std::vector<double> decoded = definition::DecodeVector(code, dim, &dictionary, vector).x;
  double squares = 0;
  double errors = 0;
  for (int n = 0; n < dim; ++n) {
    coded->reconstruction[i * dim + n] = static_cast<float>(decoded[n]);
    squares += static_cast<double>(x[n]) * x[n];
    errors += (x[n] - decoded[n]) * (x[n] - decoded[n]);
  }
  coded->errors[i] = squares == 0 ? 0 : static_cast<float>(std::sqrt(errors / squares));
}

}  // namespace

double CodedVectors::mean_atoms() const {
  const auto n_used =
      std::count_if(coef_values.begin(), coef_values.end(), [](float c) { return c != 0; });
  return static_cast<double>(n_used) / static_cast<double>(n_vectors);
}

ErrorSummary Summarize(std::vector<float> errors) {
  std::sort(errors.begin(), errors.end());
  const auto n = static_cast<double>(errors.size());
  const auto at = [&](double share) {
    return errors[static_cast<size_t>(std::max(0.0, std::ceil(share * n) - 1))];
  };
  return {.mean = std::accumulate(errors.begin(), errors.end(), 0.0) / n,
          .p50 = at(0.5),
          .p90 = at(0.9),
          .p99 = at(0.99),
          .max = errors.back()};
}

absl::StatusOr<CodedVectors> CodeVectors(kernels::TensorView dictionary,
                                         kernels::TensorView vectors, const base::VectorCode& code,
                                         float error_threshold, const kernels::Stream& stream) {
  LEXICO_RETURN_IF_ERROR(CheckShapes(dictionary, vectors, code));
  LEXICO_ASSIGN_OR_RETURN(const std::vector<float> rows, FiniteRows(vectors));
  LEXICO_ASSIGN_OR_RETURN(auto prepared, kernels::PrepareDictionary(dictionary, stream));
  const int64_t n = vectors.dim(0);
  const int sparsity = code.sparsity;
  CodedVectors coded{
      .n_vectors = n, .sparsity = sparsity, .head_dim = static_cast<int>(vectors.dim(1))};
  coded.atoms.resize(n * sparsity);
  coded.coefs.resize(n * sparsity);
  coded.coef_values.resize(n * sparsity);
  coded.errors.resize(n);
  coded.reconstruction.resize(n * coded.head_dim);
  if (sparsity > 0) {
    prepared = kernels::DictionaryForCoding(std::move(prepared), n, sparsity, stream);
    kernels::OmpEncode({.x = {rows.data(), {n, coded.head_dim}},
                        .dictionary = prepared.get(),
                        .sparsity = sparsity,
                        .error_threshold = error_threshold,
                        .atoms = {coded.atoms.data(), {n, sparsity}},
                        .coefs = {coded.coefs.data(), {n, sparsity}},
                        .rel_error = {coded.errors.data(), {n}},
                        .coefficients = {coded.coef_values.data(), {n, sparsity}}},
                       stream);
  }
  const kernels::cpu::Dictionary& atoms = kernels::cpu::AsCpu(*prepared);
  for (int64_t i = 0; i < n; ++i) StoreOne(code, atoms, rows.data(), i, &coded);
  return coded;
}

absl::StatusOr<FileMatrix> ReadMatrix(const std::string& path, const std::string& name) {
  LEXICO_ASSIGN_OR_RETURN(const auto file, worker::SafetensorsFile::Open(path));
  const auto found = file->tensors().find(name);
  if (found == file->tensors().end()) {
    std::vector<std::string> names;
    for (const auto& [known, tensor] : file->tensors()) names.push_back(known);
    const std::string nearest = base::NearestName(name, names);
    return absl::NotFoundError(fmt::format("{}: no tensor '{}' among {}{}", path, name,
                                           names.size(),
                                           nearest.empty() ? "" : "; nearest is " + nearest));
  }
  const std::vector<int64_t>& shape = found->second.shape;
  if (shape.size() != 2) {
    return absl::InvalidArgumentError(fmt::format(
        "{}: {} has {} dimensions; 2 are needed, [n, head_dim]", path, name, shape.size()));
  }
  auto weights = std::make_shared<worker::ModelWeights>(worker::ModelWeights::FromFile(file));
  LEXICO_ASSIGN_OR_RETURN(const kernels::TensorView view,
                          weights->Find(name, {shape[0], shape[1]}));
  return FileMatrix{weights, view};
}

absl::Status WriteCodedVectors(const std::string& path, const CodedVectors& coded) {
  const int64_t n = coded.n_vectors;
  // By falling size of an element, so that each is aligned to its own.
  const std::vector<OutTensor> tensors = {
      Out("reconstruction", "F32", {n, coded.head_dim}, coded.reconstruction),
      Out("errors", "F32", {n}, coded.errors),
      Out("coefficient_values", "F32", {n, coded.sparsity}, coded.coef_values),
      Out("indices", "U16", {n, coded.sparsity}, coded.atoms),
      Out("coefficients", "U8", {n, coded.sparsity}, coded.coefs)};
  errno = 0;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  const bool opened = file.is_open();
  file << Header(tensors);
  for (const OutTensor& tensor : tensors) {
    file.write(static_cast<const char*>(tensor.data), static_cast<std::streamsize>(tensor.bytes));
  }
  file.close();
  if (file.good()) return absl::OkStatus();
  const std::string why = std::generic_category().message(errno);
  std::error_code ignored;
  if (opened && std::filesystem::is_regular_file(path, ignored)) std::remove(path.c_str());
  return absl::UnavailableError(fmt::format("{}: cannot be written: {}", path, why));
}

}  // namespace lexico::eval
