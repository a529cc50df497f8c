#include "tools/eval/fidelity/profile_decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kernels/api/rows.h"
#include "proto/base/check.h"
#include "proto/base/demotion.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "worker/kv/demotion.h"
#include "worker/kv/page_coder.h"

namespace lexico::eval {

using worker::KvLayout;
using worker::LayerDictionaries;
using worker::PageError;
using worker::SessionKv;

int64_t CodedTokens(int64_t n_tokens) {
  const int64_t beyond = std::max<int64_t>(0, n_tokens - base::kWindowTokens);
  return beyond / base::kPageTokens * base::kPageTokens;
}

kernels::DType CacheType(const worker::ModelConfig& config) {
  if (config.dtype == "bfloat16") return kernels::DType::kBF16;
  return config.dtype == "float16" ? kernels::DType::kF16 : kernels::DType::kF32;
}

absl::StatusOr<MeasuredProfile> ParseMeasuredProfile(std::string_view name) {
  const size_t colon = name.find(':');
  MeasuredProfile measured;
  if (colon == std::string_view::npos) {
    LEXICO_ASSIGN_OR_RETURN(measured.profile, base::ParseProfile(name));
    return measured;
  }
  LEXICO_ASSIGN_OR_RETURN(measured.birth, base::ParseProfile(name.substr(0, colon)));
  LEXICO_ASSIGN_OR_RETURN(measured.profile, base::ParseProfile(name.substr(colon + 1)));
  const absl::Status smaller = base::CheckDemotion(*measured.birth, measured.profile);
  if (!smaller.ok()) return base::Annotate(smaller, std::string(name));
  return measured;
}

absl::StatusOr<std::unique_ptr<ProfileDecoder>> ProfileDecoder::Create(
    const worker::ModelRank& model, const std::vector<MeasuredProfile>& profiles, int64_t n_tokens,
    int64_t n_steps) {
  const worker::ModelConfig& config = model.transformer->config();
  auto context = std::unique_ptr<worker::ForwardContext>(
      new worker::ForwardContext{.transformer = model.transformer, .stream = model.stream});
  context->clock = base::Clock::Real();
  context->shape = {.n_layers = config.n_layers,
                    .n_kv_heads = config.n_kv_heads,
                    .head_dim = config.head_dim,
                    .cache_type = CacheType(config)};
  if (model.dictionary != nullptr) {
    for (int layer = 0; layer < config.n_layers; ++layer) {
      const worker::DictionaryPair& pair = model.dictionary->layer(layer);
      context->dictionaries.push_back({pair.k, pair.v});
    }
  }
  std::vector<std::unique_ptr<worker::ForwardContext>> contexts;
  contexts.push_back(std::move(context));
  std::unique_ptr<ProfileDecoder> decoder(new ProfileDecoder(std::move(contexts)));
  const int64_t n_coded = CodedTokens(n_tokens);
  std::vector<KvLayout> all;
  const auto add = [&](const base::Profile& profile) {
    KvLayout layout = worker::MakeKvLayout(decoder->context().shape, profile,
                                           profile.has_atoms() ? model.dictionary->n_atoms() : 0);
    layout.window_tokens = static_cast<int>(n_tokens - n_coded + n_steps);
    return all.emplace_back(layout);
  };
  for (const MeasuredProfile& measured : profiles) {
    decoder->layouts_.push_back(add(measured.profile));
    decoder->births_.emplace_back();
    if (measured.birth.has_value()) decoder->births_.back() = add(*measured.birth);
  }
  size_t largest = 0;
  for (const KvLayout& layout : all) {
    largest = std::max({largest, layout.window_block_bytes(), layout.page_block_bytes()});
  }
  // Slabs for the pages of each, and one for its window.
  size_t bytes = 0;
  for (const KvLayout& layout : all) {
    const auto per_slab =
        static_cast<int64_t>(largest / worker::BlockBytes(layout.page_block_bytes()));
    const int64_t n_pages = n_coded / layout.page.page_tokens;
    bytes += static_cast<size_t>(n_pages / std::max<int64_t>(1, per_slab) + 2) *
             worker::BlockBytes(largest);
  }
  LEXICO_ASSIGN_OR_RETURN(decoder->pool_, worker::PagePool::Create(bytes, largest, model.stream));
  return decoder;
}

absl::Status ProfileDecoder::Begin(std::span<const int32_t> ids,
                                   const std::vector<LayerRows>& rows) {
  sessions_.clear();
  for (size_t i = 0; i < layouts_.size(); ++i) {
    auto session = Open(births_[i].value_or(layouts_[i]), ids, rows);
    if (session.ok() && births_[i].has_value()) {
      session = Demote(*std::move(session), layouts_[i]);
    }
    if (!session.ok()) return base::Annotate(session.status(), layouts_[i].profile.name);
    sessions_.push_back(*std::move(session));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<SessionKv>> ProfileDecoder::Demote(
    std::unique_ptr<SessionKv> session, const KvLayout& to) {
  constexpr int64_t kSlicePages = 64;
  const worker::CoderOfRank coder = ranks_.first().ahead_coder();
  LEXICO_ASSIGN_OR_RETURN(
      const auto demotion,
      worker::Demotion::Begin(pool_.get(), {&coder, 1}, &ranks_.team(), to, &session));
  while (!demotion->done()) demotion->RunSlice(kSlicePages);
  return demotion->Finish();
}

absl::StatusOr<std::unique_ptr<SessionKv>> ProfileDecoder::Open(
    const KvLayout& layout, std::span<const int32_t> ids, const std::vector<LayerRows>& rows) {
  const auto n_tokens = static_cast<int64_t>(ids.size());
  const int64_t n_coded = CodedTokens(n_tokens);
  SessionKv::Parts parts;
  parts.log.assign(ids.begin(), ids.end());
  parts.segments = {{0, store::SegmentKind::kPrefill}};
  parts.page_blocks.resize(n_coded / layout.page.page_tokens);
  parts.window_rows = static_cast<int>(n_tokens - n_coded);
  // The pool was made for exactly these.
  LEXICO_CHECK(pool_->Acquire(layout.window_block_bytes(), {&parts.window_block, 1}));
  if (!parts.page_blocks.empty()) {
    LEXICO_CHECK(pool_->Acquire(layout.page_block_bytes(), parts.page_blocks));
  }
  const int n_layers = layout.shape.n_layers;
  const size_t n_pages = parts.page_blocks.size();
  parts.errors.resize(n_pages * n_layers);
  std::vector<PageError> errors(n_pages);
  absl::Status coded;
  for (int layer = 0; layer < n_layers && coded.ok(); ++layer) {
    coded = EncodeLayer(layout, rows[layer], layer, parts.page_blocks, errors);
    for (size_t page = 0; page < n_pages; ++page) {
      parts.errors[page * n_layers + layer] = errors[page];
    }
  }
  auto session = SessionKv::FromParts(pool_.get(), layout, {}, std::move(parts));
  LEXICO_RETURN_IF_ERROR(coded);
  const int64_t width = layout.shape.row_dim();
  for (int layer = 0; layer < n_layers; ++layer) {
    for (int row = 0; row < session->window_rows(); ++row) {
      void* k_row = session->window_row(layer, false, row);
      void* v_row = session->window_row(layer, true, row);
      int32_t non_finite = 0;
      const int64_t at = (n_coded + row) * width;
      kernels::StoreRows({.k = {rows[layer].k.data() + at, {1, width}},
                          .v = {rows[layer].v.data() + at, {1, width}},
                          .k_rows = &k_row,
                          .v_rows = &v_row,
                          .type = layout.shape.cache_type,
                          .non_finite = &non_finite},
                         context().stream);
    }
  }
  return session;
}

absl::Status ProfileDecoder::EncodeLayer(const KvLayout& layout, const LayerRows& rows, int layer,
                                         std::span<uint8_t* const> blocks,
                                         std::span<PageError> errors) {
  LayerDictionaries dictionaries = context().dictionaries_of(layer);
  if (!layout.profile.is_dense()) {
    const auto n_vectors =
        static_cast<int64_t>(blocks.size()) * layout.page.page_tokens * layout.page.n_kv_heads;
    dictionaries = worker::DictionariesForCoding(layout, dictionaries, n_vectors, context().stream);
  }
  return worker::EncodePages(layout, dictionaries, rows.k.data(), rows.v.data(), layer, blocks,
                             errors, context().stream, context().coder_scratch);
}

absl::Status ProfileDecoder::Step(int32_t id) {
  std::vector<SessionKv*> sessions;
  for (const auto& session : sessions_) {
    session->AddPending({&id, 1});
    LEXICO_RETURN_IF_ERROR(session->ReserveRow());
    sessions.push_back(session.get());
  }
  const std::vector<kernels::RowDraw> draws(sessions.size());
  step_.Run(sessions, draws, 1);
  for (size_t i = 0; i < sessions.size(); ++i) {
    if (step_.non_finite(static_cast<int64_t>(i)).has_value()) {
      return absl::InternalError(fmt::format("{}: a key or value at position {} is not finite",
                                             layouts_[i].profile.name, sessions[i]->n_tokens()));
    }
  }
  return absl::OkStatus();
}

double ProfileDecoder::BytesPerVector(int64_t i) const {
  const kernels::PageLayout& page = layouts_[i].page;
  return static_cast<double>(page.payload_bytes()) / (2.0 * page.n_kv_heads * page.page_tokens);
}

PageError ProfileDecoder::LayerError(int64_t i, int layer) const {
  const SessionKv& session = *sessions_[i];
  double k = 0;
  double v = 0;
  for (int64_t page = 0; page < session.n_pages(); ++page) {
    k += session.page_error(page, layer).k;
    v += session.page_error(page, layer).v;
  }
  const auto n = static_cast<double>(std::max<int64_t>(1, session.n_pages()));
  return {static_cast<float>(k / n), static_cast<float>(v / n)};
}

}  // namespace lexico::eval
