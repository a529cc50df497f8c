// A fidelity report as text.
#pragma once

#include <string>

#include "tools/eval/fidelity/fidelity.h"

namespace lexico::eval {

// What was measured, for the heads of a table and of a file.
struct FidelitySetup {
  std::string model;
  std::string dictionary;  // empty: none
  std::string text;
  int64_t n_tokens = 0;
  int64_t n_continuation = 0;
  int n_documents = 0;
};

std::string FidelityTable(const FidelitySetup& setup, const FidelityReport& report);
// One object; tools/eval/plot_fidelity.py reads it.
std::string FidelityJson(const FidelitySetup& setup, const FidelityReport& report);
// A line for each method; then its errors by layer as columns error_k_0 ... error_v_N, empty where
// a method leaves rows out.
std::string FidelityCsv(const FidelityReport& report);

}  // namespace lexico::eval
