// What a compressed cache costs: a context is read exactly, its keys and values but for the newest
// are replaced by what a method makes of them, and the tokens that follow in the text are given one
// by one. Their next-token distributions are compared with those over the exact cache.
//
// Profiles are measured by the engine's own coding and decode steps (profile_decoder.h), rivals by
// dense attention over the rows they give back (rows_decoder.h). Rows after the context stay exact
// for all.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/eval/fidelity/profile_decoder.h"
#include "tools/eval/rivals/rival.h"
#include "worker/model/model_rank.h"

namespace lexico::eval {

struct FidelityOptions {
  std::vector<MeasuredProfile> profiles;
  std::vector<std::unique_ptr<const Rival>> rivals;
  int64_t n_tokens = 4096;       // of a context
  int64_t n_continuation = 256;  // tokens compared behind it
  int n_documents = 2;
};

struct FidelityRow {
  std::string name;
  bool is_rival = false;
  // Of the replaced vectors as stored, with scales and zero points, and what part of FP16 that is;
  // then of the whole context with its exact window.
  double bytes_per_vector = 0;
  double fraction_of_fp16 = 0;
  double fraction_with_window = 0;
  double kl = 0;        // nats a token, mean over all tokens
  double kl_error = 0;  // standard error of that over documents; 0 for one document
  double top1 = 0;      // share of tokens whose most probable next token is that of the exact cache
  double perplexity = 0;
  // [n_layers], mean over documents of ||x - x^|| / ||x||; empty where rows are left out.
  std::vector<double> error_k;
  std::vector<double> error_v;
};

struct FidelityReport {
  double perplexity_exact = 0;
  int64_t n_compared = 0;         // tokens
  std::vector<FidelityRow> rows;  // profiles, then rivals, as asked for
};

// Tokens of a text that a measurement of `options` needs.
int64_t TokensNeeded(const FidelityOptions& options);

// Documents are runs of `ids` at even distances. The model is not split and on a CPU; its
// dictionary may be null where no profile is coded. `progress` hears a line when something is done.
// InvalidArgument, with both values, for a text too short, a context that leaves nothing to
// compress or does not fit the model, and what a rival refuses; FailedPrecondition for a profile
// the dictionaries do not have.
absl::StatusOr<FidelityReport> MeasureFidelity(
    const FidelityOptions& options, const worker::ModelRank& model, std::span<const int32_t> ids,
    const std::function<void(const std::string&)>& progress);

}  // namespace lexico::eval
