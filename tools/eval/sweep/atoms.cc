#include "tools/eval/sweep/atoms.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "kernels/api/omp_encode.h"
#include "kernels/api/unit_atoms.h"
#include "proto/base/profile.h"
#include "proto/base/status.h"
#include "tools/eval/sweep/coherence.h"
#include "worker/model/safetensors.h"

namespace lexico::eval {
namespace {

constexpr float kNearCopy = 0.99f;

absl::StatusOr<AtomsOfOne> ReadOne(worker::ModelWeights& weights,
                                   const worker::SafetensorsFile& file, const std::string& name,
                                   const kernels::Stream& stream) {
  const std::vector<int64_t>& shape = file.tensors().at(name).shape;
  if (shape.size() != 2) {
    return absl::InvalidArgumentError(
        fmt::format("{} has {} dimensions; 2 are needed, [n_atoms, head_dim]", name, shape.size()));
  }
  LEXICO_ASSIGN_OR_RETURN(const kernels::TensorView view, weights.Find(name, {shape[0], shape[1]}));
  auto atoms = kernels::ReadUnitAtoms(view);
  if (!atoms.ok()) return base::Annotate(atoms.status(), name);
  AtomsOfOne one{.name = name, .head_dim = atoms->head_dim, .rows = std::move(atoms->rows)};
  one.coherence = AtomCoherence(one.rows, one.head_dim, stream);
  return one;
}

void AddUses(const std::vector<int64_t>& uses, std::vector<ResultTable::Value>* row) {
  std::vector<int64_t> sorted = uses;
  std::sort(sorted.rbegin(), sorted.rend());
  const auto n = static_cast<double>(sorted.size());
  const double all = std::accumulate(sorted.begin(), sorted.end(), 0.0);
  double entropy = 0;
  for (const int64_t count : sorted) {
    const double p = static_cast<double>(count) / all;
    if (count > 0) entropy -= p * std::log(p);
  }
  const auto unused = std::count(sorted.begin(), sorted.end(), 0);
  const auto n_top = static_cast<std::ptrdiff_t>(std::ceil(n / 100));
  row->emplace_back(static_cast<double>(unused) / n);
  row->emplace_back(std::exp(entropy));
  row->emplace_back(std::accumulate(sorted.begin(), sorted.begin() + n_top, 0.0) / all);
}

}  // namespace

absl::StatusOr<std::vector<AtomsOfOne>> ReadAtoms(const std::string& path,
                                                  const kernels::Stream& stream) {
  LEXICO_ASSIGN_OR_RETURN(const auto file, worker::SafetensorsFile::Open(path));
  worker::ModelWeights weights = worker::ModelWeights::FromFile(file);
  std::vector<AtomsOfOne> dictionaries;
  for (int layer = 0;; ++layer) {
    const size_t before = dictionaries.size();
    for (const char* kind : {"k", "v"}) {
      const std::string name = fmt::format("layers.{}.{}", layer, kind);
      if (!file->tensors().contains(name)) continue;
      auto one = ReadOne(weights, *file, name, stream);
      if (!one.ok()) return base::Annotate(one.status(), path);
      dictionaries.push_back(*std::move(one));
    }
    if (dictionaries.size() == before) break;
  }
  if (!dictionaries.empty()) return dictionaries;
  return absl::NotFoundError(
      fmt::format("{}: neither layers.0.k nor layers.0.v among {} tensors; is it a dictionary?",
                  path, file->tensors().size()));
}

absl::Status CountUses(const std::vector<float>& vectors, int64_t sparsity,
                       const kernels::Stream& stream, AtomsOfOne* atoms) {
  const int64_t n_atoms = atoms->n_atoms();
  const int sparsity_max =
      base::SparsityMax({.head_dim = atoms->head_dim, .n_atoms = static_cast<int>(n_atoms)});
  if (sparsity < 1 || sparsity > sparsity_max) {
    return absl::InvalidArgumentError(
        fmt::format("a sparsity of {}; {} atoms of {} numbers allow 1 to {}", sparsity, n_atoms,
                    atoms->head_dim, sparsity_max));
  }
  LEXICO_ASSIGN_OR_RETURN(
      const auto prepared,
      kernels::PrepareDictionary({atoms->rows.data(), {n_atoms, atoms->head_dim}}, stream));
  const int64_t n = static_cast<int64_t>(vectors.size()) / atoms->head_dim;
  std::vector<uint16_t> chosen(n * sparsity);
  std::vector<uint8_t> coefs(n * sparsity);
  std::vector<float> errors(n);
  std::vector<float> coefficients(n * sparsity);
  kernels::OmpEncode({.x = {vectors.data(), {n, atoms->head_dim}},
                      .dictionary = prepared.get(),
                      .sparsity = static_cast<int>(sparsity),
                      .atoms = {chosen.data(), {n, sparsity}},
                      .coefs = {coefs.data(), {n, sparsity}},
                      .rel_error = {errors.data(), {n}},
                      .coefficients = {coefficients.data(), {n, sparsity}}},
                     stream);
  atoms->uses.assign(n_atoms, 0);
  for (size_t i = 0; i < chosen.size(); ++i) {
    if (coefficients[i] != 0) ++atoms->uses[chosen[i]];  // 0: an unused place
  }
  return absl::OkStatus();
}

ResultTable AtomsTable(const std::vector<AtomsOfOne>& dictionaries) {
  const bool counted = !dictionaries.empty() && !dictionaries[0].uses.empty();
  std::vector<ResultTable::Column> columns = {{"dictionary"},        {"n_atoms"},
                                              {"coherence_mean", 3}, {"coherence_max", 3},
                                              {"near_copies"},       {"effective_dim", 1}};
  if (counted) {
    columns.insert(columns.end(), {{"unused", 4}, {"effective_atoms", 0}, {"top_1_percent", 4}});
  }
  ResultTable table("atoms", columns);
  for (const AtomsOfOne& one : dictionaries) {
    const double sum = std::accumulate(one.coherence.begin(), one.coherence.end(), 0.0);
    std::vector<ResultTable::Value> row = {
        one.name,
        one.n_atoms(),
        sum / static_cast<double>(one.n_atoms()),
        double{*std::max_element(one.coherence.begin(), one.coherence.end())},
        static_cast<int64_t>(std::count_if(one.coherence.begin(), one.coherence.end(),
                                           [](float c) { return c >= kNearCopy; })),
        EffectiveDim(one.rows, one.head_dim)};
    if (counted) AddUses(one.uses, &row);
    table.Add(std::move(row));
  }
  return table;
}

std::string AtomsJson(const std::string& path, const std::vector<AtomsOfOne>& dictionaries) {
  nlohmann::ordered_json out = {{"dictionary", path}, {"dictionaries", nlohmann::json::array()}};
  for (const AtomsOfOne& one : dictionaries) {
    out["dictionaries"].push_back({{"name", one.name},
                                   {"n_atoms", one.n_atoms()},
                                   {"coherence", one.coherence},
                                   {"uses", one.uses}});
  }
  return out.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace lexico::eval
