// Teacher-forced decoding of our profiles by the engine's own steps: exact rows of a context are
// coded into pages as a prefill codes them, the newest stay in a window, and every further token is
// a decode step that attends to codes and window. The window grows: what follows the context stays
// exact.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/eval/rivals/rival.h"
#include "worker/engine/decode_step.h"
#include "worker/engine/forward_ranks.h"
#include "worker/kv/page_pool.h"
#include "worker/kv/session_kv.h"
#include "worker/model/model_rank.h"

namespace lexico::eval {

// Of `n_tokens` tokens of a context, those that are in pages: the rest, at least kWindowTokens and
// less than a page more, is the window.
int64_t CodedTokens(int64_t n_tokens);

// What keys and values of a model are kept in.
kernels::DType CacheType(const worker::ModelConfig& config);

// What a context is coded as, and what its pages are made into behind that, if anything
// (worker/kv/demotion.h).
struct MeasuredProfile {
  base::Profile profile;               // at the end
  std::optional<base::Profile> birth;  // before a demotion

  // "paper-s8", or "paper-s16:paper-s8".
  std::string name() const {
    return birth.has_value() ? birth->name + ":" + profile.name : profile.name;
  }
};

// NotFound and FailedPrecondition as base::ParseProfile and CheckDemotion.
absl::StatusOr<MeasuredProfile> ParseMeasuredProfile(std::string_view name);

// Thread-compatible.
class ProfileDecoder {
 public:
  // For contexts of n_tokens and n_steps steps of a model that is not split. Its dictionary may be
  // null where no profile is coded.
  // Errors: those of PagePool::Create.
  static absl::StatusOr<std::unique_ptr<ProfileDecoder>> Create(
      const worker::ModelRank& model, const std::vector<MeasuredProfile>& profiles,
      int64_t n_tokens, int64_t n_steps);

  // Codes a context with every profile. REQUIRES: n_tokens ids, and as many rows in every layer.
  absl::Status Begin(std::span<const int32_t> ids, const std::vector<LayerRows>& rows);
  // The next token of every session. Internal where a key or value is not finite.
  absl::Status Step(int32_t id);
  // Of profile i after a step, [vocab_size]; valid until the next.
  std::span<const float> logits(int64_t i) const { return step_.logits(i); }

  // As stored: pages, without the window.
  double BytesPerVector(int64_t i) const;
  // Mean relative error of profile i's coded vectors of a layer.
  worker::PageError LayerError(int64_t i, int layer) const;

 private:
  explicit ProfileDecoder(std::vector<std::unique_ptr<worker::ForwardContext>> contexts)
      : ranks_(std::move(contexts)), step_(&ranks_) {}
  worker::ForwardContext& context() { return ranks_.first(); }
  // One that is coded as that, then demoted to `to`.
  absl::StatusOr<std::unique_ptr<worker::SessionKv>> Demote(
      std::unique_ptr<worker::SessionKv> session, const worker::KvLayout& to);
  absl::StatusOr<std::unique_ptr<worker::SessionKv>> Open(const worker::KvLayout& layout,
                                                          std::span<const int32_t> ids,
                                                          const std::vector<LayerRows>& rows);
  absl::Status EncodeLayer(const worker::KvLayout& layout, const LayerRows& rows, int layer,
                           std::span<uint8_t* const> blocks, std::span<worker::PageError> errors);

  worker::ForwardRanks ranks_;  // one
  std::vector<worker::KvLayout> layouts_;
  std::vector<std::optional<worker::KvLayout>> births_;  // of those that are demoted
  std::unique_ptr<worker::PagePool> pool_;
  std::vector<std::unique_ptr<worker::SessionKv>> sessions_;
  worker::DecodeStep step_;
};

}  // namespace lexico::eval
