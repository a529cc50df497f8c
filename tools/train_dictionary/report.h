// What a person sees of a training.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "tools/train_dictionary/train_dictionary.h"

namespace lexico::train_dictionary {

// One line of a running stage: "training, round 3 of 12 [#####     ] 24 %, 2 min 10 s left".
// `elapsed` since the stage began at `first_fraction`.
std::string ProgressLine(const Progress& progress, int n_rounds, double first_fraction,
                         absl::Duration elapsed);

// When a stage has ended: "reading text: 3 s".
std::string StageLine(Progress::Stage stage, absl::Duration elapsed);

// After a round: "round 3 of 12: held-out error K 0.2931 V 0.3402 (0.27/0.31 0.30/0.35 ...)", the
// pairs being K/V of each layer.
std::string RoundLine(const Progress& progress, int n_rounds);

// Errors by layer and by bands of positions.
std::string ErrorTable(const std::vector<HeldOutError>& errors);

// All of `outcome` for programs.
std::string OutcomeJson(const Options& options, const Outcome& outcome, absl::Duration elapsed);

}  // namespace lexico::train_dictionary
