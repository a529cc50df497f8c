#include "tools/train_dictionary/trainer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/api/elementwise.h"
#include "kernels/api/omp_encode.h"
#include "kernels/api/update_atoms.h"
#include "proto/base/check.h"
#include "proto/base/status.h"
#include "tools/train_dictionary/first_atoms.h"

namespace lexico::train_dictionary {
namespace {

using kernels::DeviceBuffer;
using kernels::MutableTensorView;
using kernels::TensorView;

// Vectors a batch, by atoms: with sparsity 8 every atom is used some 16 times a batch.
constexpr int64_t kBatchPerAtom = 2;
// What an atom forgets of the batches before, a batch later, at the beginning and at the end,
// falling by equal factors: early batches are forgotten quickly, late ones averaged. An atom is the
// mean of some 16 / kForgetLast uses then, and what noise is left of it costs little beside the
// code's error.
constexpr double kForgetFirst = 0.3;
constexpr double kForgetLast = 0.01;
// Streams of random numbers (vector_set.h) beyond those of windows.
constexpr uint64_t kInitialStream = uint64_t{1} << 60;
constexpr uint64_t kReseedStream = uint64_t{1} << 61;

double Mean(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

// The worst coded quarter, in their order.
std::vector<int64_t> WorstCoded(const std::vector<float>& errors) {
  std::vector<int64_t> worst(errors.size());
  std::iota(worst.begin(), worst.end(), int64_t{0});
  const auto quarter = worst.begin() + static_cast<int64_t>((worst.size() + 3) / 4);
  std::nth_element(worst.begin(), quarter - 1, worst.end(), [&](int64_t a, int64_t b) {
    return errors[a] != errors[b] ? errors[a] > errors[b] : a < b;
  });
  worst.erase(quarter, worst.end());
  std::sort(worst.begin(), worst.end());
  return worst;
}

HeldOutError ErrorOf(const VectorSet& held_out, const std::vector<float>& errors) {
  const std::vector<int64_t> bands = PositionBands();
  HeldOutError error{.all = Mean(errors), .by_position = {}};
  for (size_t b = 0; b < bands.size(); ++b) {
    double sum = 0;
    int64_t count = 0;
    for (int64_t v = 0; v < std::ssize(errors); ++v) {
      const int64_t position = held_out.position(v);
      if (position >= bands[b] || (b > 0 && position < bands[b - 1])) continue;
      sum += errors[v];
      ++count;
    }
    error.by_position.push_back(count > 0 ? sum / static_cast<double>(count)
                                          : std::numeric_limits<double>::quiet_NaN());
  }
  return error;
}

}  // namespace

std::vector<int64_t> PositionBands() {
  return {1024, 4096, 16384, std::numeric_limits<int64_t>::max()};
}

std::vector<uint16_t> ToF16(const std::vector<float>& rows) {
  std::vector<uint16_t> halves(rows.size());
  const auto n = static_cast<int64_t>(rows.size());
  kernels::Convert(TensorView(rows.data(), {n}),
                   MutableTensorView(halves.data(), kernels::DType::kF16, {n}),
                   kernels::Stream::Cpu(1));
  return halves;
}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const TrainerOptions& options,
                                                         int n_dictionaries, int head_dim,
                                                         int64_t n_vectors,
                                                         const kernels::Stream& stream) {
  auto trainer = std::unique_ptr<Trainer>(new Trainer(options, n_dictionaries, head_dim, stream));
  trainer->train_errors_.resize(n_dictionaries);
  const int64_t n_atoms = int64_t{n_dictionaries} * options.n_atoms;
  const int64_t batch = trainer->batch();
  const std::pair<DeviceBuffer*, int64_t> buffers[] = {
      {&trainer->rows_, n_atoms * head_dim * 4},
      {&trainer->weights_, n_atoms * 4},
      {&trainer->n_uses_, n_atoms * 4},
      {&trainer->x_, batch * head_dim * 4},
      {&trainer->atoms_, batch * options.sparsity * 2},
      {&trainer->coefs_, batch * options.sparsity},
      {&trainer->rel_errors_, n_dictionaries * n_vectors * 4},
  };
  for (const auto& [buffer, bytes] : buffers) {
    LEXICO_ASSIGN_OR_RETURN(*buffer, DeviceBuffer::Allocate(bytes, stream));
  }
  return trainer;
}

int64_t Trainer::batch() const { return kBatchPerAtom * options_.n_atoms; }

absl::Status Trainer::BeginFromData(const VectorSet& set) {
  std::vector<Atoms> first;
  for (int i = 0; i < n_dictionaries_; ++i) {
    LEXICO_ASSIGN_OR_RETURN(first.emplace_back(), FirstAtoms(set, i, options_.n_atoms,
                                                             options_.seed ^ (kInitialStream + i)));
  }
  Begin(first, 0);
  return absl::OkStatus();
}

void Trainer::Begin(const std::vector<Atoms>& atoms, int n_rounds_done) {
  LEXICO_CHECK_EQ(std::ssize(atoms), n_dictionaries_);
  for (int i = 0; i < n_dictionaries_; ++i) {
    stream_.Upload(rows(i), atoms[i].rows.data(), atoms[i].rows.size() * sizeof(float));
    stream_.Upload(weights(i), atoms[i].weights.data(), atoms[i].weights.size() * sizeof(float));
  }
  n_rounds_done_ = n_rounds_done;
}

std::vector<Atoms> Trainer::atoms() const {
  std::vector<Atoms> all(n_dictionaries_);
  for (int i = 0; i < n_dictionaries_; ++i) {
    all[i] = {.n_atoms = options_.n_atoms,
              .head_dim = head_dim_,
              .rows = std::vector<float>(int64_t{options_.n_atoms} * head_dim_),
              .weights = std::vector<float>(options_.n_atoms)};
    stream_.Download(all[i].rows.data(), rows(i), all[i].rows.size() * sizeof(float));
    stream_.Download(all[i].weights.data(), weights(i), all[i].weights.size() * sizeof(float));
  }
  return all;
}

absl::Status Trainer::Encode(const VectorSet& set, int dictionary, int64_t first, int64_t n,
                             float* rel_errors) {
  set.Copy(dictionary, first, n, x_.as<float>());
  auto& prepared = dictionaries_[dictionary];
  LEXICO_ASSIGN_OR_RETURN(
      prepared, kernels::PrepareRows(TensorView(rows(dictionary), {options_.n_atoms, head_dim_}),
                                     stream_, std::move(prepared)));
  kernels::OmpEncode({.x = TensorView(x_.as<float>(), {n, head_dim_}),
                      .dictionary = prepared.get(),
                      .sparsity = options_.sparsity,
                      .atoms = MutableTensorView(atoms_.as<uint16_t>(), {n, options_.sparsity}),
                      .coefs = MutableTensorView(coefs_.as<uint8_t>(), {n, options_.sparsity}),
                      .rel_error = MutableTensorView(rel_errors, {n})},
                     stream_);
  return absl::OkStatus();
}

void Trainer::Update(int dictionary, int64_t n, const float* rel_errors, float memory) {
  const int64_t n_atoms = options_.n_atoms;
  kernels::UpdateAtoms({.x = TensorView(x_.as<float>(), {n, head_dim_}),
                        .atoms = TensorView(atoms_.as<uint16_t>(), {n, options_.sparsity}),
                        .coefs = TensorView(coefs_.as<uint8_t>(), {n, options_.sparsity}),
                        .rel_error = TensorView(rel_errors, {n}),
                        .memory = memory,
                        .rows = MutableTensorView(rows(dictionary), {n_atoms, head_dim_}),
                        .weights = MutableTensorView(weights(dictionary), {n_atoms}),
                        .n_uses = MutableTensorView(n_uses(dictionary), {n_atoms})},
                       stream_);
}

absl::Status Trainer::RunRound(const VectorSet& set, const std::function<void(double)>& progress) {
  LEXICO_CHECK(set.full());
  const int64_t n_vectors = set.n_vectors();
  const int64_t n_visits = options_.n_passes * n_vectors;
  stream_.Zero(n_uses_.as<int32_t>(), n_uses_.bytes());
  for (int64_t visit = 0; visit < n_visits;) {
    const int64_t first = visit % n_vectors;
    const int64_t n = std::min(batch(), n_vectors - first);
    const double part = static_cast<double>(visit) / static_cast<double>(n_visits);
    const double done = (n_rounds_done_ + part) / std::max(1, options_.n_rounds);
    const double memory = 1 - kForgetFirst * std::pow(kForgetLast / kForgetFirst, done);
    for (int i = 0; i < n_dictionaries_; ++i) {
      LEXICO_RETURN_IF_ERROR(
          Encode(set, i, first, n, rel_errors_.as<float>() + i * n_vectors + first));
      Update(i, n, rel_errors_.as<float>() + i * n_vectors + first, static_cast<float>(memory));
    }
    stream_.Synchronize();
    visit += n;
    progress(static_cast<double>(visit) / static_cast<double>(n_visits));
  }
  std::vector<float> errors(n_vectors);
  for (int i = 0; i < n_dictionaries_; ++i) {
    stream_.Download(errors.data(), rel_errors_.as<float>() + i * n_vectors,
                     errors.size() * sizeof(float));
    train_errors_[i] = Mean(errors);
    Reseed(set, i, errors);
  }
  ++n_rounds_done_;
  return absl::OkStatus();
}

// Atoms that no code held in the round begin anew, from vectors of the worst coded quarter.
void Trainer::Reseed(const VectorSet& set, int dictionary, const std::vector<float>& errors) {
  std::vector<int32_t> uses(options_.n_atoms);
  stream_.Download(uses.data(), n_uses(dictionary), uses.size() * sizeof(int32_t));
  if (std::find(uses.begin(), uses.end(), 0) == uses.end()) return;
  const std::vector<int64_t> worst = WorstCoded(errors);
  const std::vector<float> vectors = set.Download(dictionary);
  const uint64_t seed = options_.seed ^ (kReseedStream + dictionary);
  std::vector<float> row(head_dim_);
  for (int a = 0; a < options_.n_atoms; ++a) {
    if (uses[a] > 0) continue;
    const uint64_t number = static_cast<uint64_t>(n_rounds_done_) * options_.n_atoms + a;
    const int64_t index = worst[RandomAt(seed, 0, number) % worst.size()];
    if (errors[index] == 0) continue;  // a zero vector: all are coded
    AtomFrom({vectors.data() + index * head_dim_, row.size()}, seed, 1 + number, row);
    const float weight = 0;
    stream_.Upload(rows(dictionary) + int64_t{a} * head_dim_, row.data(),
                   row.size() * sizeof(float));
    stream_.Upload(weights(dictionary) + a, &weight, sizeof(weight));
  }
}

absl::StatusOr<std::vector<HeldOutError>> Trainer::Validate(const VectorSet& held_out, int64_t n) {
  std::vector<HeldOutError> all;
  std::vector<float> errors(n);
  LEXICO_ASSIGN_OR_RETURN(const DeviceBuffer on_device,
                          DeviceBuffer::Allocate(n * sizeof(float), stream_));
  for (int i = 0; i < n_dictionaries_; ++i) {
    for (int64_t first = 0; first < n; first += batch()) {
      LEXICO_RETURN_IF_ERROR(
          Encode(held_out, i, first, std::min(batch(), n - first), on_device.as<float>() + first));
    }
    stream_.Download(errors.data(), on_device.as<float>(), n * sizeof(float));
    all.push_back(ErrorOf(held_out, errors));
  }
  return all;
}

}  // namespace lexico::train_dictionary
