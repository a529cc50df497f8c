// Command lines of the three servers: CLI11 with our two rules on top. An unknown flag is an error
// that names the nearest known one, and numbers outside their range are refused with both values.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace lexico::base {

// Parses argv into `app`. OK: go on. Cancelled with the text to print on stdout: --help or
// --version was asked for, exit with 0. InvalidArgument: print it on stderr, exit with 2; for an
// unknown flag or subcommand the message names the nearest known one.
absl::Status ParseCommandLine(CLI::App& app, int argc, const char* const* argv);

// The candidate with the smallest edit distance to `word`, or "" when none is within half its
// length.
std::string NearestName(std::string_view word, const std::vector<std::string>& candidates);

// Parses "512MiB", "4GiB", "1.5GB", "4096" (bytes). InvalidArgument names the text and the accepted
// forms.
absl::Status ParseByteSize(std::string_view text, size_t* bytes);

// "1.72 MiB", "512 B": three significant digits.
std::string HumanBytes(double bytes);

}  // namespace lexico::base
