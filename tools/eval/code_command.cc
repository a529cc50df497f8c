// lexico-eval code: any vectors of a safetensors file, coded with a dictionary.
#include <fmt/format.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "proto/base/profile.h"
#include "proto/base/status.h"
#include "tools/eval/code/coded_vectors.h"
#include "tools/eval/commands.h"

namespace lexico::eval {
namespace {

struct Options {
  std::string dictionary;
  int layer = 0;
  std::string kind;
  std::string vectors;
  std::string tensor;
  std::string profile{base::kDefaultProfile};
  double error_threshold = 0;
  std::string out;
  int threads = 0;
  bool json = false;
};

void Print(const Options& options, const CodedVectors& coded) {
  const ErrorSummary errors = Summarize(coded.errors);
  if (options.json) {
    const nlohmann::json out = {{"profile", options.profile},
                                {"dictionary", options.dictionary},
                                {"layer", options.layer},
                                {"kind", options.kind},
                                {"n_vectors", coded.n_vectors},
                                {"head_dim", coded.head_dim},
                                {"sparsity", coded.sparsity},
                                {"error_threshold", options.error_threshold},
                                {"atoms_mean", coded.mean_atoms()},
                                {"relative_error",
                                 {{"mean", errors.mean},
                                  {"p50", errors.p50},
                                  {"p90", errors.p90},
                                  {"p99", errors.p99},
                                  {"max", errors.max}}},
                                {"out", options.out}};
    std::cout << out.dump(1, ' ', true, nlohmann::json::error_handler_t::replace) << "\n";
    return;
  }
  std::cout << fmt::format(
      "{} vectors of {} numbers with {}, layer {} {}: {:.2f} atoms a vector\n"
      "relative error: mean {:.4f}, 50 % {:.4f}, 90 % {:.4f}, 99 % {:.4f}, max {:.4f}\n{}\n",
      coded.n_vectors, coded.head_dim, options.profile, options.layer, options.kind,
      coded.mean_atoms(), errors.mean, errors.p50, errors.p90, errors.p99, errors.max, options.out);
}

absl::Status Run(const Options& options) {
  LEXICO_ASSIGN_OR_RETURN(const base::Profile profile, base::ParseProfile(options.profile));
  if (profile.is_dense()) {
    return absl::InvalidArgumentError("profile dense codes nothing; choose a paper-sN or a kvCODE");
  }
  const std::string name = fmt::format("layers.{}.{}", options.layer, options.kind);
  LEXICO_ASSIGN_OR_RETURN(const FileMatrix dictionary, ReadMatrix(options.dictionary, name));
  LEXICO_ASSIGN_OR_RETURN(const FileMatrix vectors, ReadMatrix(options.vectors, options.tensor));
  auto coded = CodeVectors(
      dictionary.view, vectors.view, options.kind == "v" ? profile.v : profile.k,
      static_cast<float>(options.error_threshold), kernels::Stream::Cpu(options.threads));
  if (!coded.ok()) {
    return base::Annotate(coded.status(), fmt::format("{} of {} with {} of {}", options.tensor,
                                                      options.vectors, name, options.dictionary));
  }
  LEXICO_RETURN_IF_ERROR(WriteCodedVectors(options.out, *coded));
  Print(options, *coded);
  return absl::OkStatus();
}

}  // namespace

void AddCodeCommand(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "code", "Code the vectors of a safetensors file with a dictionary, and write the codes");
  command->add_option("--dictionary", options->dictionary, "Dictionary file")->required();
  command->add_option("--layer", options->layer, "Whose dictionary")
      ->check(CLI::NonNegativeNumber)
      ->required();
  command->add_option("--kind", options->kind, "Keys or values: k or v")
      ->check(CLI::IsMember({"k", "v"}))
      ->required();
  command->add_option("--vectors", options->vectors, "safetensors file of the vectors")->required();
  command->add_option("--tensor", options->tensor, "Its tensor, [n, head_dim] F32, F16 or BF16")
      ->required();
  command->add_option("--profile", options->profile, "paper-sN, or one of the family such as kv4r1")
      ->capture_default_str();
  command
      ->add_option("--error-threshold", options->error_threshold,
                   "Stop at this relative error; 0: always N atoms")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command
      ->add_option("--out", options->out,
                   "safetensors file to write: indices U16, coefficients U8 (FP8 E4M3, or 4 bits), "
                   "coefficient_values, reconstruction and errors F32")
      ->required();
  command->add_option("--threads", options->threads, "CPU threads; 0 for all")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_flag("--json", options->json, "Print JSON");
  command->footer(
      "Example:\n  lexico-eval code --dictionary models/lexico-20m/dictionaries/"
      "dictionary-N4096.safetensors --layer 3 --kind k --vectors keys.safetensors --tensor keys "
      "--out codes.safetensors");
  command->callback([options, action] { *action = [options] { return Run(*options); }; });
}

}  // namespace lexico::eval
