#include "tools/train_dictionary/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <thread>

#include "kernels/api/device_buffer.h"
#include "kernels/api/elementwise.h"
#include "kernels/api/omp_encode.h"
#include "proto/base/check.h"
#include "proto/base/status.h"

namespace lexico::train_dictionary {
namespace {

using kernels::MutableTensorView;
using kernels::TensorView;

// Vectors a batch, by atoms: with sparsity 8 every atom is used some 16 times a batch.
constexpr int64_t kBatchPerAtom = 2;
// What an atom remembers of the batches before, a batch later, in the first round and in the last:
// early batches are forgotten quickly, late ones averaged.
constexpr float kMemoryFirst = 0.7F;
constexpr float kMemoryLast = 0.9F;
// Of every vector while training: coefficients are then large enough for E4M3 to be exact to its
// three bits.
constexpr float kNorm = 16;
// Noise on initial atoms, of a vector of norm 1: none is a copy of another, however often a vector
// occurs in the data.
constexpr double kNoise = 0.5;
// Streams of random numbers (vector_set.h) beyond those of a set.
constexpr uint64_t kInitialStream = uint64_t{1} << 60;
constexpr uint64_t kReseedStream = uint64_t{1} << 61;

// Nearly normal, mean 0 and variance 1: of four uniform numbers of 16 bits (Irwin-Hall).
double NormalOf(uint64_t bits) {
  const auto sum = static_cast<double>((bits & 0xffff) + ((bits >> 16) & 0xffff) +
                                       ((bits >> 32) & 0xffff) + (bits >> 48));
  return (sum - 131070) / 37837.23;
}

void Normalise(std::span<float> row) {
  double squares = 0;
  for (const float each : row) squares += double{each} * each;
  const double norm = std::sqrt(squares);
  for (float& each : row) each = static_cast<float>(each / norm);
}

// An atom from vector `index`: its direction and noise.
void AtomFrom(const VectorSet& set, int dictionary, int64_t index, uint64_t seed, uint64_t stream,
              std::span<float> row) {
  set.CopyScaled(dictionary, index, 1, 1, row.data());
  const double deviation = kNoise / std::sqrt(static_cast<double>(row.size()));
  for (size_t j = 0; j < row.size(); ++j) {
    row[j] += static_cast<float>(deviation * NormalOf(RandomAt(seed, stream, j)));
  }
  Normalise(row);
}

// Calls work(i) for 0 .. n - 1 on up to `threads` threads.
template <typename Work>
void ForEach(int n, int threads, const Work& work) {
  std::atomic<int> next{0};
  const auto run = [&] {
    for (int i = next++; i < n; i = next++) work(i);
  };
  std::vector<std::jthread> helpers;
  for (int i = 1; i < std::min(n, threads); ++i) helpers.emplace_back(run);
  run();
}

double Mean(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) sum += value;
  return sum / static_cast<double>(values.size());
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

absl::Status Encode(const float* x, int64_t n, int head_dim, int sparsity,
                    const kernels::PreparedDictionary& dictionary, const kernels::Stream& stream,
                    Codes* codes, float* rel_error) {
  const int64_t n_coefs = n * sparsity;
  using kernels::DeviceBuffer;
  LEXICO_ASSIGN_OR_RETURN(DeviceBuffer on_device,
                          DeviceBuffer::Allocate(n * head_dim * sizeof(float), stream));
  LEXICO_ASSIGN_OR_RETURN(DeviceBuffer atoms, DeviceBuffer::Allocate(2 * n_coefs, stream));
  LEXICO_ASSIGN_OR_RETURN(DeviceBuffer coefs, DeviceBuffer::Allocate(n_coefs, stream));
  LEXICO_ASSIGN_OR_RETURN(DeviceBuffer errors, DeviceBuffer::Allocate(n * sizeof(float), stream));
  stream.Upload(on_device.as<float>(), x, on_device.bytes());
  kernels::OmpEncode({.x = TensorView(on_device.as<float>(), {n, head_dim}),
                      .dictionary = &dictionary,
                      .sparsity = sparsity,
                      .atoms = MutableTensorView(atoms.as<uint16_t>(), {n, sparsity}),
                      .coefs = MutableTensorView(coefs.as<uint8_t>(), {n, sparsity}),
                      .rel_error = MutableTensorView(errors.as<float>(), {n})},
                     stream);
  codes->sparsity = sparsity;
  codes->atoms.resize(n_coefs);
  codes->coefs.resize(n_coefs);
  std::vector<uint8_t> stored(n_coefs);
  stream.Download(codes->atoms.data(), atoms.as<uint16_t>(), atoms.bytes());
  stream.Download(stored.data(), coefs.as<uint8_t>(), coefs.bytes());
  stream.Download(rel_error, errors.as<float>(), errors.bytes());
  for (int64_t i = 0; i < n_coefs; ++i) codes->coefs[i] = kernels::E4m3ToFloat(stored[i]);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const TrainerOptions& options,
                                                         const VectorSet* train,
                                                         const kernels::Stream& stream) {
  auto trainer = std::unique_ptr<Trainer>(new Trainer(options, train, stream));
  const int n = train->n_dictionaries();
  trainer->atoms_.resize(n);
  trainer->codes_.resize(n);
  trainer->train_errors_.resize(n);
  trainer->rel_errors_.assign(n, std::vector<float>(train->n_vectors()));
  for (int i = 0; i < n; ++i) LEXICO_RETURN_IF_ERROR(trainer->InitialAtoms(i));
  return trainer;
}

absl::Status Trainer::InitialAtoms(int dictionary) {
  Atoms& atoms = atoms_[dictionary];
  atoms.n_atoms = options_.n_atoms;
  atoms.head_dim = train_->head_dim();
  atoms.rows.resize(static_cast<size_t>(atoms.n_atoms) * atoms.head_dim);
  atoms.weights.assign(atoms.n_atoms, 0);
  atoms.n_uses.assign(atoms.n_atoms, 0);
  // The set is shuffled: its first vectors are a random choice.
  int n = 0;
  int64_t n_non_zero = 0;
  std::vector<float> vector(atoms.head_dim);
  for (int64_t i = 0; i < train_->n_vectors(); ++i) {
    train_->Copy(dictionary, i, 1, vector.data());
    if (std::all_of(vector.begin(), vector.end(), [](float each) { return each == 0; })) continue;
    ++n_non_zero;
    if (n == atoms.n_atoms) return absl::OkStatus();
    AtomFrom(*train_, dictionary, i, options_.seed ^ (kInitialStream + dictionary), n,
             atoms.row(n));
    ++n;
  }
  if (n == atoms.n_atoms) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format(
      "{}: {} of {} vectors are not zero, fewer than the {} atoms; give more text, or fewer atoms "
      "(--n_atoms)",
      DictionaryName(dictionary), n_non_zero, train_->n_vectors(), atoms.n_atoms));
}

absl::Status Trainer::RunBatch(int64_t first, int64_t n) {
  const int dim = train_->head_dim();
  const int n_dictionaries = train_->n_dictionaries();
  std::vector<float> x(n * dim);
  for (int i = 0; i < n_dictionaries; ++i) {
    LEXICO_ASSIGN_OR_RETURN(
        const auto dictionary,
        kernels::PrepareDictionary(TensorView(atoms_[i].rows.data(), {options_.n_atoms, dim}),
                                   stream_));
    train_->CopyScaled(i, first, n, kNorm, x.data());
    LEXICO_RETURN_IF_ERROR(Encode(x.data(), n, dim, options_.sparsity, *dictionary, stream_,
                                  &codes_[i], rel_errors_[i].data() + first));
  }
  const float progress =
      static_cast<float>(n_rounds_done_) / static_cast<float>(std::max(1, options_.n_rounds - 1));
  const float memory = kMemoryFirst + (kMemoryLast - kMemoryFirst) * progress;
  ForEach(n_dictionaries, stream_.threads(), [&](int i) {
    std::vector<float> residual(n * dim);
    train_->CopyScaled(i, first, n, kNorm, residual.data());
    UpdateAtoms(codes_[i], memory, residual, atoms_[i]);
  });
  return absl::OkStatus();
}

// Atoms that no code held in a round begin anew, from vectors of the worst coded quarter.
void Trainer::Reseed(int dictionary) {
  Atoms& atoms = atoms_[dictionary];
  const std::vector<float>& errors = rel_errors_[dictionary];
  std::vector<int64_t> worst(errors.size());
  for (size_t i = 0; i < worst.size(); ++i) worst[i] = static_cast<int64_t>(i);
  const auto quarter = worst.begin() + static_cast<int64_t>((worst.size() + 3) / 4);
  std::nth_element(worst.begin(), quarter - 1, worst.end(), [&](int64_t a, int64_t b) {
    return errors[a] != errors[b] ? errors[a] > errors[b] : a < b;
  });
  const uint64_t seed = options_.seed ^ (kReseedStream + dictionary);
  const auto size = static_cast<uint64_t>(quarter - worst.begin());
  std::sort(worst.begin(), quarter);
  for (int a = 0; a < atoms.n_atoms; ++a) {
    if (atoms.n_uses[a] > 0) continue;
    const uint64_t number = static_cast<uint64_t>(n_rounds_done_) * atoms.n_atoms + a;
    const int64_t index = worst[RandomAt(seed, 0, number) % size];
    if (errors[index] == 0) continue;  // a zero vector: all are coded
    AtomFrom(*train_, dictionary, index, seed, 1 + number, atoms.row(a));
    atoms.weights[a] = 0;
  }
}

absl::Status Trainer::RunRound(const std::function<void(double)>& progress) {
  const int64_t n_vectors = train_->n_vectors();
  const int64_t batch = std::min<int64_t>(kBatchPerAtom * options_.n_atoms, n_vectors);
  for (Atoms& atoms : atoms_) atoms.n_uses.assign(atoms.n_atoms, 0);
  for (int64_t first = 0; first < n_vectors; first += batch) {
    const int64_t n = std::min(batch, n_vectors - first);
    LEXICO_RETURN_IF_ERROR(RunBatch(first, n));
    progress(static_cast<double>(first + n) / static_cast<double>(n_vectors));
  }
  for (size_t i = 0; i < atoms_.size(); ++i) train_errors_[i] = Mean(rel_errors_[i]);
  ++n_rounds_done_;
  if (n_rounds_done_ == options_.n_rounds) return absl::OkStatus();
  ForEach(train_->n_dictionaries(), stream_.threads(), [&](int i) { Reseed(i); });
  return absl::OkStatus();
}

absl::StatusOr<std::vector<HeldOutError>> Trainer::Validate(const VectorSet& held_out,
                                                            int64_t n) const {
  const int dim = held_out.head_dim();
  const std::vector<int64_t> bands = PositionBands();
  std::vector<HeldOutError> all;
  std::vector<float> x(n * dim);
  std::vector<float> errors(n);
  Codes codes;
  for (int i = 0; i < held_out.n_dictionaries(); ++i) {
    const std::vector<uint16_t> halves = ToF16(atoms_[i].rows);
    LEXICO_ASSIGN_OR_RETURN(
        const auto dictionary,
        kernels::PrepareDictionary(
            TensorView(halves.data(), kernels::DType::kF16, {options_.n_atoms, dim}), stream_));
    held_out.Copy(i, 0, n, x.data());
    LEXICO_RETURN_IF_ERROR(
        Encode(x.data(), n, dim, options_.sparsity, *dictionary, stream_, &codes, errors.data()));
    HeldOutError error{.all = Mean(errors), .by_position = {}};
    for (size_t b = 0; b < bands.size(); ++b) {
      double sum = 0;
      int64_t count = 0;
      for (int64_t v = 0; v < n; ++v) {
        const int64_t position = held_out.position(v);
        if (position >= bands[b] || (b > 0 && position < bands[b - 1])) continue;
        sum += errors[v];
        ++count;
      }
      error.by_position.push_back(count > 0 ? sum / static_cast<double>(count)
                                            : std::numeric_limits<double>::quiet_NaN());
    }
    all.push_back(std::move(error));
  }
  return all;
}

void Trainer::Resume(std::vector<Atoms> atoms, int n_rounds_done) {
  LEXICO_CHECK_EQ(atoms.size(), atoms_.size());
  atoms_ = std::move(atoms);
  n_rounds_done_ = n_rounds_done;
}

}  // namespace lexico::train_dictionary
