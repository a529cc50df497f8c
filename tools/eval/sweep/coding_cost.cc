#include "tools/eval/sweep/coding_cost.h"

#include <fmt/format.h>

#include <cmath>

#include "kernels/api/omp_encode.h"
#include "kernels/api/sparse_attention.h"
#include "kernels/bench/bench.h"
#include "kernels/bench/bench_data.h"
#include "proto/base/limits.h"
#include "proto/base/profile.h"
#include "proto/base/status.h"
#include "tools/eval/sweep/recovery.h"

namespace lexico::eval {
namespace {

namespace bench = kernels::bench;

absl::Status Check(const CodingCostOptions& options) {
  for (const int64_t n_atoms : options.n_atoms) {
    if (n_atoms < base::kAtomsMin || n_atoms > base::kAtomsMax) {
      return absl::InvalidArgumentError(fmt::format("n_atoms {}; {} to {} are allowed", n_atoms,
                                                    base::kAtomsMin, base::kAtomsMax));
    }
    const int sparsity_max = base::SparsityMax(
        {.head_dim = static_cast<int>(options.head_dim), .n_atoms = static_cast<int>(n_atoms)});
    for (const int64_t sparsity : options.sparsities) {
      if (sparsity < 1 || sparsity > sparsity_max) {
        return absl::InvalidArgumentError(
            fmt::format("a sparsity of {}; {} atoms of {} numbers allow 1 to {}", sparsity, n_atoms,
                        options.head_dim, sparsity_max));
      }
    }
  }
  if (options.n_heads % options.n_kv_heads != 0) {
    return absl::InvalidArgumentError(fmt::format("{} query heads are no multiple of {} KV heads",
                                                  options.n_heads, options.n_kv_heads));
  }
  if (options.n_tokens % base::kPageTokens != 0) {
    return absl::InvalidArgumentError(
        fmt::format("{} tokens are no whole pages of {}", options.n_tokens, base::kPageTokens));
  }
  return absl::OkStatus();
}

double CodeUs(const CodingCostOptions& options, const bench::BenchDictionary& dictionary,
              int64_t sparsity, bench::Bench& clock) {
  const int64_t n = options.n_vectors;
  const std::vector<float> x = bench::SparseVectors(dictionary, n);
  std::vector<uint16_t> atoms(n * sparsity);
  std::vector<uint8_t> coefs(n * sparsity);
  std::vector<float> errors(n);
  const auto& result = clock.Measure("omp_encode", {}, [&] {
    kernels::OmpEncode({.x = {x.data(), {n, options.head_dim}},
                        .dictionary = dictionary.prepared.get(),
                        .sparsity = static_cast<int>(sparsity),
                        .atoms = {atoms.data(), {n, sparsity}},
                        .coefs = {coefs.data(), {n, sparsity}},
                        .rel_error = {errors.data(), {n}}},
                       clock.stream());
  });
  return result.median_us / static_cast<double>(n);
}

double AttentionUs(const CodingCostOptions& options, const bench::BenchDictionary& dictionary,
                   const kernels::PageLayout& layout, bench::Bench& clock) {
  const int64_t n_pages = options.n_tokens / base::kPageTokens;
  const auto pages = bench::RandomPages(layout, n_pages, dictionary.prepared->n_atoms());
  std::vector<const uint8_t*> pointers;
  for (const auto& page : pages) pointers.push_back(page.data());
  const int64_t page_begin[] = {0, n_pages};
  const std::vector<float> q = RandomAtoms(options.n_heads, options.head_dim, 2);
  std::vector<float> out(q.size());
  std::vector<float> max_score(options.n_heads);
  std::vector<float> sum_exp(options.n_heads);
  kernels::SparseAttentionArgs args;
  args.q = {q.data(), {1, options.n_heads, options.head_dim}};
  args.pages = pointers.data();
  args.page_begin = page_begin;
  args.layout = layout;
  args.dictionary_k = dictionary.prepared.get();
  args.dictionary_v = dictionary.prepared.get();
  args.scale = 1 / std::sqrt(static_cast<float>(options.head_dim));
  args.out = {out.data(), {1, options.n_heads, options.head_dim}};
  args.max_score = {max_score.data(), {1, options.n_heads}};
  args.sum_exp = {sum_exp.data(), {1, options.n_heads}};
  const auto& result = clock.Measure("sparse_attention", {},
                                     [&] { kernels::SparseAttention(args, clock.stream()); });
  return result.median_us;
}

}  // namespace

absl::StatusOr<ResultTable> SweepCodingCost(const CodingCostOptions& options,
                                            const kernels::Stream& stream) {
  LEXICO_RETURN_IF_ERROR(Check(options));
  ResultTable table("coding-cost", {{"n_atoms"},
                                    {"sparsity"},
                                    {"code_us", 3},
                                    {"attention_us", 1},
                                    {"bytes"},
                                    {"dictionaries_kib"}});
  table.SetFact("threads", int64_t{stream.threads()});
  table.SetFact("heads",
                fmt::format("{}/{} of {}", options.n_heads, options.n_kv_heads, options.head_dim));
  table.SetFact("tokens", options.n_tokens);
  table.SetFact("vectors_a_call", options.n_vectors);
  bench::Bench clock(stream, options.seconds);
  for (const int64_t n_atoms : options.n_atoms) {
    bench::BenchDictionary dictionary{.atoms = RandomAtoms(n_atoms, options.head_dim, 1),
                                      .head_dim = static_cast<int>(options.head_dim),
                                      .origin = "random atoms"};
    LEXICO_ASSIGN_OR_RETURN(
        dictionary.prepared,
        kernels::PrepareDictionary({dictionary.atoms.data(), {n_atoms, options.head_dim}}, stream));
    for (const int64_t sparsity : options.sparsities) {
      const kernels::PageLayout layout{.n_kv_heads = static_cast<int>(options.n_kv_heads),
                                       .head_dim = static_cast<int>(options.head_dim),
                                       .page_tokens = base::kPageTokens,
                                       .sparsity_k = static_cast<int>(sparsity),
                                       .sparsity_v = static_cast<int>(sparsity)};
      const auto bytes = static_cast<int64_t>(layout.code(false).bytes(layout.head_dim));
      table.Add({n_atoms, sparsity, CodeUs(options, dictionary, sparsity, clock),
                 AttentionUs(options, dictionary, layout, clock), bytes,
                 2 * n_atoms * options.head_dim * 2 / 1024});
    }
  }
  return table;
}

}  // namespace lexico::eval
