// lexico-eval: measures what a model does, with the worker's own code in this process.
#include <fmt/format.h>

#include <iostream>

#include "kernels/cpu/openmp.h"
#include "proto/base/options.h"
#include "tools/eval/commands.h"

int main(int argc, char** argv) {
  lexico::kernels::cpu::EnsureShortSpin(argv);
  CLI::App app("Evaluates a model folder with the worker's own code.", "lexico-eval");
  app.require_subcommand(1);
  lexico::eval::Action action;
  lexico::eval::AddAtomsCommand(app, &action);
  lexico::eval::AddCodeCommand(app, &action);
  lexico::eval::AddDocumentCommand(app, &action);
  lexico::eval::AddFidelityCommand(app, &action);
  lexico::eval::AddLogitsCommand(app, &action);
  lexico::eval::AddRetrievalCommand(app, &action);
  lexico::eval::AddSweepCommand(app, &action);

  if (const absl::Status parsed = lexico::base::ParseCommandLine(app, argc, argv); !parsed.ok()) {
    if (absl::IsCancelled(parsed)) {
      std::cout << std::string(parsed.message());
      return 0;
    }
    std::cerr << fmt::format("lexico-eval: {}\n", std::string(parsed.message()));
    return 2;
  }
  if (const absl::Status status = action(); !status.ok()) {
    std::cerr << fmt::format("lexico-eval: {}\n", status.ToString());
    return 1;
  }
  return 0;
}
