#include "worker/engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <span>
#include <utility>

#include "proto/base/check.h"
#include "proto/base/limits.h"
#include "proto/base/options.h"
#include "proto/base/profile.h"
#include "proto/base/status.h"
#include "worker/engine/engine_impl.h"

namespace lexico::worker {
namespace {

// Small blocks share slabs of at least this size. What is lost at the end of a slab is less than
// one block of pages, which hold a fifth of the tokens of the largest block, a session's windows.
constexpr size_t kSlabBytesMin = size_t{1} << 20;
constexpr size_t kLargestBlocksPerSlab = 2;
// A pool of so many slabs keeps one spare: at most 3 % of it.
constexpr int64_t kSlabsOfASpare = 32;

kernels::DType CacheType(const ModelConfig& config) {
  if (config.dtype == "bfloat16") return kernels::DType::kBF16;
  if (config.dtype == "float16") return kernels::DType::kF16;
  return kernels::DType::kF32;
}

// Of the coding beside steps: 16 sessions' pages of a layer at 16 atoms a vector in one wave.
constexpr size_t kBesideWorkspace = size_t{64} << 20;
// Of the coding of prefills: one wave at 16 atoms a vector (kernels/cuda/omp_encode.cu).
constexpr size_t kCodingWorkspace = size_t{128} << 20;

// All that a device needs beside weights, dictionaries and the pool: nothing takes its memory
// later.
absl::Status ReserveDevice(const EngineOptions& options, int n_atoms, ForwardContext* context) {
  const ModelConfig& config = context->config();
  const int64_t pages_max = SessionPages::PagesMax(config.max_positions / base::kPageTokens);
  LEXICO_RETURN_IF_ERROR(
      context->direct_arrays.Reserve(StepArrays::BytesFor<void*>(kDirectRowsMax * pages_max) +
                                     StepArrays::BytesFor<int32_t>(kDirectRowsMax) +
                                     StepArrays::BytesFor<kernels::DenseRows>(kDirectRowsMax)));
  LEXICO_RETURN_IF_ERROR(context->transformer_scratch.Reserve(*context->transformer));
  base::Profile largest{.name = "dense"};
  if (n_atoms > 0) {
    // What coding takes follows from the number of atoms.
    largest.k.sparsity = largest.v.sparsity =
        base::SparsityMax({.head_dim = config.head_dim, .n_atoms = n_atoms});
  }
  const KvLayout layout = MakeKvLayout(context->shape, largest, n_atoms);
  LEXICO_RETURN_IF_ERROR(
      context->coder_scratch.Reserve(layout, context->batch_pages_max(), context->stream));
  // Where steps go op by op, the waits cost more than they gain.
  if (context->records_steps) context->window_stream = context->stream.Sibling();
  LEXICO_ASSIGN_OR_RETURN(context->coding, context->stream.Beside(kCodingWorkspace));
  LEXICO_RETURN_IF_ERROR(
      context->coding_scratch.Reserve(layout, context->batch_pages_max(), context->coding));
  LEXICO_ASSIGN_OR_RETURN(context->beside, context->stream.Beside(kBesideWorkspace));
  // Keys and values of at least one page that is demoted.
  const int64_t n_pages = std::max<int64_t>(PagesAhead(options, *context), 2);
  return context->beside_scratch.Reserve(layout, n_pages, context->beside);
}

// Of the ranks' devices together, for keys and values, when all else has its memory but the decode
// step, which takes its own behind the pool. The rank with the least decides.
absl::StatusOr<size_t> WhatIsLeft(const EngineOptions& options,
                                  std::span<const std::unique_ptr<ForwardContext>> contexts) {
  // For what the driver takes by itself: modules that are loaded at first use, its own pages.
  constexpr size_t kMargin = size_t{512} << 20;
  size_t least = std::numeric_limits<size_t>::max();
  for (const auto& context : contexts) {
    const size_t free = context->stream.device()->FreeBytes();
    const size_t needed = kMargin + DecodeRank(context.get())
                                        .BytesOfDevice(options.decode_seqs_max,
                                                       PagesOfSteps(options, context->config()));
    if (free <= needed) {
      return absl::ResourceExhaustedError(fmt::format(
          "{}: {} are free for keys and values, steps need {} of them; use a model with fewer "
          "weights, or less --prefill_memory",
          context->stream.device()->name(), base::HumanBytes(static_cast<double>(free)),
          base::HumanBytes(static_cast<double>(needed))));
    }
    least = std::min(least, free - needed);
  }
  return contexts.size() * least;
}

KvShape ShapeOf(const ModelConfig& model, const ModelConfig& local, int n_ranks) {
  return {.n_layers = model.n_layers,
          .n_kv_heads = local.n_kv_heads,
          .head_dim = model.head_dim,
          .cache_type = CacheType(model),
          .n_ranks = n_ranks,
          .n_replicas = local.n_kv_heads * n_ranks / model.n_kv_heads};
}

// With all memory but that of keys and values.
absl::StatusOr<std::unique_ptr<ForwardContext>> MakeContext(const EngineOptions& options,
                                                            const ModelRank& model, int rank,
                                                            int n_ranks, base::Clock* clock) {
  auto context = std::unique_ptr<ForwardContext>(
      new ForwardContext{.transformer = model.transformer, .stream = model.stream, .rank = rank});
  context->clock = clock;
  // Collective calls of ranks that wait for one another are not recorded.
  context->records_steps = options.decode_graphs && n_ranks == 1;
  const ModelConfig& local = context->config();
  context->shape = ShapeOf(model.transformer->config(), local, n_ranks);
  int n_atoms = 0;
  if (model.dictionary != nullptr) {
    n_atoms = model.dictionary->n_atoms();
    for (int layer = 0; layer < local.n_layers; ++layer) {
      const DictionaryPair& pair = model.dictionary->layer(layer);
      context->dictionaries.push_back({pair.k, pair.v});
    }
  }
  if (context->on_device()) LEXICO_RETURN_IF_ERROR(ReserveDevice(options, n_atoms, context.get()));
  const size_t prefill_bytes = options.prefill_memory_bytes > 0
                                   ? options.prefill_memory_bytes
                                   : PrefillRank::WorkBytes(*context, 0, local.max_positions);
  LEXICO_ASSIGN_OR_RETURN(context->arena, WorkArena::Create(prefill_bytes, model.stream));
  return context;
}

absl::StatusOr<std::unique_ptr<PagePool>> MakePool(
    const EngineOptions& options, std::span<const std::unique_ptr<ForwardContext>> contexts) {
  size_t kv_bytes = options.kv_memory_bytes;
  if (kv_bytes == 0 && contexts[0]->on_device()) {
    LEXICO_ASSIGN_OR_RETURN(kv_bytes, WhatIsLeft(options, contexts));
  }
  // The largest block: a session's windows, which hold more tokens than a block of dense pages.
  const KvLayout dense = MakeKvLayout(contexts[0]->shape, base::Profile{.name = "dense"}, 0);
  StagingOptions staging;
  staging.half_bytes = std::max(staging.half_bytes, BlockBytes(dense.StoredPage().payload_bytes()));
  std::vector<kernels::Stream> streams;
  for (const auto& context : contexts) streams.push_back(context->stream);
  LEXICO_ASSIGN_OR_RETURN(
      auto pool,
      PagePool::CreateForRanks(
          kv_bytes, std::max(kSlabBytesMin, kLargestBlocksPerSlab * dense.window_block_bytes()),
          streams, staging));
  // For demotions in a full pool.
  if (pool->n_slabs() >= kSlabsOfASpare) pool->KeepSpare(1);
  return pool;
}

absl::Status CheckOption(const char* name, int value, int min, int max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} is {}, allowed are {} to {}", name, value, min, max));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options,
                                                       std::vector<ModelRank> ranks,
                                                       base::Clock* clock, base::Metrics* metrics) {
  LEXICO_RETURN_IF_ERROR(CheckOption("waiting_max", options.waiting_max, 1, 1 << 16));
  LEXICO_RETURN_IF_ERROR(CheckOption("prefills_max", options.prefills_max, 1, 64));
  LEXICO_RETURN_IF_ERROR(CheckOption("decode_seqs_max", options.decode_seqs_max, 1, 4096));
  LEXICO_CHECK(!ranks.empty());
  std::vector<std::unique_ptr<ForwardContext>> contexts;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    LEXICO_ASSIGN_OR_RETURN(auto context, MakeContext(options, ranks[rank], static_cast<int>(rank),
                                                      static_cast<int>(ranks.size()), clock));
    contexts.push_back(std::move(context));
  }
  LEXICO_ASSIGN_OR_RETURN(std::unique_ptr<PagePool> pool, MakePool(options, contexts));
  KvIdentity identity{.model = ranks[0].transformer->fingerprint(), .tokenizer = options.tokenizer};
  int n_atoms = 0;
  if (ranks[0].dictionary != nullptr) {
    identity.dictionary = ranks[0].dictionary->fingerprint();
    n_atoms = ranks[0].dictionary->n_atoms();
  }
  // From here on ops run on the engine's thread.
  ranks[0].stream.ReleaseThreads();
  auto impl = std::make_unique<Impl>(options, std::move(pool), std::move(contexts), n_atoms,
                                     identity, metrics);
  LEXICO_RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

const Transformer& Engine::transformer() const { return impl_->transformer(); }
base::CodingModel Engine::coding() const { return impl_->coding(); }
absl::Status Engine::OpenSession(const SessionSpec& spec) { return impl_->OpenSession(spec); }
absl::Status Engine::Fork(const std::string& session_id, const std::string& new_session_id) {
  return impl_->Fork(session_id, new_session_id);
}
absl::StatusOr<SessionInfo> Engine::Describe(const std::string& session_id) const {
  return impl_->Describe(session_id);
}
std::vector<SessionInfo> Engine::List() const { return impl_->List(); }
absl::StatusOr<SessionInfo> Engine::Demote(const std::string& session_id,
                                           const std::string& profile) {
  return impl_->Demote(session_id, profile);
}
absl::Status Engine::Drop(const std::string& session_id) { return impl_->Drop(session_id); }
absl::StatusOr<SessionSnapshot> Engine::Export(const std::string& session_id,
                                               bool with_window) const {
  return impl_->Export(session_id, with_window);
}
absl::StatusOr<std::unique_ptr<SessionImport>> Engine::BeginImport(
    const store::Manifest& manifest) {
  return impl_->BeginImport(manifest);
}
absl::StatusOr<SessionInfo> Engine::FinishImport(const std::string& session_id,
                                                 std::unique_ptr<SessionImport> import) {
  return impl_->FinishImport(session_id, std::move(import));
}
absl::StatusOr<CallId> Engine::Append(AppendRequest request, CallCallbacks callbacks) {
  return impl_->Append(std::move(request), std::move(callbacks));
}
absl::StatusOr<CallId> Engine::Generate(GenerateRequest request, CallCallbacks callbacks) {
  return impl_->Generate(std::move(request), std::move(callbacks));
}
void Engine::Cancel(CallId call) { impl_->Cancel(call); }
EngineLoad Engine::load() const { return impl_->load(); }

}  // namespace lexico::worker
