// Command lines of the three servers: CLI11 with our two rules on top. An unknown flag is an error
// that names the nearest known one, and numbers outside their range are refused with both values.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace lexico::base {

// Adds --version to `app` ("PROGRAM VERSION") and parses argv into it. OK: go on. Cancelled with
// the text to print on stdout: --help or --version was asked for, exit with 0. InvalidArgument:
// print it on stderr, exit with 2; for an unknown flag or subcommand the message names the nearest
// known one.
absl::Status ParseCommandLine(CLI::App& app, int argc, const char* const* argv);

// The candidate with the smallest edit distance to `word`, or "" when none is within half its
// length.
std::string NearestName(std::string_view word, const std::vector<std::string>& candidates);

// A port to listen on may be 0 (the system picks one), one to connect to may not.
enum class AddressUse { kListen, kConnect };

// Whether `address` is host:port with a port in range. InvalidArgument names `flag`, the value,
// what is wrong with it and what is right. IPv6 hosts are written in brackets.
absl::Status CheckAddress(std::string_view flag, std::string_view address, AddressUse use);

// Parses "512MiB", "4GiB", "1.5GB", "4096" (bytes). InvalidArgument names the text and the accepted
// forms.
absl::Status ParseByteSize(std::string_view text, size_t* bytes);

// "1.72 MiB", "512 B": three significant digits.
std::string HumanBytes(double bytes);

}  // namespace lexico::base
