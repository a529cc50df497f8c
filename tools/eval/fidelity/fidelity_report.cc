#include "tools/eval/fidelity/fidelity_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

namespace lexico::eval {
namespace {

std::string MeanText(const std::vector<double>& errors) {
  if (errors.empty()) return "-";
  const double sum = std::accumulate(errors.begin(), errors.end(), 0.0);
  return fmt::format("{:.4f}", sum / static_cast<double>(errors.size()));
}

}  // namespace

std::string FidelityTable(const FidelitySetup& setup, const FidelityReport& report) {
  std::string text = fmt::format(
      "{}, {} documents of {} tokens, {} compared behind each; perplexity over the exact cache "
      "{:.3f}\n{:<20} {:>7} {:>8} {:>9} {:>9} {:>8} {:>7} {:>10} {:>8} {:>8}\n",
      setup.model, setup.n_documents, setup.n_tokens, setup.n_continuation, report.perplexity_exact,
      "method", "bytes", "of FP16", "+ window", "KL", "+-", "top-1", "perplexity", "error K",
      "error V");
  for (const FidelityRow& row : report.rows) {
    text += fmt::format(
        "{:<20} {:>7.1f} {:>7.2f}% {:>8.2f}% {:>9.5f} {:>8.5f} {:>7.4f} {:>10.3f} "
        "{:>8} {:>8}\n",
        row.name, row.bytes_per_vector, 100 * row.fraction_of_fp16, 100 * row.fraction_with_window,
        row.kl, row.kl_error, row.top1, row.perplexity, MeanText(row.error_k),
        MeanText(row.error_v));
  }
  return text;
}

std::string FidelityJson(const FidelitySetup& setup, const FidelityReport& report) {
  nlohmann::json methods = nlohmann::json::array();
  for (const FidelityRow& row : report.rows) {
    methods.push_back({{"name", row.name},
                       {"kind", row.is_rival ? "rival" : "profile"},
                       {"bytes_per_vector", row.bytes_per_vector},
                       {"fraction_of_fp16", row.fraction_of_fp16},
                       {"fraction_with_window", row.fraction_with_window},
                       {"kl", row.kl},
                       {"kl_standard_error", row.kl_error},
                       {"top1", row.top1},
                       {"perplexity", row.perplexity},
                       {"relative_error_k", row.error_k},
                       {"relative_error_v", row.error_v}});
  }
  const nlohmann::json out = {{"model", setup.model},
                              {"dictionary", setup.dictionary},
                              {"text", setup.text},
                              {"n_documents", setup.n_documents},
                              {"n_tokens", setup.n_tokens},
                              {"n_continuation", setup.n_continuation},
                              {"n_compared", report.n_compared},
                              {"perplexity_exact", report.perplexity_exact},
                              {"methods", methods}};
  return out.dump(1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string FidelityCsv(const FidelityReport& report) {
  size_t n_layers = 0;
  for (const FidelityRow& row : report.rows) n_layers = std::max(n_layers, row.error_k.size());
  std::string text =
      "name,kind,bytes_per_vector,fraction_of_fp16,fraction_with_window,kl,kl_standard_error,top1,"
      "perplexity";
  for (const char* kind : {"k", "v"}) {
    for (size_t layer = 0; layer < n_layers; ++layer) {
      text += fmt::format(",error_{}_{}", kind, layer);
    }
  }
  text += '\n';
  for (const FidelityRow& row : report.rows) {
    text += fmt::format("{},{},{},{},{},{},{},{},{}", row.name, row.is_rival ? "rival" : "profile",
                        row.bytes_per_vector, row.fraction_of_fp16, row.fraction_with_window,
                        row.kl, row.kl_error, row.top1, row.perplexity);
    for (const std::vector<double>* errors : {&row.error_k, &row.error_v}) {
      for (size_t layer = 0; layer < n_layers; ++layer) {
        text += layer < errors->size() ? fmt::format(",{}", (*errors)[layer]) : ",";
      }
    }
    text += '\n';
  }
  return text;
}

}  // namespace lexico::eval
