#include "tools/eval/fidelity/fidelity.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "tools/eval/fidelity/divergence.h"
#include "tools/eval/fidelity/profile_decoder.h"
#include "tools/eval/fidelity/rows_decoder.h"

namespace lexico::eval {
namespace {

// What is added up of one method.
struct Tally {
  std::vector<double> kl;  // of each document, mean over its tokens
  double n_same = 0;
  double nll = 0;
  std::vector<double> error_k;  // [n_layers], sums over documents
  std::vector<double> error_v;

  void BeginDocument() { kl.push_back(0); }
  void Add(const Divergence& d, int64_t n_tokens) {
    kl.back() += d.kl / static_cast<double>(n_tokens);
    n_same += d.same_top ? 1 : 0;
    nll += d.nll;
  }
};

// Mean of ||x - x^|| / ||x|| over vectors of `dim` numbers; a zero vector has no error.
double MeanError(std::span<const float> exact, std::span<const float> given, int dim) {
  double sum = 0;
  const size_t n = given.size() / dim;
  for (size_t i = 0; i < n; ++i) {
    double square = 0;
    double wrong = 0;
    for (size_t j = i * dim; j < (i + 1) * dim; ++j) {
      square += static_cast<double>(exact[j]) * exact[j];
      wrong += (static_cast<double>(exact[j]) - given[j]) * (exact[j] - given[j]);
    }
    if (square > 0) sum += std::sqrt(wrong / square);
  }
  return n == 0 ? 0 : sum / static_cast<double>(n);
}

class Measurement {
 public:
  Measurement(const FidelityOptions& options, const worker::Transformer& transformer,
              const kernels::Stream& stream, ProfileDecoder& profiles,
              const std::function<void(const std::string&)>& progress)
      : options_(options),
        transformer_(transformer),
        stream_(stream),
        profiles_(profiles),
        progress_(progress),
        shape_{transformer.config().n_heads, transformer.config().n_kv_heads,
               transformer.config().head_dim},
        n_coded_(CodedTokens(options.n_tokens)),
        tallies_(options.profiles.size() + options.rivals.size()) {
    for (Tally& tally : tallies_) {
      tally.error_k.resize(transformer.config().n_layers);
      tally.error_v.resize(transformer.config().n_layers);
    }
  }

  absl::Status RunDocument(std::span<const int32_t> ids);
  FidelityReport Report() const;

 private:
  absl::Status RunProfiles(std::span<const int32_t> ids, const RowsDecoder& context);
  absl::Status RunRival(const Rival& rival, std::span<const int32_t> ids,
                        const RowsDecoder& context, Tally& tally);
  // `rows` with its first n_coded_ rows replaced.
  LayerRows Replace(const Rival& rival, const RowsDecoder& context, int layer, Tally& tally) const;
  std::span<const float> exact_logits(int64_t i) const {
    const auto n = static_cast<size_t>(transformer_.config().vocab_size);
    return {&exact_[i * n], n};
  }

  const FidelityOptions& options_;
  const worker::Transformer& transformer_;
  const kernels::Stream& stream_;
  ProfileDecoder& profiles_;  // profile 0 is the exact one, then options_.profiles
  const std::function<void(const std::string&)>& progress_;
  const RowShape shape_;
  const int64_t n_coded_;
  std::vector<float> exact_;    // [n_continuation, vocab_size]: logits over the exact cache
  std::vector<Tally> tallies_;  // profiles, rivals
  double exact_nll_ = 0;
  int64_t n_compared_ = 0;
};

absl::Status Measurement::RunDocument(std::span<const int32_t> ids) {
  RowsDecoder context(transformer_, stream_, CacheType(transformer_.config()));
  int64_t n_queries = 0;
  for (const auto& rival : options_.rivals) n_queries = std::max(n_queries, rival->n_queries());
  context.KeepQueries(n_queries);
  LEXICO_RETURN_IF_ERROR(context.Append(ids.first(options_.n_tokens), 0).status());
  progress_("context");
  for (Tally& tally : tallies_) tally.BeginDocument();
  LEXICO_RETURN_IF_ERROR(RunProfiles(ids, context));
  progress_("profiles");
  for (size_t i = 0; i < options_.rivals.size(); ++i) {
    const Rival& rival = *options_.rivals[i];
    LEXICO_RETURN_IF_ERROR(RunRival(rival, ids, context, tallies_[options_.profiles.size() + i]));
    progress_(rival.name());
  }
  n_compared_ += options_.n_continuation;
  return absl::OkStatus();
}

absl::Status Measurement::RunProfiles(std::span<const int32_t> ids, const RowsDecoder& context) {
  LEXICO_RETURN_IF_ERROR(profiles_.Begin(ids.first(options_.n_tokens), context.rows()));
  exact_.clear();
  for (int64_t i = 0; i < options_.n_continuation; ++i) {
    const int64_t at = options_.n_tokens + i;
    LEXICO_RETURN_IF_ERROR(profiles_.Step(ids[at]));
    const std::span<const float> exact = profiles_.logits(0);
    exact_.insert(exact_.end(), exact.begin(), exact.end());
    exact_nll_ += Diverge(exact, exact, ids[at + 1]).nll;
    for (size_t p = 0; p < options_.profiles.size(); ++p) {
      const auto place = static_cast<int64_t>(p) + 1;
      tallies_[p].Add(Diverge(exact, profiles_.logits(place), ids[at + 1]),
                      options_.n_continuation);
    }
  }
  for (size_t p = 0; p < options_.profiles.size(); ++p) {
    for (int layer = 0; layer < transformer_.config().n_layers; ++layer) {
      const auto error = profiles_.LayerError(static_cast<int64_t>(p) + 1, layer);
      tallies_[p].error_k[layer] += error.k;
      tallies_[p].error_v[layer] += error.v;
    }
  }
  return absl::OkStatus();
}

LayerRows Measurement::Replace(const Rival& rival, const RowsDecoder& context, int layer,
                               Tally& tally) const {
  const LayerRows& exact = context.rows()[layer];
  LayerRows rows = rival.Compress({.shape = shape_,
                                   .n_tokens = options_.n_tokens,
                                   .n_coded = n_coded_,
                                   .k = exact.k,
                                   .v = exact.v,
                                   .q = context.NewestQueries(layer, rival.n_queries())});
  const int64_t n_replaced = n_coded_ * shape_.row_dim();
  if (static_cast<int64_t>(rows.k.size()) == n_replaced) {
    tally.error_k[layer] += MeanError(exact.k, rows.k, shape_.head_dim);
    tally.error_v[layer] += MeanError(exact.v, rows.v, shape_.head_dim);
  } else {
    tally.error_k.clear();
    tally.error_v.clear();
  }
  rows.k.insert(rows.k.end(), exact.k.begin() + n_replaced, exact.k.end());
  rows.v.insert(rows.v.end(), exact.v.begin() + n_replaced, exact.v.end());
  return rows;
}

absl::Status Measurement::RunRival(const Rival& rival, std::span<const int32_t> ids,
                                   const RowsDecoder& context, Tally& tally) {
  std::vector<LayerRows> rows;
  for (int layer = 0; layer < transformer_.config().n_layers; ++layer) {
    rows.push_back(Replace(rival, context, layer, tally));
  }
  RowsDecoder decoder(transformer_, stream_, CacheType(transformer_.config()), std::move(rows),
                      options_.n_tokens);
  LEXICO_ASSIGN_OR_RETURN(const std::vector<float> logits,
                          decoder.Append(ids.subspan(options_.n_tokens, options_.n_continuation),
                                         options_.n_continuation));
  const auto n_vocab = static_cast<size_t>(transformer_.config().vocab_size);
  for (int64_t i = 0; i < options_.n_continuation; ++i) {
    tally.Add(
        Diverge(exact_logits(i), {&logits[i * n_vocab], n_vocab}, ids[options_.n_tokens + i + 1]),
        options_.n_continuation);
  }
  return absl::OkStatus();
}

FidelityReport Measurement::Report() const {
  const auto n_tokens = static_cast<double>(n_compared_);
  FidelityReport report{.perplexity_exact = std::exp(exact_nll_ / n_tokens),
                        .n_compared = n_compared_};
  for (size_t i = 0; i < tallies_.size(); ++i) {
    const Tally& tally = tallies_[i];
    const bool is_rival = i >= options_.profiles.size();
    const auto n = static_cast<double>(tally.kl.size());
    FidelityRow row{.is_rival = is_rival, .error_k = tally.error_k, .error_v = tally.error_v};
    if (is_rival) {
      const Rival& rival = *options_.rivals[i - options_.profiles.size()];
      row.name = rival.name();
      row.bytes_per_vector = rival.BytesPerVector(shape_, n_coded_);
    } else {
      row.name = options_.profiles[i].name();
      row.bytes_per_vector = profiles_.BytesPerVector(static_cast<int64_t>(i) + 1);
    }
    row.fraction_of_fp16 = row.bytes_per_vector / shape_.fp16_bytes();
    const double coded = static_cast<double>(n_coded_) / static_cast<double>(options_.n_tokens);
    row.fraction_with_window = coded * row.fraction_of_fp16 + (1 - coded);
    double square = 0;
    for (const double kl : tally.kl) row.kl += kl / n;
    for (const double kl : tally.kl) square += (kl - row.kl) * (kl - row.kl);
    if (n > 1) row.kl_error = std::sqrt(square / (n - 1) / n);
    row.top1 = tally.n_same / n_tokens;
    row.perplexity = std::exp(tally.nll / n_tokens);
    for (double& error : row.error_k) error /= n;
    for (double& error : row.error_v) error /= n;
    report.rows.push_back(std::move(row));
  }
  return report;
}

absl::Status CheckSizes(const FidelityOptions& options, const worker::ModelConfig& config,
                        int64_t n_ids) {
  constexpr int64_t kTokensMin = base::kWindowTokens + base::kPageTokens;
  if (options.n_tokens < kTokensMin) {
    return absl::InvalidArgumentError(
        fmt::format("a context of {} tokens leaves nothing to compress beside the window of {}; "
                    "--tokens must be at least {}",
                    options.n_tokens, base::kWindowTokens, kTokensMin));
  }
  if (options.n_tokens + options.n_continuation > config.max_positions) {
    return absl::InvalidArgumentError(fmt::format(
        "{} tokens and {} that follow are more than the model's {} positions; lower --tokens",
        options.n_tokens, options.n_continuation, config.max_positions));
  }
  if (n_ids < TokensNeeded(options)) {
    return absl::InvalidArgumentError(
        fmt::format("the text has {} tokens, {} documents of {} + {} need {}; give a longer text, "
                    "or lower --documents or --tokens",
                    n_ids, options.n_documents, options.n_tokens, options.n_continuation,
                    TokensNeeded(options)));
  }
  return absl::OkStatus();
}

absl::Status CheckMethods(const FidelityOptions& options, const worker::ModelConfig& config,
                          const worker::ModelDictionary* dictionary) {
  const int n_atoms = dictionary == nullptr ? 0 : dictionary->n_atoms();
  const base::CodingModel coding{.head_dim = config.head_dim, .n_atoms = n_atoms};
  for (const MeasuredProfile& measured : options.profiles) {
    LEXICO_RETURN_IF_ERROR(base::CheckProfile(measured.profile, coding));
    if (!measured.birth.has_value()) continue;
    LEXICO_RETURN_IF_ERROR(base::CheckProfile(*measured.birth, coding));
  }
  const RowShape shape{config.n_heads, config.n_kv_heads, config.head_dim};
  for (const auto& rival : options.rivals) LEXICO_RETURN_IF_ERROR(rival->Check(shape));
  return absl::OkStatus();
}

}  // namespace

int64_t TokensNeeded(const FidelityOptions& options) {
  // And the token that the last distribution is about.
  return options.n_documents * (options.n_tokens + options.n_continuation + 1);
}

absl::StatusOr<FidelityReport> MeasureFidelity(
    const FidelityOptions& options, const worker::ModelRank& model, std::span<const int32_t> ids,
    const std::function<void(const std::string&)>& progress) {
  const auto n_ids = static_cast<int64_t>(ids.size());
  LEXICO_RETURN_IF_ERROR(CheckSizes(options, model.transformer->config(), n_ids));
  LEXICO_RETURN_IF_ERROR(
      CheckMethods(options, model.transformer->config(), model.dictionary.get()));
  std::vector<MeasuredProfile> profiles = {{.profile = {.name = "dense"}, .birth = {}}};
  profiles.insert(profiles.end(), options.profiles.begin(), options.profiles.end());
  LEXICO_ASSIGN_OR_RETURN(
      const auto decoder,
      ProfileDecoder::Create(model, profiles, options.n_tokens, options.n_continuation));
  int document = 0;
  const std::function<void(const std::string&)> report_progress = [&](const std::string& what) {
    progress(fmt::format("document {} of {}: {}", document + 1, options.n_documents, what));
  };
  Measurement measurement(options, *model.transformer, model.stream, *decoder, report_progress);
  const int64_t n = TokensNeeded(options) / options.n_documents;
  for (; document < options.n_documents; ++document) {
    const int64_t first = n_ids / options.n_documents * document;
    LEXICO_RETURN_IF_ERROR(measurement.RunDocument(ids.subspan(first, n)));
  }
  return measurement.Report();
}

}  // namespace lexico::eval
