#include "worker/engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

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

kernels::DType CacheType(const ModelConfig& config) {
  if (config.dtype == "bfloat16") return kernels::DType::kBF16;
  if (config.dtype == "float16") return kernels::DType::kF16;
  return kernels::DType::kF32;
}

// All that a device needs beside weights, dictionaries and the pool: nothing takes its memory
// later.
absl::Status ReserveDevice(int n_atoms, ForwardContext* context) {
  const ModelConfig& config = context->config();
  const int64_t pages_max = config.max_positions / base::kPageTokens;
  LEXICO_RETURN_IF_ERROR(
      context->direct_arrays.Reserve(StepArrays::BytesFor<void*>(kDirectRowsMax * pages_max) +
                                     StepArrays::BytesFor<kernels::DenseRows>(kDirectRowsMax)));
  LEXICO_RETURN_IF_ERROR(context->transformer_scratch.Reserve(*context->transformer));
  base::Profile largest{.name = "dense"};
  if (n_atoms > 0) {
    largest.sparsity_k = largest.sparsity_v = base::SparsityMax(config.head_dim, n_atoms);
  }
  return context->coder_scratch.Reserve(MakeKvLayout(context->shape, largest, n_atoms),
                                        context->batch_pages_max(), context->stream);
}

// Of a device, for keys and values, when all else has its memory but the decode step, which takes
// its own behind the pool.
absl::StatusOr<size_t> WhatIsLeft(const EngineOptions& options, ForwardContext* context) {
  // For what the driver takes by itself: modules that are loaded at first use, its own pages.
  constexpr size_t kMargin = size_t{512} << 20;
  const size_t free = context->stream.device()->FreeBytes();
  const size_t needed =
      kMargin + DecodeStep(context).BytesOfDevice(options.decode_seqs_max,
                                                  PagesOfSteps(options, context->config()));
  if (free > needed) return free - needed;
  return absl::ResourceExhaustedError(fmt::format(
      "{}: {} are free for keys and values, steps need {} of them; use a model with fewer weights, "
      "or less --prefill_memory",
      context->stream.device()->name(), base::HumanBytes(static_cast<double>(free)),
      base::HumanBytes(static_cast<double>(needed))));
}

absl::Status CheckOption(const char* name, int value, int min, int max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} is {}, allowed are {} to {}", name, value, min, max));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(
    const EngineOptions& options, std::shared_ptr<const Transformer> transformer,
    std::shared_ptr<const ModelDictionary> dictionary, const kernels::Stream& stream,
    base::Clock* clock, base::Metrics* metrics) {
  LEXICO_RETURN_IF_ERROR(CheckOption("waiting_max", options.waiting_max, 1, 1 << 16));
  LEXICO_RETURN_IF_ERROR(CheckOption("prefills_max", options.prefills_max, 1, 64));
  LEXICO_RETURN_IF_ERROR(CheckOption("decode_seqs_max", options.decode_seqs_max, 1, 4096));
  const ModelConfig& config = transformer->config();
  ForwardContext context{.transformer = transformer, .stream = stream, .clock = clock};
  context.shape = {.n_layers = config.n_layers,
                   .n_kv_heads = config.n_kv_heads,
                   .head_dim = config.head_dim,
                   .cache_type = CacheType(config)};
  KvIdentity identity{.model = transformer->fingerprint(), .tokenizer = options.tokenizer};
  int n_atoms = 0;
  if (dictionary != nullptr) {
    n_atoms = dictionary->n_atoms();
    identity.dictionary = dictionary->fingerprint();
    for (int layer = 0; layer < config.n_layers; ++layer) {
      context.dictionaries.push_back({dictionary->layer(layer).k, dictionary->layer(layer).v});
    }
  }
  if (context.on_device()) LEXICO_RETURN_IF_ERROR(ReserveDevice(n_atoms, &context));
  const size_t prefill_bytes = options.prefill_memory_bytes > 0
                                   ? options.prefill_memory_bytes
                                   : PrefillJob::WorkBytes(context, 0, config.max_positions);
  LEXICO_ASSIGN_OR_RETURN(context.arena, WorkArena::Create(prefill_bytes, stream));
  size_t kv_bytes = options.kv_memory_bytes;
  if (kv_bytes == 0 && context.on_device()) {
    LEXICO_ASSIGN_OR_RETURN(kv_bytes, WhatIsLeft(options, &context));
  }
  // The largest block: a session's windows, which hold more tokens than a block of dense pages.
  const KvLayout dense = MakeKvLayout(context.shape, base::Profile{.name = "dense"}, 0);
  StagingOptions staging;
  staging.half_bytes = std::max(staging.half_bytes, BlockBytes(dense.page_bytes()));
  LEXICO_ASSIGN_OR_RETURN(
      std::unique_ptr<PagePool> pool,
      PagePool::Create(kv_bytes,
                       std::max(kSlabBytesMin, kLargestBlocksPerSlab * dense.window_block_bytes()),
                       stream, staging));
  // From here on ops run on the engine's thread.
  stream.ReleaseThreads();
  auto impl = std::make_unique<Impl>(options, std::move(pool), std::move(context), n_atoms,
                                     identity, metrics);
  LEXICO_RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

const Transformer& Engine::transformer() const { return impl_->transformer(); }
absl::Status Engine::OpenSession(const SessionSpec& spec) { return impl_->OpenSession(spec); }
absl::Status Engine::Fork(const std::string& session_id, const std::string& new_session_id) {
  return impl_->Fork(session_id, new_session_id);
}
absl::StatusOr<SessionInfo> Engine::Describe(const std::string& session_id) const {
  return impl_->Describe(session_id);
}
std::vector<SessionInfo> Engine::List() const { return impl_->List(); }
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
