// The subcommands of lexico-eval, one file each. A subcommand adds itself to the command line and,
// when it was chosen, sets the action that main runs after parsing.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "absl/status/status.h"
#include "tools/eval/sweep/text_vectors.h"

namespace lexico::eval {

using Action = std::function<absl::Status()>;

void AddAtomsCommand(CLI::App& app, Action* action);
void AddCodeCommand(CLI::App& app, Action* action);
void AddDocumentCommand(CLI::App& app, Action* action);
void AddFidelityCommand(CLI::App& app, Action* action);
void AddLogitsCommand(CLI::App& app, Action* action);
void AddRetrievalCommand(CLI::App& app, Action* action);
void AddSweepCommand(CLI::App& app, Action* action);

// --tokens, --documents and --vectors of commands that gather them from a text.
void AddTextVectorsOptions(CLI::App* command, TextVectorsOptions* options);

}  // namespace lexico::eval
